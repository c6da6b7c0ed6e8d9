"""Measures of single frames and of runs of neighbouring frames, averaged over a video.

Frames are taken one by one, so that the result does not depend on the chunks, bit for bit, and memory stays at a few
copies of one frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from vbench_eval.dimensions import Measured
from vbench_eval.dimensions.averaging import finite_mean, unmeasured
from vbench_eval.video_info import VideoInfo

LUMA = (0.299, 0.587, 0.114)  # of BT.601, as grey pictures are commonly made


def luma(frame: Tensor) -> Tensor:
    """Returns the grey picture `[H, W]`, float32, 0..255, of a frame `[H, W, 3]`, uint8 RGB."""
    return frame.float() @ torch.tensor(LUMA)


class OfFrames:
    """The mean over all frames of a measure of one frame.

    `measure` takes a frame `[H, W, 3]` uint8 and returns numbers by name; the one named "value" is the video's value,
    the others become details. `least_side` is the shortest side it can work on.
    """

    backbone = None

    def __init__(self, name: str, measure: Callable[[Tensor], Mapping[str, float]], *, least_side: int = 1) -> None:
        self.name, self.measure, self.least_side = name, measure, least_side

    def start(self, info: VideoInfo) -> _Frames:
        return _Frames(self)


class _Frames:
    def __init__(self, dimension: OfFrames) -> None:
        self._dimension = dimension
        self._numbers: dict[str, list[float]] = {}
        self._too_small: tuple[int, int] | None = None

    @torch.no_grad()
    def add(self, frames: Tensor) -> None:
        height, width = frames.shape[1:3]
        if min(height, width) < self._dimension.least_side:
            self._too_small = (height, width)
            return
        for frame in frames:
            for name, number in self._dimension.measure(frame).items():
                self._numbers.setdefault(name, []).append(number)

    def finish(self) -> Measured:
        if self._too_small is not None:
            return too_small(self._dimension.name, self._dimension.least_side, self._too_small)
        if not self._numbers:
            return unmeasured("the video has no frame")
        details = {name: finite_mean(numbers) for name, numbers in self._numbers.items()}
        value = details.pop("value")
        if value is None:
            return unmeasured(f"{self._dimension.name} of a frame is not a finite number")
        return Measured(value, value, extras=details)


class OfRuns:
    """A measure of every run of `span` neighbouring frames, the runs starting `step` frames apart.

    `measure` takes the run's frames, each `[H, W, 3]` uint8, and returns a number; `conclude` turns the numbers of the
    whole video, at least one, into its value. A video shorter than `span` has no value.
    """

    backbone = None

    def __init__(
        self,
        name: str,
        span: int,
        measure: Callable[[Sequence[Tensor]], float],
        conclude: Callable[[Sequence[float]], Measured],
        *,
        step: int = 1,
    ) -> None:
        self.name, self.span, self.step = name, span, step
        self.measure, self.conclude = measure, conclude

    def start(self, info: VideoInfo) -> _Runs:
        return _Runs(self)


class _Runs:
    def __init__(self, dimension: OfRuns) -> None:
        self._dimension = dimension
        self._run: deque[Tensor] = deque(maxlen=dimension.span)
        self._seen = 0
        self._numbers: list[float] = []

    @torch.no_grad()
    def add(self, frames: Tensor) -> None:
        dimension = self._dimension
        for frame in frames:
            self._run.append(frame)
            self._seen += 1
            beyond = self._seen - dimension.span
            if beyond >= 0 and beyond % dimension.step == 0:
                self._numbers.append(dimension.measure(tuple(self._run)))
        if len(self._run) == dimension.span:
            self._run.popleft()  # every run ahead starts later
        self._run = deque((frame.clone() for frame in self._run), dimension.span)  # the chunk is not ours to keep

    def finish(self) -> Measured:
        if not self._numbers:
            return too_short(self._dimension.name, self._dimension.span, self._seen)
        return self._dimension.conclude(self._numbers)


def too_short(name: str, needed: int, frames: int) -> Measured:
    """Returns the result of a video of too few frames."""
    return unmeasured(f"{name} needs {needed} frames, the video has {frames}")


def too_small(name: str, needed: int, size: tuple[int, int]) -> Measured:
    """Returns the result of a video of too small frames; `size` is (height, width)."""
    return unmeasured(f"{name} needs frames of at least {needed}x{needed} pixels, these are {size[1]}x{size[0]}")


def mean_of(numbers: Sequence[float]) -> Measured:
    """Returns the plain mean as the value."""
    value = finite_mean(numbers)
    return Measured(value, value, extras={"worst": max(numbers)})


def share_of_likeness(differences: Sequence[float]) -> Measured:
    """Returns (255 - mean difference) / 255, for differences in grey levels, as motion_smoothness has it."""
    mean = finite_mean(differences)
    assert mean is not None  # means of absolute differences of integers are finite
    score = (255.0 - mean) / 255.0
    extras = {"mean_difference": mean, "worst_difference": max(differences), "count": len(differences)}
    return Measured(score, score, extras=extras)
