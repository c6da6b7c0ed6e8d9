"""Measuring what sampling costs: integers first, then ratios of CPU times taken in turn.

A shared machine is noisy: two times taken apart differ by 5 percent for no reason. So a time is only ever compared with
another one taken right before and right after it, and its ratio is given beside the ratio of those two.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


class HostReads(TorchDispatchMode):
    """While active, `total` counts the operations that wait for the device and read one number back."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.is_nonzero):
            self.total += 1
        return func(*args, **(kwargs or {}))


class Meter:
    """Watches networks from outside: their calls, the batch rows in them, and host reads between one call and the next.

    Attributes:
        calls: network calls.
        rows: batch rows over all calls (sample-forwards).
        reads_between: numbers read back to the host after one call and before the next.
    """

    def __init__(self, *networks: nn.Module) -> None:
        self.calls = self.rows = self.reads_between = 0
        self._networks = networks
        self._reads = HostReads()
        self._left: int | None = None

    @contextmanager
    def watching(self) -> Iterator[Meter]:
        hooks = [network.register_forward_pre_hook(self._enter, with_kwargs=True) for network in self._networks]
        hooks += [network.register_forward_hook(self._leave) for network in self._networks]
        try:
            with self._reads:
                yield self
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, network: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        latent = args[0] if args else kwargs["sample" if "sample" in kwargs else "hidden_states"]
        self.calls += 1
        self.rows += latent.shape[0]
        if self._left is not None:
            self.reads_between += self._reads.total - self._left

    def _leave(self, network: nn.Module, args: tuple, output: Any) -> None:
        self._left = self._reads.total


def recorded_calls(networks: Sequence[nn.Module], function: Callable[[], Any]) -> Callable[[], None]:
    """Run `function` once and return what repeats every call it made of the networks, and nothing else."""
    calls: list[tuple[nn.Module, tuple, dict[str, Any]]] = []

    def note(network: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        calls.append((network, args, kwargs))

    hooks = [network.register_forward_pre_hook(note, with_kwargs=True) for network in networks]
    try:
        function()
    finally:
        for hook in hooks:
            hook.remove()

    @torch.no_grad()
    def repeat() -> None:
        for network, args, kwargs in calls:
            network(*args, **kwargs)

    return repeat


def cpu_seconds(function: Callable[[], Any]) -> float:
    """The CPU time of this process that one call of `function` takes, in seconds."""
    start = time.process_time()
    function()
    return time.process_time() - start


def paired_ratio(measured: Callable[[], Any], reference: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """The median ratio measured / reference of CPU times, and the largest stray of the reference from itself.

    Each round runs reference, measured, reference: a drift of the machine cancels, and the two references show how far
    equal work differs (the A/A spread, as |ratio - 1|). Both functions are warmed up once.
    """
    measured(), reference()
    ratios, strays = [], []
    for _ in range(rounds):
        before, middle, after = cpu_seconds(reference), cpu_seconds(measured), cpu_seconds(reference)
        ratios.append(2 * middle / (before + after))
        strays.append(abs(after / before - 1))
    return statistics.median(ratios), max(strays)
