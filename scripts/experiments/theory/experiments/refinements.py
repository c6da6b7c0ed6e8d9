"""What each setting of a reflection does with the measured distance to the ideal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from experiments.theory.bed import (
    BOTH,
    FUSED,
    SCHEDULES,
    Bed,
    in_mode_std,
    logit_bed,
    mixtures_bed,
    mode_shares,
    noise,
    ratio_bed,
    run,
)
from experiments.theory.experiments.magnitude import measured
from experiments.theory.mixtures import IDEAL, STRONG, left_mass, normal_quantiles, two_modes, wasserstein
from w2sd_video.core import ReflectionConfig

STEPS = 20
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
EVERY = (1, 2, 3, 4, 6, 8)
WINDOWS = ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))
FIXED_POINTS, FIXED_STEPS = (0, 1, 2), (5, 8, 12, 20, 35, 50)
NOISES = (0.0, 0.005, 0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
CAPS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, None)
LAG_STEPS = (5, 8, 12, 20, 35, 50)
LOST = two_modes(0.0)  # a weak model that has lost the left mode altogether: its score there has no bound


def strength_numbers(schedules: Sequence[str] = SCHEDULES) -> dict[str, Any]:
    """The left mass and the distance over the strength, for a real mixture and for an exact ratio of 2; fused."""
    beds = {"mixture": logit_bed, "exact": ratio_bed}
    return {
        "strengths": list(STRENGTHS),
        "steps": STEPS,
        **{
            name: {
                weak: [measured(make(name), "w2sd", STEPS, replace(FUSED, strength=strength)) for strength in STRENGTHS]
                for weak, make in beds.items()
            }
            for name in schedules
        },
    }


def thinning_numbers(schedules: Sequence[str] = SCHEDULES) -> dict[str, Any]:
    """Every k-th reflection, also k times as strong, and reflections in one quarter of the steps; exact ratio of 2."""
    found: dict[str, Any] = {"every": list(EVERY), "windows": [list(window) for window in WINDOWS], "steps": STEPS}
    for name in schedules:
        bed = ratio_bed(name)

        def outcome(options: ReflectionConfig, bed: Bed = bed) -> dict[str, float]:
            return measured(bed, "w2sd", STEPS, options)

        found[name] = {
            "strong": measured(bed, "strong", STEPS),
            "every": [outcome(replace(FUSED, every=k)) for k in EVERY],
            "every, strength k": [outcome(replace(FUSED, every=k, strength=k)) for k in EVERY],
            "windows": [outcome(replace(FUSED, window=window)) for window in WINDOWS],
        }
    return found


def fixed_point_numbers(schedules: Sequence[str] = SCHEDULES) -> dict[str, Any]:
    """The distance over the steps for each number of fixed-point iterations, mode "paper"; exact ratio of 2."""
    return {
        "steps": list(FIXED_STEPS),
        **{
            name: {
                **{
                    str(n): [
                        measured(
                            ratio_bed(name),
                            "w2sd",
                            steps,
                            ReflectionConfig(fixed_point=n),
                        )
                        for steps in FIXED_STEPS
                    ]
                    for n in FIXED_POINTS
                },
                "fused": [measured(ratio_bed(name), "w2sd", steps) for steps in FIXED_STEPS],
            }
            for name in schedules
        },
    }


def noise_numbers(count: int = 4000, schedules: Sequence[str] = BOTH) -> dict[str, Any]:
    """Table 14 in miniature: distance and spread over k, the standard deviation of noise added to each x~ (T 50)."""
    found: dict[str, Any] = {"noises": list(NOISES), "steps": 50, "samples": count}
    x = noise(count, 1)
    for name in schedules:
        bed = ratio_bed(name)
        finals = [run(bed, "w2sd", x, 50, replace(FUSED, noise=k)).final for k in NOISES]
        found[name] = {
            "strong": wasserstein(run(bed, "strong", x, 50).final, IDEAL, 2),
            "distance": [wasserstein(final, IDEAL, 2) for final in finals],
            "std": [in_mode_std(final, IDEAL.means) for final in finals],
            "left": [left_mass(final) for final in finals],
        }
    return found


def lost_bed(name: str) -> Bed:
    return mixtures_bed(name, IDEAL, STRONG, LOST)


def cap_numbers(schedules: Sequence[str] = SCHEDULES) -> dict[str, Any]:
    """A weak model without the left mode: where the samples go, by cap (None: no cap), fused, T 50.

    "beyond" is the share of samples below -7, three standard deviations past the left mode; the ideal has .0007.
    """
    found: dict[str, Any] = {"caps": list(CAPS), "steps": 50}
    x = normal_quantiles()
    for name in schedules:
        bed = lost_bed(name)
        finals = [run(bed, "w2sd", x, 50, replace(FUSED, cap=cap)).final for cap in CAPS]
        found[name] = {
            "strong": measured(bed, "strong", 50),
            "left": [left_mass(final) for final in finals],
            "distance": [wasserstein(final, IDEAL, 2) for final in finals],
            "beyond": [(final < -7).double().mean().item() for final in finals],
        }
    return found


def lag_numbers(schedules: Sequence[str] = SCHEDULES) -> dict[str, Any]:
    """Lagging beside plain W2SD over its own evaluations, and what either does where there is no gap (T 50)."""
    settings = {"fused": FUSED, "paper": ReflectionConfig()}
    found: dict[str, Any] = {"steps": list(LAG_STEPS)}
    x = normal_quantiles()
    for name in schedules:
        bed, same = ratio_bed(name), ratio_bed(name, 1.0)
        plain = run(same, "strong", x, 50).final
        found[name] = {}
        for mode, setting in settings.items():
            for label, chosen in ((mode, setting), (f"{mode}, lag", replace(setting, lag=True))):
                found[name][label] = [measured(bed, "w2sd", steps, chosen) for steps in LAG_STEPS]
                idle = run(same, "w2sd", x, 50, chosen).final
                found[name][f"{label}, no gap"] = {
                    "left": mode_shares(idle, IDEAL.means)[0],
                    "shift": torch.sqrt((idle - plain).square().mean()).item(),
                }
    return found
