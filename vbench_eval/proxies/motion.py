"""Proxies of consistency, smoothness and stillness from pixel differences over time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vbench_eval.dimensions import Measured
from vbench_eval.dimensions.averaging import finite_mean
from vbench_eval.dimensions.flickering import mean_absolute_difference
from vbench_eval.profiles import Profile
from vbench_eval.proxies.streaming import OfRuns, luma, mean_of, share_of_likeness, too_short
from vbench_eval.video_info import VideoInfo

THUMBNAIL = 32
FLAT = 1e-3  # grey levels; below it the spread of a thumbnail is rounding (float32 luma of 255: 5e-5)
FROZEN = 0.5  # grey levels


def pixel_consistency(name: str, profile: Profile) -> PixelConsistency:
    """Returns the measure: s_t = (max(0, corr(F_{t-1}, F_t)) + max(0, corr(F_0, F_t))) / 2 of thumbnails, averaged."""
    return PixelConsistency(name)


def interp_smoothness_linear(name: str, profile: Profile) -> OfRuns:
    """Returns the measure: motion_smoothness with the mean of the two neighbours for a prediction."""
    return OfRuns(name, 3, _interpolation_error, share_of_likeness, step=2)


def acceleration(name: str, profile: Profile) -> OfRuns:
    """Returns the measure: mean |F_{t+1} - 2 F_t + F_{t-1}| / 255."""
    return OfRuns(name, 3, _second_difference, mean_of)


def jerk(name: str, profile: Profile) -> OfRuns:
    """Returns the measure: mean |F_{t+2} - 3 F_{t+1} + 3 F_t - F_{t-1}| / 255."""
    return OfRuns(name, 4, _third_difference, mean_of)


def frozen_frames(name: str, profile: Profile) -> OfRuns:
    """Returns the measure: the share of neighbours whose mean absolute difference is below half a grey level."""
    return OfRuns(name, 2, lambda run: mean_absolute_difference(run[0], run[1]), _share_below)


def _interpolation_error(run: Sequence[Tensor]) -> float:
    before, real, after = run
    # (a + b) // 2 without leaving uint8: what both have, and half of what one of them has. It cuts off the half, as
    # VBench does with a predicted frame.
    middle = (before & after) + ((before ^ after) >> 1)
    return mean_absolute_difference(middle, real)


def _second_difference(run: Sequence[Tensor]) -> float:
    a, b, c = (frame.short() for frame in run)
    return _mean_magnitude(a - 2 * b + c)


def _third_difference(run: Sequence[Tensor]) -> float:
    a, b, c, d = (frame.short() for frame in run)
    return _mean_magnitude(d - a + 3 * (b - c))


def _mean_magnitude(difference: Tensor) -> float:
    """Returns mean |difference| / 255 of integers, summed exactly."""
    return int(difference.abs_().sum(dtype=torch.int64)) / difference.numel() / 255.0


def _share_below(differences: Sequence[float]) -> Measured:
    share = sum(difference < FROZEN for difference in differences) / len(differences)
    return Measured(share, share, extras={"least_difference": min(differences), "count": len(differences)})


class PixelConsistency:
    """How alike the frames are as grey thumbnails of 32x32, by correlation, so that brightness alone does not count."""

    backbone = None

    def __init__(self, name: str) -> None:
        self.name = name

    def start(self, info: VideoInfo) -> _Thumbnails:
        return _Thumbnails(self.name)


class _Thumbnails:
    def __init__(self, name: str) -> None:
        self._name = name
        self._first: Tensor | None = None
        self._last: Tensor | None = None
        self._similarities: list[float] = []

    @torch.no_grad()
    def add(self, frames: Tensor) -> None:
        for frame in frames:
            current = thumbnail(frame)
            if self._first is None or self._last is None:
                self._first = current
            else:
                to_last, to_first = correlation(self._last, current), correlation(self._first, current)
                self._similarities.append((max(0.0, to_last) + max(0.0, to_first)) / 2)
            self._last = current

    def finish(self) -> Measured:
        if not self._similarities:
            return too_short(self._name, 2, 0 if self._first is None else 1)
        value = finite_mean(self._similarities)
        return Measured(value, value, extras={"lowest_pair": min(self._similarities)})


def thumbnail(frame: Tensor) -> Tensor:
    """Returns 32x32 local means of the luma, less their mean, as `[1024]`, float64."""
    small = F.adaptive_avg_pool2d(luma(frame)[None], THUMBNAIL).double().flatten()
    return small - small.mean()


def correlation(a: Tensor, b: Tensor) -> float:
    """Returns the cosine of two thumbnails; 1 if both are flat (they show the same nothing), 0 if only one is."""
    flat = FLAT * math.sqrt(a.numel())
    lengths = float(a.norm()), float(b.norm())
    if min(lengths) < flat:
        return float(max(lengths) < flat)
    return float(a @ b) / (lengths[0] * lengths[1])
