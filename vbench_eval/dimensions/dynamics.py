"""dynamic_degree: whether enough neighbouring frames, about 8 per second, show enough motion."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from vbench_eval.dimensions import Measured
from vbench_eval.dimensions.averaging import of_shape, refuse_small, unmeasured
from vbench_eval.profiles import Profile
from vbench_eval.protocols import FlowEstimator
from vbench_eval.resizing import pad_to_multiple, to_float, unpad
from vbench_eval.video_info import SAMPLED_FPS, VideoInfo, sampling_interval

LARGEST = 0.05  # the share of pixels whose motion speaks for the frame


def motion_threshold(height: int, width: int) -> float:
    """Returns the motion in pixels that a pair must exceed: 6 on a shorter side of 256."""
    return 6.0 * (min(height, width) / 256.0)


def moving_pairs_needed(frames: int) -> int:
    """Returns how many pairs must move for a video of that many kept frames: a quarter, halves rounded to even."""
    return round(4 * (frames / 16.0))


def largest_motion(flow: Tensor) -> float:
    """Returns the mean of the largest twentieth of the motions of a flow `[2, H, W]`, in its pixels."""
    motion = torch.hypot(*flow.float()).flatten()  # four times as quick as a norm along the first axis
    count = max(1, int(motion.numel() * LARGEST))  # upstream pads to 64 pixels at least, where the count is never 0
    return float(motion.topk(count).values.double().mean())


def kept_and_scaled(info: VideoInfo, profile: Profile) -> tuple[int, float]:
    """Returns k where every k-th frame of the video is kept, and by what its motions are multiplied."""
    if profile.normalise_fps:
        fps = info.average_fps or info.fps
        interval = sampling_interval(fps)
        return interval, fps / interval / SAMPLED_FPS if fps else 1.0
    return (1 if info.directory else sampling_interval(info.fps)), 1.0


def verdict(motions: Sequence[float], size: tuple[int, int], *, interval: int, profile: Profile) -> Measured:
    """Returns whether the video is dynamic by the largest motion of each pair of its kept frames, of `size` (h, w)."""
    kept, threshold = len(motions) + 1, motion_threshold(*size)
    needed = max(moving_pairs_needed(kept), profile.least_moving_pairs)
    count = sum(motion > threshold for motion in motions)
    # Upstream looks at the pairs one by one and says yes as soon as there are enough: with one pair and none needed
    # it says yes, with no pair at all it has nothing to look at and says no.
    dynamic = bool(motions) and count >= needed
    extras = {
        "max_flow": list(motions),
        "n": kept,
        "thres": threshold,
        "count": count,
        "count_num": needed,
        "interval": interval,
        "moving_share": count / len(motions) if motions else 0.0,
        "median_over_threshold": statistics.median(motions) / threshold if motions else 0.0,
    }
    return Measured(dynamic, float(dynamic), extras=extras)


class DynamicDegree:
    """True if at least `moving_pairs_needed` of the pairs of consecutive kept frames have a largest motion above the
    threshold. Of a folder of pictures all frames are kept.

    A profile that normalises the frame rate measures motion per 1/8 second: that of frames kept at another rate is
    scaled.
    """

    def __init__(self, name: str, profile: Profile, backbone: FlowEstimator) -> None:
        self.name, self.profile, self.backbone = name, profile, backbone

    def start(self, info: VideoInfo) -> _Motions:
        interval, scale = kept_and_scaled(info, self.profile)
        return _Motions(self, interval, scale=scale)


class _Motions:
    def __init__(self, dimension: DynamicDegree, interval: int, *, scale: float) -> None:
        self._dimension, self._interval, self._scale = dimension, interval, scale
        self._seen = 0
        self._last: Tensor | None = None  # the last kept frame, [H, W, 3]
        self._motions: list[float] = []

    @torch.no_grad()
    def add(self, frames: Tensor) -> None:
        start = -self._seen % self._interval  # kept are the frames 0, k, 2k, ... of the video
        self._seen += len(frames)
        for frame in frames[start :: self._interval]:
            if self._last is not None:
                self._motions.append(self._scale * self._motion(self._last, frame))
            self._last = frame
        self._last = None if self._last is None else self._last.clone()  # the chunk is not ours to keep

    def _motion(self, before: Tensor, after: Tensor) -> float:
        multiple = self._dimension.backbone.pad_multiple
        a, pads = pad_to_multiple(to_float(before[None]), multiple)
        b, _ = pad_to_multiple(to_float(after[None]), multiple)
        refuse_small(self._dimension.backbone, self._dimension.profile, a)
        flow = of_shape(self._dimension.backbone, self._dimension.backbone.flow(a, b), (1, 2, *a.shape[-2:]))
        return largest_motion((flow if self._dimension.profile.score_padding else unpad(flow, pads))[0])

    def finish(self) -> Measured:
        profile, motions = self._dimension.profile, self._motions
        if self._last is None:
            return unmeasured("the video has no frame")
        if not motions and profile.least_moving_pairs:
            return unmeasured(f"motion needs two frames; of {self._seen}, one in {self._interval} is kept")
        if not all(map(math.isfinite, motions)):
            return unmeasured(f"{self._dimension.backbone.name} gave motions that are not finite numbers")
        height, width = self._last.shape[:2]
        return verdict(motions, (height, width), interval=self._interval, profile=profile)
