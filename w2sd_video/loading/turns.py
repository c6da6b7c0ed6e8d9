"""Modules that are on the device in turns: each comes when it is called, and what it does not share with the one before
leaves. Nothing is copied back: weights do not change, so that the host keeps them all the time.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.utils import send_to_device
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary


class Turns:
    """Whose turn it is on `device`; modules that are dropped elsewhere are not kept alive."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._now: weakref.ref[nn.Module] | None = None
        self._host: Any = WeakTensorKeyDictionary()  # the weights that are on the device, as they are on the host

    def add(self, modules: Iterable[nn.Module]) -> None:
        """Modules take turns from now on; they are on the host."""
        for module in modules:
            add_hook_to_module(module, _Turn(self))

    def take(self, module: nn.Module | None) -> None:
        """It is a module's turn; None: nobody's."""
        before = None if self._now is None else self._now()
        if before is module:
            return
        staying = set() if module is None else {id(tensor) for tensor in _tensors(module)}
        for tensor in () if before is None else _tensors(before):
            if id(tensor) not in staying and tensor in self._host:
                waiting = self._host.pop(tensor)
                # Buffers may have changed.
                tensor.data = waiting if isinstance(tensor, nn.Parameter) else tensor.data.to(waiting.device)
        for tensor in () if module is None else _tensors(module):
            if tensor not in self._host:
                self._host[tensor] = tensor.data
                tensor.data = self.brought(tensor.data)
        self._now = None if module is None else weakref.ref(module)

    def brought(self, tensor: torch.Tensor) -> torch.Tensor:
        """Returns a tensor's values on the device."""
        return tensor.to(self.device, non_blocking=True)


class _Turn(ModelHook):  # type: ignore[misc]
    """Gives a module its turn whenever it is called."""

    def __init__(self, turns: Turns) -> None:
        self.turns, self.execution_device = turns, turns.device

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        self.turns.take(module)
        return send_to_device(args, self.execution_device), send_to_device(kwargs, self.execution_device)


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()
