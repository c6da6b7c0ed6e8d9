"""VBench's dimensions as streaming measurements: frames go in, chunk after chunk, and one value per video comes out.

    dimension = build("dynamic_degree", get_profile("vbench"), flow_estimator)
    accumulator = dimension.start(video.info)
    for frames in video.chunks():
        accumulator.add(frames)
    measured = accumulator.finish()

How the frames are cut into chunks changes nothing. No accumulator keeps more than two frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from vbench_eval.errors import UserError
from vbench_eval.profiles import Profile

if TYPE_CHECKING:
    from torch import Tensor

    from vbench_eval.video_info import VideoInfo

OFFICIAL = (
    "subject_consistency",
    "background_consistency",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
    "temporal_flickering",
)


@dataclass(frozen=True)
class Measured:
    """One dimension of one video.

    Attributes:
        value: as VBench writes it per video (imaging_quality 0..100, dynamic_degree true or false); None, with
            `reason`, where there is none.
        score: the same on the scale that is averaged: 0..1 for the official dimensions, a proxy's own unit for proxies.
        weight: the video's weight in VBench's average over videos; it counts only if the profile is `frame_weighted`.
        extras: details, all of them JSON. VBENCH_EXTRAS says which of them VBench writes too.
        reason: why there is no value.
    """

    value: float | bool | None
    score: float | None
    weight: float = 1.0
    extras: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "extras": dict(self.extras)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measured:
        return cls(**data)


VBENCH_EXTRAS: Mapping[str, tuple[str, ...]] = {"background_consistency": ("video_sim", "cnt_per_video")}


class Accumulator(Protocol):
    """The measurement of one video; frames arrive in order, in chunks of any size."""

    def add(self, frames: Tensor) -> None:
        """Takes the next frames, `[n, H, W, 3]`, uint8 RGB on the CPU, n >= 1. They may be overwritten afterwards."""
        ...

    def finish(self) -> Measured:
        """Returns the result over all frames; called once, after the last `add`."""
        ...


class Dimension(Protocol):
    """A measurement with its backbone, ready for any number of videos."""

    name: str
    backbone: Any | None

    def start(self, info: VideoInfo) -> Accumulator: ...


_CLASSES = {
    "subject_consistency": "Consistency",
    "background_consistency": "Consistency",
    "motion_smoothness": "MotionSmoothness",
    "dynamic_degree": "DynamicDegree",
    "aesthetic_quality": "Quality",
    "imaging_quality": "Quality",
    "temporal_flickering": "TemporalFlickering",
}
BACKBONE_KINDS: Mapping[str, str | None] = {
    "subject_consistency": "FrameEncoder",
    "background_consistency": "FrameEncoder",
    "motion_smoothness": "FrameInterpolator",
    "dynamic_degree": "FlowEstimator",
    "aesthetic_quality": "FrameScorer",
    "imaging_quality": "FrameScorer",
    "temporal_flickering": None,
}


def build(name: str, profile: Profile, backbone: Any | None = None) -> Dimension:
    """Returns the dimension of that name.

    Raises UserError if there is none, or if the backbone is not of the kind in BACKBONE_KINDS.
    """
    from vbench_eval import protocols

    if name not in OFFICIAL:
        raise UserError(f"dimension is {name!r}; choose one of {', '.join(OFFICIAL)}")
    kind = BACKBONE_KINDS[name]
    if kind is not None and not isinstance(backbone, getattr(protocols, kind)):
        raise UserError(
            f"{name} needs a {kind}, got {type(backbone).__name__}; see vbench_eval.protocols.{kind} for what it offers"
        )
    return getattr(import_module(f"{__name__}.formulas"), _CLASSES[name])(name, profile, backbone)
