"""What the benchmarks share: integers first, then ratios of CPU times taken in turn; the table, JSON and the verdict.

A shared machine is noisy: two times taken apart differ by 5 percent for no reason. So a time is only ever compared with
another one taken right before and right after it, and its ratio is given beside the ratio of those two.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# --- instruments ------------------------------------------------------------------------------------------------------


class HostReads(TorchDispatchMode):
    """While active, `total` counts the operations that wait for the device and read one number back."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.is_nonzero):
            self.total += 1
        return func(*args, **(kwargs or {}))


class LiveBytes(TorchDispatchMode):
    """While active, counts the bytes of tensors on one kind of device that operations make and that are still held.

    Attributes:
        now, peak: those held, and the most that were.
    """

    def __init__(self, device: str, known: Iterable[Tensor] = ()) -> None:
        """`known` are tensors that are not counted when operations return them."""
        super().__init__()
        self.now = self.peak = 0
        self._device = device
        self._seen: dict[int, Any] = dict.fromkeys(tensor.untyped_storage()._cdata for tensor in known)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.device.type == self._device:
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self.now += size
        self.peak = max(self.peak, self.now)

        def gone(_: Any) -> None:
            self.now -= size
            self._seen.pop(key, None)

        self._seen[key] = weakref.ref(storage, gone)


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


def paired_ratio(
    measured: Callable[[], Any],
    reference: Callable[[], Any],
    rounds: int,
    seconds: Callable[[Callable[[], Any]], float] = cpu_seconds,
) -> tuple[float, float]:
    """The median ratio measured / reference of times, and the largest stray of the reference from itself.

    `seconds` takes the time of a call; CPU time is of no use for what an accelerator does.

    Each round runs reference, measured, reference: a drift of the machine cancels, and the two references show how far
    equal work differs (the A/A spread, as |ratio - 1|). Both functions are warmed up once.
    """
    measured(), reference()
    ratios, strays = [], []
    for _ in range(rounds):
        before, middle, after = seconds(reference), seconds(measured), seconds(reference)
        ratios.append(2 * middle / (before + after))
        strays.append(abs(after / before - 1))
    return statistics.median(ratios), max(strays)


# --- rows -------------------------------------------------------------------------------------------------------------

LIBRARIES = ("torch", "diffusers")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    `target` is what the value must equal (counts) or stay below (ratios), None where nothing is asked; `spread` is how
    far the same thing measured twice strays from itself.
    """

    id: str
    what: str
    value: float
    target: float | None = None
    passed: bool = True
    spread: float | None = None


def equal(id: str, what: str, value: float, target: float) -> Row:
    """A count, which must be its target."""
    return Row(id, what, value, target, value == target)


def at_most(id: str, what: str, value: float, target: float | None, spread: float | None = None) -> Row:
    """A ratio, which must not be above its target by more than its own spread."""
    return Row(id, what, value, target, target is None or value <= target + (spread or 0.0), spread)


def table(rows: Sequence[Row]) -> str:
    """The rows as text for people."""
    lines = []
    for row in rows:
        value = f"{row.value:.0f}" if row.value == int(row.value) else f"{row.value:.4g}"
        bound = "" if row.target is None else f"{row.target:.4g}"
        spread = "" if row.spread is None else f"+-{row.spread:.3f}"
        verdict = "" if row.target is None else ("ok" if row.passed else "OFF")
        lines.append(f"{row.id:<12} {row.what:<84} {value:>10} {spread:>8} {bound:>8} {verdict:>4}")
    head = f"{'id':<12} {'what':<84} {'value':>10} {'A/A':>8} {'target':>8}"
    return "\n".join([head, "-" * len(head), *lines])


def bench_parser(about: str | None, *, output: str, parts: Sequence[str], quick: str | None) -> argparse.ArgumentParser:
    """The parser of a benchmark: the flags that they have in common."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    if quick is not None:
        parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--only", choices=parts, help="measure one of the parts")
    parser.add_argument("--output", type=Path, default=Path(output), help=f"where the JSON goes (default {output})")
    return parser


def claim(parser: argparse.ArgumentParser, output: Path) -> None:
    """Makes sure that `output` can be written, before anything is measured; else the parser's error (exit code 2)."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.touch()
    except OSError as error:
        parser.error(f"cannot write {output} ({error.strerror}); choose another --output")


def report(rows: Sequence[Row], output: Path, settings: Mapping[str, Any]) -> int:
    """Prints the table, writes the rows as JSON, and returns the exit code: 1 if a target was missed."""
    print(table(rows))
    passed = all(row.passed for row in rows)
    versions = {name: metadata.version(name) for name in LIBRARIES}
    machine = {"python": platform.python_version(), "machine": platform.machine(), "threads": 1}
    document = {
        "passed": passed,
        "settings": {**settings, **versions, **machine},
        "rows": [asdict(row) for row in rows],
    }
    output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0 if passed else 1
