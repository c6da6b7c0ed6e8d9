"""temporal_flickering: how little neighbouring frames differ. Made for videos in which nothing should move."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from vbench_eval.dimensions import Measured
from vbench_eval.dimensions.averaging import finite_mean, unmeasured
from vbench_eval.profiles import Profile
from vbench_eval.video_info import VideoInfo


def mean_absolute_difference(a: Tensor, b: Tensor) -> float:
    """Returns the mean of |a - b| over all entries of two uint8 tensors on the CPU, counted in integers."""
    larger, smaller = np.maximum(a.numpy(), b.numpy()), np.minimum(a.numpy(), b.numpy())
    difference = np.subtract(larger, smaller, out=larger)
    return int(difference.sum(dtype=np.int64)) / difference.size  # torch takes ten times as long for this sum


class TemporalFlickering:
    """(255 - the mean over t of mean |F_{t+1} - F_t|) / 255; no backbone."""

    backbone = None

    def __init__(self, name: str, profile: Profile, backbone: None = None) -> None:
        self.name, self.profile = name, profile

    def start(self, info: VideoInfo) -> _Differences:
        return _Differences()


class _Differences:
    def __init__(self) -> None:
        self._last: Tensor | None = None
        self._differences: list[float] = []

    def add(self, frames: Tensor) -> None:
        for frame in frames:
            if self._last is not None:
                self._differences.append(mean_absolute_difference(self._last, frame))
            self._last = frame
        self._last = frames[-1].clone()  # the chunk itself must not be kept alive, nor is it ours

    def finish(self) -> Measured:
        if not self._differences:
            return unmeasured("temporal flickering needs two frames, the video has one")
        mean = finite_mean(self._differences)
        assert mean is not None  # differences of integers are finite
        score = (255.0 - mean) / 255.0
        return Measured(score, score)
