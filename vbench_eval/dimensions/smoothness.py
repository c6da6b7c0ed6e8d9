"""motion_smoothness: how well every other frame is foretold by its neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from vbench_eval.dimensions import Measured
from vbench_eval.dimensions.averaging import finite_mean, of_shape, refuse_small, unmeasured
from vbench_eval.dimensions.flickering import mean_absolute_difference
from vbench_eval.profiles import Profile
from vbench_eval.protocols import FrameInterpolator
from vbench_eval.resizing import pad_to_multiple, to_float, unpad
from vbench_eval.video_info import VideoInfo


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
