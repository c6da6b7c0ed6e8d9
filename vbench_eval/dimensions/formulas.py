"""VBench's formulas: consistency, quality, smoothness, flickering and dynamic degree, each a stream of frames.

What they share comes first: results of the right shape, means that are numbers, and videos that have no value.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vbench_eval.dimensions import Measured
from vbench_eval.errors import UserError
from vbench_eval.profiles import Profile, is_vbench
from vbench_eval.protocols import Backbone, FlowEstimator, FrameEncoder, FrameInterpolator, FrameScorer
from vbench_eval.resizing import pad_to_multiple, to_float, unpad
from vbench_eval.video_info import SAMPLED_FPS, VideoError, VideoInfo, sampling_interval


def unmeasured(reason: str) -> Measured:
    """Returns a result without a value, saying why; it takes no part in any average."""
    return Measured(None, None, weight=0.0, reason=reason)


def finite_mean(values: Sequence[float]) -> float | None:
    """Returns the mean, summed exactly, of at least one value; None if one of them is not finite."""
    if not all(map(math.isfinite, values)):
        return None
    return math.fsum(values) / len(values)


def refuse_small(backbone: Backbone, profile: Profile, frames: Tensor) -> None:
    """Raises VideoError for padded frames [1, 3, H, W] on which VBench's own code divides by zero.

    Networks with a pyramid of correlations (RAFT, AMT) say in `vbench_side` from which side on VBench's code works:
    below, the coarsest level is one pixel wide and its coordinates 2 x / (W - 1) - 1 are no numbers. On a CPU every
    flow and every interpolated frame of VBench's own code is NaN there, at all sides from 64 to 120: it calls every
    video still, and compares with black frames. Our code gives finite numbers, which are not VBench's: no value.
    """
    height, width = frames.shape[-2:]
    least = getattr(backbone, "vbench_side", 0)
    if is_vbench(profile) and min(height, width) < least:
        raise VideoError(
            f"frames are {width}x{height} with padding; below {least} pixels VBench's own {backbone.name} divides by "
            "zero, so there is no number to compare with: use the profile fixed"
        )


def of_shape(backbone: Backbone, result: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Returns what a backbone gave; raises UserError if it is not of the shape that its protocol promises."""
    if tuple(result.shape) != shape:
        raise UserError(f"{backbone.name} gave a result of shape {tuple(result.shape)}; it must be {shape}")
    return result


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


class Consistency:
    """Frame features f_t compared by cosine: s_t = (max(0, f_{t-1}.f_t) + max(0, f_0.f_t)) / 2 for t >= 1; the video's
    value is their mean, its weight their number. The two dimensions differ in their backbone alone.
    """

    def __init__(self, name: str, profile: Profile, backbone: FrameEncoder) -> None:
        self.name, self.profile, self.backbone = name, profile, backbone

    def start(self, info: VideoInfo) -> _Pairs:
        return _Pairs(self)


class _Pairs:
    def __init__(self, dimension: Consistency) -> None:
        self._dimension = dimension
        self._first: Tensor | None = None  # unit features [1, dim] of the first frame and of the last one seen
        self._last: Tensor | None = None
        self._similarities: list[float] = []

    @torch.no_grad()
    def add(self, frames: Tensor) -> None:
        encoder = self._dimension.backbone
        features = of_shape(encoder, encoder.encode(frames), (len(frames), encoder.dim))
        features = F.normalize(features.float().cpu(), dim=-1)
        if self._first is None or self._last is None:
            self._first = self._last = features[:1].clone()
            features = features[1:]
        if not len(features):
            return
        before = torch.cat([self._last, features[:-1]])
        # Cosines of vectors that are unit already, as upstream: a zero vector stays zero and is like nothing.
        to_previous = F.cosine_similarity(before, features).clamp(min=0).tolist()
        to_first = F.cosine_similarity(self._first, features).clamp(min=0).tolist()
        self._similarities += [(p + f) / 2 for p, f in zip(to_previous, to_first, strict=True)]
        self._last = features[-1:].clone()

    def finish(self) -> Measured:
        pairs = self._similarities
        if not pairs:
            return unmeasured("consistency needs two frames, the video has one")
        mean = finite_mean(pairs)
        if mean is None:
            return unmeasured(f"{self._dimension.backbone.name} gave features that are not finite numbers")
        lowest = min(range(len(pairs)), key=pairs.__getitem__)
        extras = {
            "video_sim": sum(pairs),
            "cnt_per_video": len(pairs),
            "lowest_pair": pairs[lowest],
            "lowest_pair_frame": lowest + 1,  # the second frame of the pair, counted from 0
        }
        return Measured(mean, mean, weight=float(len(pairs)), extras=extras)


class Quality:
    """The mean over frames of what a frame scorer says, on its nominal scale from 0 to 1 and not clamped to it.

    VBench writes imaging_quality per video as 0..100 and averages it as 0..1; aesthetic_quality is 0..1 in both.
    """

    def __init__(self, name: str, profile: Profile, backbone: FrameScorer) -> None:
        self.name, self.profile, self.backbone = name, profile, backbone

    def start(self, info: VideoInfo) -> _Scores:
        return _Scores(self)


class _Scores:
    def __init__(self, dimension: Quality) -> None:
        self._dimension = dimension
        self._scores: list[float] = []

    @torch.no_grad()
    def add(self, frames: Tensor) -> None:
        scorer = self._dimension.backbone
        self._scores += of_shape(scorer, scorer.score(frames), (len(frames),)).float().tolist()

    def finish(self) -> Measured:
        scorer = self._dimension.backbone
        if not self._scores:
            return unmeasured("the video has no frame")
        mean = finite_mean(self._scores)
        if mean is None:
            return unmeasured(f"{scorer.name} gave scores that are not finite numbers")
        score = (mean - scorer.low) / (scorer.high - scorer.low)
        value = 100 * score if self._dimension.name == "imaging_quality" else score
        extras = {"lowest_frame": min(self._scores), "highest_frame": max(self._scores), "mean_of_scorer": mean}
        return Measured(value, score, extras=extras)


class MotionSmoothness:
    """For each odd frame with two even neighbours: d = the mean |interpolated - real| in grey levels; the video's value
    is (255 - mean d) / 255. All frames count, at their own size and rate; 16 frames make 7 comparisons.
    """

    def __init__(self, name: str, profile: Profile, backbone: FrameInterpolator) -> None:
        self.name, self.profile, self.backbone = name, profile, backbone

    def start(self, info: VideoInfo) -> _Midpoints:
        return _Midpoints(self.backbone, self.profile)


def as_uint8(picture: Tensor) -> Tensor:
    """Returns a picture of 0..1 as uint8: what is outside is clipped, fractions are cut off and not rounded."""
    return (picture.float().cpu() * 255.0).clamp(0, 255).to(torch.uint8)


class _Midpoints:
    def __init__(self, interpolator: FrameInterpolator, profile: Profile) -> None:
        self._interpolator, self._profile = interpolator, profile
        self._even: Tensor | None = None  # the last frame of even index, and the odd one after it, [H, W, 3]
        self._odd: Tensor | None = None
        self._differences: list[float] = []
        self._broken = False

    @torch.no_grad()
    def add(self, frames: Tensor) -> None:
        for frame in frames:
            if self._even is None:
                self._even = frame
            elif self._odd is None:
                self._odd = frame
            else:
                self._compare(self._even, self._odd, frame)
                self._even, self._odd = frame, None
        self._even = None if self._even is None else self._even.clone()  # the chunk is not ours to keep
        self._odd = None if self._odd is None else self._odd.clone()

    def _compare(self, before: Tensor, real: Tensor, after: Tensor) -> None:
        multiple = self._interpolator.pad_multiple
        a, pads = pad_to_multiple(to_float(before[None]) / 255.0, multiple)
        b, _ = pad_to_multiple(to_float(after[None]) / 255.0, multiple)
        refuse_small(self._interpolator, self._profile, a)
        middle = of_shape(self._interpolator, self._interpolator.midpoint(a, b), tuple(a.shape))
        middle = unpad(middle, pads)[0].permute(1, 2, 0)
        if not bool(torch.isfinite(middle).all()):
            self._broken = True  # an integer would hide it
            return
        self._differences.append(mean_absolute_difference(as_uint8(middle), real))

    def finish(self) -> Measured:
        if self._broken:
            return unmeasured(f"{self._interpolator.name} gave a frame that is not all finite numbers")
        mean = finite_mean(self._differences) if self._differences else None
        if mean is None:
            return unmeasured("motion smoothness needs three frames, the video has fewer")
        score = (255.0 - mean) / 255.0
        extras = {"mean_difference": mean, "worst_difference": max(self._differences), "count": len(self._differences)}
        return Measured(score, score, extras=extras)


LARGEST = 0.05  # the share of pixels whose motion speaks for the frame


def motion_threshold(height: int, width: int) -> float:
    """Returns the motion in pixels that a pair must exceed: 6 on a shorter side of 256."""
    return 6.0 * (min(height, width) / 256.0)


def moving_pairs_needed(frames: int) -> int:
    """Returns how many pairs must move for a video of that many kept frames: a quarter, halves rounded to even."""
    return round(4 * (frames / 16.0))


def largest_motion(flow: Tensor, share: float = LARGEST) -> float:
    """Returns the mean of the largest twentieth, or another share, of the motions of a flow `[2, H, W]`, in pixels."""
    motion = torch.hypot(*flow.float()).flatten()  # four times as quick as a norm along the first axis
    count = max(1, int(motion.numel() * share))  # upstream pads to 64 pixels at least, where the count is never 0
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
