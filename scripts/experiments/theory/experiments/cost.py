"""What a method reaches for the evaluations it costs (Figure 14, Table 16)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.theory.bed import SCHEDULES, logit_bed, ratio_bed
from experiments.theory.experiments.magnitude import measured
from w2sd_video.core import ReflectionConfig

STANDARD_STEPS = (10, 20, 30, 50, 100)
STEPS = (4, 6, 10, 16, 25, 50)
METHODS = {  # label: method, mode
    "strong": ("strong", "fused"),
    "paper": ("w2sd", "paper"),
    "fused": ("w2sd", "fused"),
    "autoguided": ("autoguided", "fused"),
}
WEAK = {"exact": ratio_bed, "mixture": logit_bed}


def matched_numbers(schedules: Sequence[str] = SCHEDULES) -> dict[str, Any]:
    """Equal evaluations as the paper matches them: T = floor(T_std / 2), lambda = floor(T / 2).

    For T_std 50 that is 25 + 2 * 12 = 49; the paper writes 24 + 24 = 48. Auto-guidance takes 2 T.
    """
    found: dict[str, Any] = {"standard_steps": list(STANDARD_STEPS)}
    for name in schedules:
        bed = ratio_bed(name)
        rows: dict[str, list[dict[str, float]]] = {label: [] for label in METHODS}
        for standard in STANDARD_STEPS:
            for label, (method, mode) in METHODS.items():
                steps = standard if label == "strong" else standard // 2
                rows[label].append(
                    measured(bed, method, steps, ReflectionConfig(mode=mode, num_reflections=steps // 2))
                )
        found[name] = rows
    return found


def per_evaluation_numbers(schedules: Sequence[str] = SCHEDULES) -> dict[str, Any]:
    """The distance to the ideal over evaluations, all steps but the last reflected; both kinds of weak model."""
    return {
        "steps": list(STEPS),
        **{
            name: {
                weak: {
                    label: [measured(make(name), method, steps, ReflectionConfig(mode=mode)) for steps in STEPS]
                    for label, (method, mode) in METHODS.items()
                }
                for weak, make in WEAK.items()
            }
            for name in schedules
        },
    }
