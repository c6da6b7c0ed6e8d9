"""VBench's dimensions as streaming measurements: frames go in, chunk after chunk, and one value per video comes out.

    dimension = build("dynamic_degree", get_profile("vbench"), flow_estimator)
    accumulator = dimension.start(video.info)
    for frames in video.chunks():
        accumulator.add(frames)
    measured = accumulator.finish()

How the frames are cut into chunks changes nothing. No accumulator keeps more than two frames at their full size.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vbench_eval.detections import LIKE, asked_phrases
from vbench_eval.errors import UserError
from vbench_eval.profiles import Profile
from vbench_eval.video_info import About

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
"""VBench's dimensions of quality: they need no prompt."""
SEMANTIC = ("appearance_style", "temporal_style", "overall_consistency", "human_action", "scene")
"""Those of its dimensions of meaning that are computed here: they need the prompt, or the suite's words for it."""
I2V = ("i2v_subject", "i2v_background")
"""VBench-I2V's: they need the picture that the video was made from."""
MEASURED = (*OFFICIAL, *SEMANTIC, *I2V)


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


VBENCH_EXTRAS: Mapping[str, tuple[str, ...]] = {
    "background_consistency": ("video_sim", "cnt_per_video"),
    "appearance_style": ("frame_results", "cur_sim"),
    "human_action": ("cor_num_per_video",),
    "scene": ("success_frame_count", "frame_count"),
}


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
    "subject_consistency": "formulas.Consistency",
    "background_consistency": "formulas.Consistency",
    "motion_smoothness": "formulas.MotionSmoothness",
    "dynamic_degree": "formulas.DynamicDegree",
    "aesthetic_quality": "formulas.Quality",
    "imaging_quality": "formulas.Quality",
    "temporal_flickering": "formulas.TemporalFlickering",
    "appearance_style": "semantic.AppearanceStyle",
    "temporal_style": "semantic.PromptConsistency",
    "overall_consistency": "semantic.PromptConsistency",
    "human_action": "semantic.HumanAction",
    "scene": "semantic.Scene",
    "i2v_subject": "image_to_video.KeepsToPicture",
    "i2v_background": "image_to_video.KeepsToPicture",
}
BACKBONE_KINDS: Mapping[str, str | None] = {
    "subject_consistency": "FrameEncoder",
    "background_consistency": "FrameEncoder",
    "motion_smoothness": "FrameInterpolator",
    "dynamic_degree": "FlowEstimator",
    "aesthetic_quality": "FrameScorer",
    "imaging_quality": "FrameScorer",
    "temporal_flickering": None,
    "appearance_style": "TextScorer",
    "temporal_style": "VideoTextEncoder",
    "overall_consistency": "VideoTextEncoder",
    "human_action": "ActionRecogniser",
    "scene": "Captioner",
    "i2v_subject": "PictureEncoder",
    "i2v_background": "PictureEncoder",
}


def asked_text(name: str, about: About) -> str | None:
    """Returns what the dimension asks whether a video shows it, None if nobody says: the prompt, or the words of the
    prompt suite that belong to the dimension. Of other dimensions it is None.
    """
    if name in ("appearance_style", "scene"):
        words = about.words.get(name)
        found = words.get(name) if isinstance(words, Mapping) else None
        return found if isinstance(found, str) else None
    if name == "human_action" and about.prompt is not None:  # VBench takes it from the file's name, so far as here
        return about.prompt.lower().split("-")[0].split("person is ")[-1].split("_")[0]
    if name in I2V:
        try:
            return (
                None if about.picture is None else f"{Path(about.picture).name}, {os.path.getsize(about.picture)} bytes"
            )
        except OSError:
            return None
    if name in LIKE:
        phrases = asked_phrases(name, about)
        return None if phrases is None else ", ".join(phrases)
    return about.prompt if name in SEMANTIC or name.startswith("judge_") else None


def build(name: str, profile: Profile, backbone: Any | None = None) -> Dimension:
    """Returns the dimension of that name.

    Raises UserError if there is none, or if the backbone is not of the kind in BACKBONE_KINDS.
    """
    from vbench_eval import protocols

    if name not in MEASURED:
        raise UserError(f"dimension is {name!r}; choose one of {', '.join(MEASURED)}")
    kind = BACKBONE_KINDS[name]
    if kind is not None and not isinstance(backbone, getattr(protocols, kind)):
        raise UserError(
            f"{name} needs a {kind}, got {type(backbone).__name__}; see vbench_eval.protocols.{kind} for what it offers"
        )
    module, _, kind = _CLASSES[name].partition(".")
    return getattr(import_module(f"{__name__}.{module}"), kind)(name, profile, backbone)
