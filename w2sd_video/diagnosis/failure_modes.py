"""The paper's two failure modes, named by thresholds that were measured (imports no torch)."""

from __future__ import annotations

from dataclasses import dataclass

from w2sd_video.diagnosis.thresholds import calibration


@dataclass(frozen=True)
class Thresholds:
    """Of the gap between the clean estimates over the size of a sample, mean over levels (`Measured.clean_gap`), and of
    the growth of a sample by the reflections (`Measured.growth`).
    """

    similar_below: float
    gap_above: float
    growth_above: float


def thresholds() -> Thresholds:
    """Returns the measured ones."""
    return Thresholds(**calibration()["thresholds"])


def failures(gap: float, growth: float, limits: Thresholds) -> tuple[str, ...]:
    """Returns the failure modes of a pair: "over-similarity", "conflict", or none.

    Over-similarity: the clean estimates differ by so little that a reflection has nothing to follow. Conflict: they
    differ by as much as samples themselves do, or the reflections throw samples out of the range of the strong side's.
    (The cosine of successive gaps tells neither: exact models in conflict have gaps as coherent as healthy ones.)
    """
    found = []
    if gap < limits.similar_below:
        found.append("over-similarity")
    if gap > limits.gap_above or growth > limits.growth_above or gap != gap:
        found.append("conflict")
    return tuple(found)
