"""Bytes alive at the peak of a computation without values (on the meta device), attention in one pass."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Live(TorchDispatchMode):
    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: dict[int, Any] = dict.fromkeys(known)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "meta":
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.seen:
            return
        self.now += size
        self.peak = max(self.peak, self.now)

        def gone(_: Any) -> None:
            self.now -= size
            self.seen.pop(key, None)

        self.seen[key] = weakref.ref(storage, gone)


def _attention(query: Any, key: Any, value: Any, *args: Any, **settings: Any) -> torch.Tensor:
    return torch.empty(*query.shape[:-1], value.shape[-1], dtype=query.dtype, device=query.device)


def activations(make: Callable[[], Any], call: Callable[[Any], Any], dtype: torch.dtype) -> int:
    """Returns the bytes alive at the peak of `call` of the module that `make` makes, beside its weights."""
    with pytest.MonkeyPatch.context() as patch, torch.device("meta"), torch.no_grad():
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", _attention)
        module = make().to(dtype).eval()
        held = [*module.parameters(), *module.buffers()]
        with _Live({tensor.untyped_storage()._cdata for tensor in held}) as live:
            call(module)
    return live.peak
