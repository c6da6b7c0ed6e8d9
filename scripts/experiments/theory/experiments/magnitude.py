"""How far the weak model must be from the strong one (Figures 12 and 13, and where Theorem 3 draws the line)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.theory.bed import BOTH, FUSED, Bed, logit_bed, ratio_bed, run
from experiments.theory.mixtures import IDEAL, left_mass, normal_quantiles, wasserstein
from w2sd_video.core import ReflectionConfig

RATIOS = (-2.0, -1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
STEPS = 50
CURVES = {  # label: family of weak models, method, mode
    "fused": ("exact", "w2sd", "fused"),
    "paper": ("exact", "w2sd", "paper"),
    "autoguided": ("exact", "autoguided", "fused"),
    "fused, mixture": ("mixture", "w2sd", "fused"),
}


def measured(bed: Bed, method: str, num_steps: int, options: ReflectionConfig = FUSED) -> dict[str, float]:
    """The left mass, its distance W2 to the ideal mixture, and the evaluations of one run from 1000 quantiles."""
    done = run(bed, method, normal_quantiles(), num_steps, options)
    return {
        "left": left_mass(done.final),
        "distance": wasserstein(done.final, IDEAL, 2),
        "evaluations": done.evaluations,
    }


def magnitude_numbers(schedules: Sequence[str] = BOTH) -> dict[str, Any]:
    """The left mass and the distance to the ideal over the gap, ratio - 1: the weak model's bias less the strong's.

    The gap is in units of the strong model's bias: 0 is equal models, 1 is Theorem 2's epsilon 0, below 0 the weak
    model is the better one. Weak models are of the exact ratio, or genuine mixtures of the same two modes.
    """
    found: dict[str, Any] = {"gaps": [ratio - 1 for ratio in RATIOS], "steps": STEPS}
    for name in schedules:
        curves: dict[str, dict[str, list[float]]] = {}
        for label, (family, method, mode) in CURVES.items():
            make = ratio_bed if family == "exact" else logit_bed
            points = [measured(make(name, ratio), method, STEPS, ReflectionConfig(mode=mode)) for ratio in RATIOS]
            curves[label] = {key: [point[key] for point in points] for key in ("left", "distance")}
        found[name] = {"curves": curves, "strong": measured(ratio_bed(name), "strong", STEPS)}
    return found
