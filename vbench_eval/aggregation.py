"""From videos to one number per dimension, and from those to VBench's quality, semantic and total scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vbench_eval.dimensions import Measured
from vbench_eval.errors import UserError
from vbench_eval.profiles import Profile, get_profile


@dataclass(frozen=True)
class Scale:
    """How VBench's leaderboard takes a dimension: (x - low) / (high - low), unclamped, with this weight."""

    low: float
    high: float
    weight: float = 1.0


QUALITY: Mapping[str, Scale] = {
    "subject_consistency": Scale(0.1462, 1.0),
    "background_consistency": Scale(0.2615, 1.0),
    "temporal_flickering": Scale(0.6293, 1.0),
    "motion_smoothness": Scale(0.706, 0.9975),
    "dynamic_degree": Scale(0.0, 1.0, weight=0.5),
    "aesthetic_quality": Scale(0.0, 1.0),
    "imaging_quality": Scale(0.0, 1.0),
}
SEMANTIC: Mapping[str, Scale] = {
    "object_class": Scale(0.0, 1.0),
    "multiple_objects": Scale(0.0, 1.0),
    "human_action": Scale(0.0, 1.0),
    "color": Scale(0.0, 1.0),
    "spatial_relationship": Scale(0.0, 1.0),
    "scene": Scale(0.0, 0.8222),
    "appearance_style": Scale(0.0009, 0.2855),
    "temporal_style": Scale(0.0, 0.364),
    "overall_consistency": Scale(0.0, 0.364),
}
QUALITY_WEIGHT, SEMANTIC_WEIGHT = 4.0, 1.0
PER_PAIR = ("subject_consistency", "background_consistency")
"""The dimensions that VBench averages over pairs of frames, not over videos."""
PER_FRAME = ("appearance_style", "scene")
"""Those that it averages over frames."""


PAIRS, FRAMES = "mean over pairs of frames", "mean over frames"


@dataclass(frozen=True)
class Partial:
    """A score over several dimensions, and over which: one over some of them is no substitute for the whole.

    `value` is None where it cannot be formed; `present` and `missing` are in VBench's order.
    """

    name: str
    value: float | None
    present: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not self.missing

    @property
    def label(self) -> str:
        """Returns "quality score", or "quality score over 6 of 7 (partial)"."""
        if self.complete:
            return f"{self.name} score"
        return f"{self.name} score over {len(self.present)} of {len(self.present) + len(self.missing)} (partial)"

    def to_json(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "value": self.value,
            "complete": self.complete,
            "present": list(self.present),
            "missing": list(self.missing),
        }


def aggregate(name: str, measured: Iterable[Measured], profile: Profile | str) -> float | None:
    """Returns the dimension's number over videos, on the scale of `Measured.score` (0..1 for official dimensions: the
    share of dynamic videos, imaging quality divided by 100); None if no video has a score.

    What the profile has among `frame_weighted` weighs each video by its pairs of frames, or its frames; all else is the
    mean over videos. The order of the videos does not matter, to the last bit.
    """
    profile = get_profile(profile) if isinstance(profile, str) else profile
    scored = [(one.score, one.weight) for one in measured if one.score is not None and math.isfinite(one.score)]
    if name not in profile.frame_weighted:
        scored = [(score, 1.0) for score, _ in scored]
    total = math.fsum(weight for _, weight in scored)
    return math.fsum(score * weight for score, weight in scored) / total if total > 0 else None


def rule(name: str, profile: Profile | str) -> str:
    """Returns in words how `aggregate` averages this dimension."""
    profile = get_profile(profile) if isinstance(profile, str) else profile
    if name in ("dynamic_degree", "human_action"):
        return "share of videos"
    if name not in profile.frame_weighted:
        return (
            "mean over videos' last frames" if profile.last_frame and name == "appearance_style" else "mean over videos"
        )
    return PAIRS if name in PER_PAIR else FRAMES


def normalise(name: str, value: float) -> float:
    """Returns the aggregate (0..1) on the leaderboard's scale; it may leave 0..1, as VBench does not clamp it.

    Raises UserError for a name that is none of VBench's 16 dimensions.
    """
    scale = _scale(name)
    return (value - scale.low) / (scale.high - scale.low)


def normalised(aggregates: Mapping[str, float | None]) -> dict[str, float]:
    """Returns `normalise` of each of VBench's dimensions that has a value; other names are left out."""
    return {
        name: normalise(name, value)
        for name in (*QUALITY, *SEMANTIC)
        if (value := aggregates.get(name)) is not None and math.isfinite(value)
    }


def quality_score(aggregates: Mapping[str, float | None]) -> Partial:
    """Returns the weighted mean of the normalised quality dimensions (7, dynamic_degree at half weight).

    Of dimensions without a value none is taken for 0: the mean is over those present, and says so.
    """
    return _weighted("quality", QUALITY, aggregates)


def semantic_score(aggregates: Mapping[str, float | None]) -> Partial:
    """Returns the mean of the 9 normalised semantic dimensions, over those present."""
    return _weighted("semantic", SEMANTIC, aggregates)


def total_score(aggregates: Mapping[str, float | None]) -> Partial:
    """Returns (4 quality + semantic) / 5; without a value if either has no dimension at all."""
    quality, semantic = quality_score(aggregates), semantic_score(aggregates)
    value = None
    if quality.value is not None and semantic.value is not None:
        value = (QUALITY_WEIGHT * quality.value + SEMANTIC_WEIGHT * semantic.value) / (QUALITY_WEIGHT + SEMANTIC_WEIGHT)
    return Partial("total", value, (*quality.present, *semantic.present), (*quality.missing, *semantic.missing))


def _weighted(name: str, scales: Mapping[str, Scale], aggregates: Mapping[str, float | None]) -> Partial:
    values = {key: value for key, value in normalised(aggregates).items() if key in scales}
    weights = math.fsum(scales[key].weight for key in values)
    score = math.fsum(scales[key].weight * value for key, value in values.items()) / weights if values else None
    return Partial(name, score, tuple(values), tuple(key for key in scales if key not in values))


def _scale(name: str) -> Scale:
    scale = QUALITY.get(name) or SEMANTIC.get(name)
    if scale is None:
        raise UserError(f"VBench has no dimension {name!r} to normalise; it has {', '.join((*QUALITY, *SEMANTIC))}")
    return scale
