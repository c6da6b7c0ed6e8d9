"""Re-Sampling as a reflection by noise (Figure 28, Table 15), and models whose roles a reward picks (Algorithm 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from experiments.theory.bed import BOTH, FUSED, Bed, drawing, logit_bed, mixtures_bed, mode_shares, noise, run
from experiments.theory.experiments import plane
from experiments.theory.experiments.plane import cosines
from experiments.theory.mixtures import IDEAL, STRONG, Mixture, left_mass, two_modes, wasserstein
from w2sd_video.core import AutoSelect, CustomReflection, Level, Observed, ReflectionConfig, Resample, Selector, sample

STEPS, SAMPLES, GROUPS = 20, 4000, 5
REFLECTIONS = (0, 1, 2, 3, 5, 8, 12, 19)
METHODS = ("resample", "resample-aligned", "resample-opposed", "w2sd")
PAIRS = {"same bias": (STRONG, two_modes(0.1)), "complementary": (two_modes(0.8), two_modes(0.2))}
CLEAN = Level(0, 1.0, 0.0)


def rare_share(bed: Bed, x: Tensor) -> float:
    """The share of the mode that both models neglect: the first."""
    return mode_shares(x, bed.target.means)[0]


def alignment_numbers(bed: Bed, dimensions: int) -> dict[str, list[float]]:
    """Plain Re-Sampling (Alg. 3), samples grouped by how well their noise happened to agree with W2SD's move.

    Agreement is the mean cosine over all reflected steps between the noise drawn and the fused move at that latent.
    Returns, for `GROUPS` equal groups: the mean cosine and the share that ends in the neglected mode.
    """
    levels, path = bed.levels(STEPS), bed.path
    drawn: list[Tensor] = []
    cosine: list[Tensor] = []
    draw = drawing(1)

    def kept(x: Tensor) -> Tensor:
        drawn.append(draw(x))
        return drawn[-1]

    def compared(i: int, x: Tensor, _: Tensor) -> None:
        gap = bed.weak(x, levels[i]) - bed.strong(x, levels[i])
        cosine.append(cosines(drawn[-1], path.gap_coefficient(levels[i], levels[i + 1]) * gap))

    reflection = Observed(Resample(levels, bed.strong, path, noise_sampler=kept), compared)
    final = sample(noise(SAMPLES, dimensions), levels, bed.strong, path, reflect=reflection)
    mean = torch.stack(cosine).mean(0)
    order = mean.argsort().chunk(GROUPS)
    return {
        "cosine": [mean[group].mean().item() for group in order],
        "share": [rare_share(bed, final[group]) for group in order],
    }


def resampling_numbers(schedules: Sequence[str] = BOTH) -> dict[str, Any]:
    """Figure 28's claim within Alg. 3, and what Alg. 3 and 4, its control and W2SD make of lambda reflections."""
    found: dict[str, Any] = {"steps": STEPS, "samples": SAMPLES, "reflections": list(REFLECTIONS)}
    for name in schedules:
        line = logit_bed(name)
        found[name] = {
            "aligned": {"line": alignment_numbers(line, 1), "plane": alignment_numbers(plane.bed(name), 2)},
            "strong": rare_share(line, run(line, "strong", noise(SAMPLES, 1), STEPS).final),
            "by_reflections": {
                method: [
                    rare_share(line, run(line, method, noise(SAMPLES, 1), STEPS, ReflectionConfig(lam, "fused")).final)
                    for lam in REFLECTIONS
                ]
                for method in METHODS
            },
        }
    return found


def literal_resampling(bed: Bed, x: Tensor, num_steps: int) -> Tensor:
    """Alg. 3 as printed: what Add_Noise gets is x_t, which holds its noise already."""
    levels, noise_sampler = bed.levels(num_steps), drawing(0)
    printed = CustomReflection(levels, lambda x, start, _: bed.path.renoise(x, noise_sampler(x), start))
    return sample(x, levels, bed.strong, bed.path, reflect=printed)


def misprint_numbers(schedules: Sequence[str] = BOTH) -> dict[str, Any]:
    """Spread and distance to the strong model's data: Alg. 3 noising x_{t-1} back, and as printed."""
    x = noise(SAMPLES, 1)
    found: dict[str, Any] = {"steps": STEPS, "samples": SAMPLES}
    for name in schedules:
        bed = logit_bed(name)
        finals = {
            "sampled once": sample(x, bed.levels(STEPS), bed.strong, bed.path),
            "noised back": run(bed, "resample", x, STEPS).final,
            "as printed": literal_resampling(bed, x, STEPS),
        }
        found[name] = {
            label: {"std": final.std().item(), "distance": wasserstein(final, STRONG, 2)}
            for label, final in finals.items()
        }
    return found


def reward(x: Tensor) -> Tensor:
    """The log density of clean samples [N, 1] under the ideal mixture."""
    return IDEAL.log_density(x, CLEAN)


def auto_numbers(schedules: Sequence[str] = BOTH) -> dict[str, Any]:
    """Algorithm 2 with the log density as reward, beside each model alone and both fixed choices of roles.

    For two pairs: both models lack the left mode; or each lacks another one. `second` is the share of choices that took
    the second model as the strong one.
    """
    found: dict[str, Any] = {"steps": STEPS, "samples": SAMPLES}
    for name in schedules:
        found[name] = {label: _auto(name, *pair) for label, pair in PAIRS.items()}
    return found


def _auto(name: str, first: Mixture, second: Mixture) -> dict[str, Any]:
    bed, x = mixtures_bed(name, IDEAL, first, second), noise(SAMPLES, 1)
    turned = mixtures_bed(name, IDEAL, second, first)
    levels, path, selector = bed.levels(STEPS), bed.path, Selector(reward)
    selecting = AutoSelect(levels, bed.strong, bed.weak, path, selector, FUSED)
    finals = {
        "model 1": sample(x, levels, bed.strong, path),
        "model 2": sample(x, levels, bed.weak, path),
        "W2SD, 1 strong": run(bed, "w2sd", x, STEPS).final,
        "W2SD, 2 strong": run(turned, "w2sd", x, STEPS).final,
        "auto": sample(x, levels, selecting.strong, path, reflect=selecting),
    }
    outcomes: dict[str, Any] = {
        label: {
            "left": left_mass(final),
            "distance": wasserstein(final, IDEAL, 2),
            "reward": reward(final).mean().item(),
        }
        for label, final in finals.items()
    }
    return {**outcomes, "second": torch.stack(selector.choices).double().mean().item()}
