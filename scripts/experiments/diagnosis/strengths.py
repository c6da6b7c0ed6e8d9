"""Which strength serves a gap of which size, measured on healthy analytic pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.diagnosis.analytic import FAMILIES, pair_of
from w2sd_video.diagnosis.measuring import measure

STRENGTHS = (0.5, 1.0, 1.5, 2.0)
TARGETS = (0.1, 0.15, 0.2, 0.25, 0.3)
Row = tuple[float, float, dict[float, float]]
"""The gap of a pair, the strong side's distance to the ideal, and W2SD's by strength."""


def measured_pair(family: str, seed: int, schedule: str, num_steps: int) -> Row:
    """Returns one pair's row; half of the steps are reflected, in mode "fused"."""
    pair = pair_of(family, seed, schedule, num_steps)
    distances = [pair.distances(num_steps // 2, strength) for strength in STRENGTHS]
    moved = {strength: after for strength, (_, after) in zip(STRENGTHS, distances, strict=True)}
    return float(measure(pair).clean_gap.mean()), distances[0][0], moved


def strength_rule(rows: Sequence[Row]) -> dict[str, Any]:
    """Returns the target of the rule "strength = target / gap, from 1 to 2" that serves every other pair best, and what
    it comes to on the others: the mean distance to the ideal over the strong side's, beside strength 1 throughout.
    """
    targets = {target: _left(rows[::2], target) for target in TARGETS}
    best = min(targets, key=lambda target: targets[target])
    held = rows[1::2]
    return {
        "target": best,
        "pairs": len(held),
        "left_at_strength_1": round(_left(held, 0.0), 4),
        "left_by_the_rule": round(_left(held, best), 4),
    }


def healthy() -> tuple[str, ...]:
    """The families that the rule is measured on."""
    return tuple(name for name, family in FAMILIES.items() if family.kind == "healthy")


def _left(rows: Sequence[Row], target: float) -> float:
    """The mean share of the strong side's distance that is left by the rule; strength 1 throughout for target 0."""
    shares = []
    for gap, alone, moved in rows:
        strength = min(max(target / gap, 1.0), 2.0)
        shares.append(float(np.interp(strength, STRENGTHS, [moved[known] for known in STRENGTHS])) / alone)
    return float(np.mean(shares))
