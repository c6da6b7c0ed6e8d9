"""What a call reports while it runs: counts, latents that are not finite, progress over evaluations."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from w2sd_video.errors import UserError


@dataclass
class Counter:
    """Network calls and batch rows so far, evaluations of a side (a guided one counts once), and ControlNet calls."""

    forwards: int = 0
    rows: int = 0
    evaluations: int = 0
    control_calls: int = 0


@dataclass
class Run:
    """Counts of the latest pipeline call inside `with reflected(...)`; all zero before the first.

    Attributes:
        num_steps: steps made (fewer than asked for after an interrupt).
        num_reflections: reflections made.
        num_skipped: reflections left out because the weak model knows no level so noisy (only through pixels).
        num_encodes, num_decodes: passes of pictures or videos through a VAE's halves inside reflections: through
            pixels, and to be rewarded (two for each selection, of the frames that are rewarded).
        choices: of each selection of method "w2sd-auto", of each sample, whether the second (weak) side was taken as
            the strong one; reading it waits for the device.
        notes: what the user should know about how it was done.
        host: "record" or "replay", how the pipeline was hosted (see `reflected`); "" before the first call.
    """

    num_steps: int = 0
    num_reflections: int = 0
    num_skipped: int = 0
    num_encodes: int = 0
    num_decodes: int = 0
    notes: list[str] = field(default_factory=list)
    host: str = ""
    _counter: Counter = field(default_factory=Counter, repr=False)
    _gaps: list[Tensor] = field(default_factory=list, repr=False)
    _choices: list[Tensor] = field(default_factory=list, repr=False)

    @property
    def num_evaluations(self) -> int:
        """Evaluations of a side; a guided one counts once: T + 2 lambda for W2SD (`ReflectionConfig.evaluations`).

        Where the samples of a batch choose different sides, each side is evaluated on all of them.
        """
        return self._counter.evaluations

    @property
    def num_forwards(self) -> int:
        """Calls of a denoising network."""
        return self._counter.forwards

    @property
    def num_rows(self) -> int:
        """Batch rows through a denoising network (sample-forwards), the unit of cost; a guided evaluation is two."""
        return self._counter.rows

    @property
    def num_control_calls(self) -> int:
        """Calls of a ControlNet, each of several counted; they are not among the forwards and rows."""
        return self._counter.control_calls

    @property
    def choices(self) -> list[list[bool]]:
        return [chosen.tolist() for chosen in self._choices]

    @property
    def gaps(self) -> list[float]:
        """The norm ||x~ - x|| of each reflection's move, over the whole latent; reading it waits for the device."""
        return [float(gap) for gap in self._gaps]

    def note(self, message: str) -> None:
        """Adds to `notes` what is not among them yet."""
        if message not in self.notes:
            self.notes.append(message)

    def reset(self) -> None:
        self.num_steps = self.num_reflections = self.num_skipped = self.num_encodes = self.num_decodes = 0
        self._counter = Counter()
        self._gaps, self._choices = [], []


class NonFiniteLatentError(UserError):
    """A latent became NaN or infinite: `step` counts from 1, `where` says in which part of the step."""

    def __init__(self, step: int, num_steps: int, where: str, cause: str) -> None:
        super().__init__(f"the latent is not finite after {where} of step {step} of {num_steps}; {cause}")
        self.step = step
        self.where = where


class FiniteWatch:
    """Collects flags, and reads those that have arrived: on a GPU some steps late, on a CPU at once."""

    def __init__(self, num_steps: int, cause: str) -> None:
        self._num_steps = num_steps
        self._cause = cause
        self._pending: deque[tuple[Callable[[], UserError], Tensor, Any]] = deque()

    def add(self, step: int, where: str, x: Tensor) -> None:
        """Notes whether `x`, made in step `step` (from 0), is finite; raises for one noted earlier that was not."""
        self.expect(x.isfinite().all(), lambda: NonFiniteLatentError(step + 1, self._num_steps, where, self._cause))

    def expect(self, flag: Tensor, error: Callable[[], UserError]) -> None:
        """Notes a flag, whose error is raised once it has arrived and is false."""
        device, arrival = flag.device.type, None
        if flag.is_cuda:
            host = torch.empty((), dtype=torch.bool, pin_memory=True)
            host.copy_(flag, non_blocking=True)
            flag, arrival = host, torch.cuda.Event()
            arrival.record()
        self._pending.append((error, flag, arrival))
        if device in ("cpu", "cuda"):
            self._read(wait=False)

    def finish(self) -> None:
        """Reads every flag that is left; raises the error of the first that is false."""
        self._read(wait=True)

    def _read(self, wait: bool) -> None:
        while self._pending:
            error, flag, arrival = self._pending[0]
            if arrival is not None and not arrival.query():
                if not wait:
                    return
                arrival.synchronize()
            self._pending.popleft()
            if not flag.cpu().numpy():
                raise error()


def likely_cause(dtype: torch.dtype) -> str:
    """Returns what to try, for a network that runs in `dtype`."""
    if dtype == torch.float16:
        return "float16 overflows in many networks: use bfloat16 or float32, or a lower guidance"
    return (
        "try a lower guidance (a negative weak guidance can diverge), fewer reflections, or check the network's weights"
    )


class EvaluationBar:
    """Stands in for the bar a pipeline makes: its own updates are ignored, `advance` is called once per evaluation."""

    def __init__(
        self, bar: Any, iterable: Iterable | None, total: int, report: Callable[[int, int], None] | None
    ) -> None:
        self._bar = bar
        self._iterable = iterable
        self._total = total
        self._report = report
        self._done = 0

    def advance(self, count: int = 1) -> None:
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        if self._report is not None:
            self._report(self._done, self._total)

    def __enter__(self) -> EvaluationBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator:
        yield from () if self._iterable is None else self._iterable
        self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __getattr__(self, _name: str) -> Callable[..., None]:
        # update, set_postfix, set_description ... of the bar over steps
        return lambda *_args, **_kwargs: None


@contextmanager
def progress_bar_replaced(pipe: Any, make: Callable[[Iterable | None, int], EvaluationBar]) -> Iterator[None]:
    """While active, `pipe.progress_bar` returns make(iterable, number of steps)."""

    def progress_bar(iterable: Any = None, total: int | None = None) -> EvaluationBar:
        return make(iterable, total if total is not None else len(iterable))

    before = vars(pipe).get("progress_bar")
    pipe.progress_bar = progress_bar
    try:
        yield
    finally:
        if before is None:
            del pipe.progress_bar
        else:
            pipe.progress_bar = before
