"""Measures that follow optical flow, each pair of frames estimated once for all of them."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from vbench_eval.dimensions import Measured
from vbench_eval.dimensions.formulas import kept_and_scaled, largest_motion, of_shape, unmeasured, verdict
from vbench_eval.profiles import Profile
from vbench_eval.protocols import FlowEstimator
from vbench_eval.proxies.flow import HornSchunck, sampled, shorter_side_at_most
from vbench_eval.proxies.frames import share_of_likeness, too_short, too_small
from vbench_eval.resizing import pad_to_multiple, unpad
from vbench_eval.video_info import VideoInfo

SIDE = 256  # pixels of the shorter side that flow measures work at; smaller frames are taken as they are
LEAST_SIDE = 32  # pixels; of less, nothing would be left without the margin
TOGETHER = 8  # pairs handed to the estimator at a time: 6 MB of float32 frames


@dataclass(frozen=True, eq=False)
class Small:
    """A frame of at most 256 pixels on its shorter side, and what is needed to speak of it at its own size.

    Attributes:
        pixels: `[3, h, w]`, uint8.
        key: equal for equal pixels.
        size: (height, width) of the frame as it came.
    """

    pixels: Tensor
    key: bytes
    size: tuple[int, int]

    @classmethod
    def of(cls, frame: Tensor) -> Small:
        """Returns the small form of a frame `[H, W, 3]`, uint8; a copy, never a view of it."""
        height, width = frame.shape[:2]
        size = shorter_side_at_most(height, width, SIDE)
        pixels = frame.permute(2, 0, 1)
        if size != (height, width):
            pixels = F.interpolate(pixels[None], size, mode="bilinear", align_corners=False, antialias=True)[0]
        pixels = pixels.contiguous()  # which copies, as the channels were last
        key = hashlib.blake2b(pixels.numpy(), digest_size=16, key=repr(size).encode())
        return cls(pixels, key.digest(), (height, width))


class Field:
    """A flow `[2, h, w]` in pixels of the small frames; lives as long as somebody holds it."""

    __slots__ = ("__weakref__", "flow")

    def __init__(self, flow: Tensor) -> None:
        self.flow = flow


class Fields:
    """The flows of one estimator. Those that some measure still holds are not computed again.

    A measure that keeps the fields of one chunk until it is given the next one shares them with all measures that are
    given the same chunk in between. What is held is at most 2.7 times the bytes of the chunk for the flow between
    neighbours and half of that for the flow over two frames, and far less where frames are made small.
    """

    def __init__(self, estimator: FlowEstimator) -> None:
        self.estimator = estimator
        self._held: WeakValueDictionary[tuple[bytes, bytes], Field] = WeakValueDictionary()

    def between(self, pairs: Sequence[tuple[Small, Small]]) -> list[Field]:
        """Returns the flow from the first frame of each pair to its second."""
        keys = [(a.key, b.key) for a, b in pairs]
        found = {key: field for key in keys if (field := self._held.get(key)) is not None}
        missing = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in found}
        wanted = list(missing.items())
        for start in range(0, len(wanted), TOGETHER):
            group = wanted[start : start + TOGETHER]
            flows = self._estimated([pair for _, pair in group])
            for (key, _), flow in zip(group, flows, strict=True):
                found[key] = self._held[key] = Field(flow.clone())
        return [found[key] for key in keys]

    def _estimated(self, pairs: Sequence[tuple[Small, Small]]) -> Tensor:
        befores, afters = (torch.stack([pair[side].pixels for pair in pairs]).float() for side in (0, 1))
        a, pads = pad_to_multiple(befores, self.estimator.pad_multiple)
        b, _ = pad_to_multiple(afters, self.estimator.pad_multiple)
        flow = of_shape(self.estimator, self.estimator.flow(a, b), (len(pairs), 2, *a.shape[-2:]))
        return unpad(flow, pads).float().cpu()


_SHARED: WeakValueDictionary[Any, Fields] = WeakValueDictionary()


def shared_fields(estimator: FlowEstimator) -> Fields:
    """Returns the one `Fields` of that estimator (equal settings are the same estimator), new if nobody holds it."""
    try:
        hash(estimator)
        key: Any = estimator
    except TypeError:
        key = id(estimator)  # its `Fields` keep it alive, so that the number stays its own
    fields = _SHARED.get(key)
    if fields is None:
        fields = _SHARED[key] = Fields(estimator)
    return fields


def interior(pictures: Tensor) -> Tensor:
    """Returns pictures `[..., h, w]` without their margin of max(8, 5 %) pixels, where flow meets what came into view
    from outside.
    """
    height, width = pictures.shape[-2:]
    top, left = (max(8, int(0.05 * side)) for side in (height, width))
    return pictures[..., top : height - top, left : width - left]


LEAST_TRUSTED = 0.01  # the share of pixels below which warp_error would speak of next to nothing


class FlowMeasure:
    """A measure of runs of frames by the flow between some of them; `begin` makes its accumulator."""

    def __init__(
        self,
        name: str,
        profile: Profile,
        backbone: FlowEstimator | None,
        begin: Callable[[FlowMeasure, VideoInfo], _Runs],
    ) -> None:
        self.name, self.profile = name, profile
        self.backbone: Any = backbone  # the protocol's attributes are mutable, a frozen dataclass's are not
        if backbone is None:
            self.backbone = HornSchunck()
        self.fields: Fields = shared_fields(self.backbone)
        self._begin = begin

    def start(self, info: VideoInfo) -> _Runs:
        return self._begin(self, info)


def flow_dynamic(name: str, profile: Profile, backbone: FlowEstimator | None = None) -> FlowMeasure:
    """Returns the measure: dynamic_degree's rule on this flow. Motions are rescaled to the frame's own pixels, and the
    largest twentieth is taken inside the margin.
    """
    return FlowMeasure(name, profile, backbone, _Dynamic)


def interp_smoothness_flow(name: str, profile: Profile, backbone: FlowEstimator | None = None) -> FlowMeasure:
    """Returns the measure: motion_smoothness, every other frame being predicted by moving both its neighbours halfway
    along the flow between them. The prediction is rounded to whole grey levels.
    """
    return FlowMeasure(name, profile, backbone, _Interpolation)


def warp_error(name: str, profile: Profile, backbone: FlowEstimator | None = None) -> FlowMeasure:
    """Returns the measure: mean |F_t - F_{t+1} read where the flow says| / 255 over all pixels and pairs where the flow
    can be trusted: it stays in the frame, and the flow back returns to within a pixel or so.
    """
    return FlowMeasure(name, profile, backbone, _WarpError)


class _Runs(ABC):
    """Runs of `span` small frames, one every `step` frames, of which every `interval`-th frame is taken."""

    span, step = 2, 1

    def __init__(self, measure: FlowMeasure, info: VideoInfo) -> None:
        self._measure = measure
        self._interval = 1
        self._seen = 0
        self._kept: list[Small] = []  # those that runs ahead need
        self._taken = 0  # frames that were taken so far, of which `_kept` are the last
        self._fields: list[Field] = []  # held until the next chunk, so that other measures find them
        self._size: tuple[int, int] | None = None

    @torch.no_grad()
    def add(self, frames: Tensor) -> None:
        height, width = (int(side) for side in frames.shape[1:3])
        self._size = (height, width)
        start = -self._seen % self._interval
        self._seen += len(frames)
        if min(height, width) < LEAST_SIDE:
            return
        new = [Small.of(frame) for frame in frames[start :: self._interval]]
        first = self._taken - len(self._kept)  # the index, among the taken, of the first that is here
        here, self._taken = self._kept + new, self._taken + len(new)
        runs = [here[i : i + self.span] for i in range(len(here) - self.span + 1) if (first + i) % self.step == 0]
        if runs:
            groups = [runs[i : i + TOGETHER] for i in range(0, len(runs), TOGETHER)]
            self._fields = [field for group in groups for field in self._look(group)]
        self._kept = here[max(0, len(here) - self.span + 1) :]

    @abstractmethod
    def _look(self, runs: Sequence[Sequence[Small]]) -> list[Field]:
        """Measures the runs, and returns the fields that other measures may ask for."""

    @abstractmethod
    def _conclude(self) -> Measured:
        """Returns the result of at least one run."""

    def finish(self) -> Measured:
        self._fields = []
        name = self._measure.name
        if self._size is not None and min(self._size) < LEAST_SIDE:
            return too_small(name, LEAST_SIDE, self._size)
        if self._taken < self.span:
            if self._seen > self._taken:
                return unmeasured(f"{name} needs {self.span} frames; of {self._seen}, one in {self._interval} is taken")
            return too_short(name, self.span, self._seen)
        return self._conclude()


class _Dynamic(_Runs):
    def __init__(self, measure: FlowMeasure, info: VideoInfo) -> None:
        super().__init__(measure, info)
        self._interval, self._scale = kept_and_scaled(info, measure.profile)
        self._motions: list[float] = []

    def _look(self, runs: Sequence[Sequence[Small]]) -> list[Field]:
        fields = self._measure.fields.between([(a, b) for a, b in runs])
        for (small, _), field in zip(runs, fields, strict=True):
            ratio = [there / here for there, here in zip(small.size, small.pixels.shape[1:], strict=True)]
            motion = interior(field.flow) * torch.tensor(ratio[::-1]).view(2, 1, 1)
            self._motions.append(self._scale * largest_motion(motion))
        return fields

    def _conclude(self) -> Measured:
        motions = self._motions
        if not all(map(math.isfinite, motions)):
            return unmeasured(f"{self._measure.backbone.name} gave motions that are not finite numbers")
        assert self._size is not None
        return verdict(motions, self._size, interval=self._interval, profile=self._measure.profile)


class _Interpolation(_Runs):
    span, step = 3, 2

    def __init__(self, measure: FlowMeasure, info: VideoInfo) -> None:
        super().__init__(measure, info)
        self._differences: list[float] = []

    def _look(self, runs: Sequence[Sequence[Small]]) -> list[Field]:
        fields = self._measure.fields.between([(before, after) for before, _, after in runs])
        for (before, real, after), field in zip(runs, fields, strict=True):
            middle = interior(midpoint(before.pixels[None].float(), after.pixels[None].float(), field.flow[None])[0])
            difference = middle.round() - interior(real.pixels)
            self._differences.append(float(difference.abs_().double().mean()))
        return fields

    def _conclude(self) -> Measured:
        if not all(map(math.isfinite, self._differences)):
            return unmeasured(f"{self._measure.backbone.name} gave motions that are not finite numbers")
        return share_of_likeness(self._differences)


class _WarpError(_Runs):
    def __init__(self, measure: FlowMeasure, info: VideoInfo) -> None:
        super().__init__(measure, info)
        self._errors: list[float] = []  # sums over the trusted pixels of a pair, and how many these are
        self._trusted: list[int] = []
        self._pixels = 0

    def _look(self, runs: Sequence[Sequence[Small]]) -> list[Field]:
        forward = self._measure.fields.between([(a, b) for a, b in runs])
        backward = self._measure.fields.between([(b, a) for a, b in runs])
        for (a, b), there, back in zip(runs, forward, backward, strict=True):
            flow = there.flow[None]
            trusted = interior(trusted_pixels(flow, back.flow[None])[0])
            error = sampled(b.pixels[None].float(), flow)[0].sub_(a.pixels).abs_().mean(0)
            self._errors.append(float(interior(error)[trusted].double().sum()))
            self._trusted.append(int(trusted.sum()))
            self._pixels += trusted.numel()
        return forward

    def _conclude(self) -> Measured:
        trusted, name = sum(self._trusted), self._measure.backbone.name
        if trusted < LEAST_TRUSTED * self._pixels:
            return unmeasured(f"{name} is to be trusted in {trusted} of {self._pixels} pixels only")
        if not all(map(math.isfinite, self._errors)):
            return unmeasured(f"{name} gave motions that are not finite numbers")
        value = math.fsum(self._errors) / trusted / 255.0
        return Measured(value, value, extras={"trusted_share": trusted / self._pixels, "count": len(self._errors)})


def midpoint(before: Tensor, after: Tensor, flow: Tensor) -> Tensor:
    """Returns the frame halfway between two `[B, 3, h, w]`, each moved half of `flow` `[B, 2, h, w]` towards the other.

    What is at x halfway through was at x - flow / 2, so the flow is read there.
    """
    here = sampled(flow, -flow / 2)
    return (sampled(before, -here / 2) + sampled(after, here / 2)) / 2


def trusted_pixels(forward: Tensor, backward: Tensor) -> Tensor:
    """Returns where `forward` `[B, 2, h, w]` ends in the frame and `backward` leads back, as `[B, h, w]` booleans.

    Back is: the squared gap is below 0.01 of both squared motions plus half a pixel (Sundaram, Brox and Keutzer 2010).
    """
    height, width = forward.shape[-2:]
    x, y = torch.arange(width) + forward[:, 0], torch.arange(height)[:, None] + forward[:, 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    back = sampled(backward, forward)
    gap = (forward + back).square().sum(1)
    return inside & (gap < 0.01 * (forward.square().sum(1) + back.square().sum(1)) + 0.5)
