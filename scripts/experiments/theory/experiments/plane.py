"""Four modes in the plane: how they are filled, and which way each model points (Figures 6 and 27)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from experiments.theory.bed import SCHEDULES, Bed, divergence, mixtures_bed, mode_shares, noise, run
from experiments.theory.mixtures import Mixture
from w2sd_video.core import Level

MEANS = ((-4.0, -4.0), (-4.0, 4.0), (4.0, -4.0), (4.0, 4.0))
IDEAL = Mixture(MEANS, (0.25, 0.25, 0.25, 0.25))
STRONG = Mixture(MEANS, (0.08, 0.24, 0.24, 0.44))
CLEAN = Level(0, 1.0, 0.0)
STEPS, SAMPLES = 20, 4000
METHODS = ("weak", "strong", "w2sd", "swapped", "autoguided", "ideal")


def squared(mixture: Mixture) -> Mixture:
    """The weak model: weights as its squares over the ideal's (all equal), as for the mixtures on a line."""
    weights = [weight**2 for weight in mixture.weights]
    return Mixture(mixture.means, tuple(weight / sum(weights) for weight in weights), mixture.std)


WEAK = squared(STRONG)


def bed(name: str) -> Bed:
    return mixtures_bed(name, IDEAL, STRONG, WEAK)


def grid(extent: float = 8.0, points: int = 81) -> Tensor:
    """The coordinates of a square grid along one axis, [points]."""
    return torch.linspace(-extent, extent, points, dtype=torch.float64)


def density(mixture: Mixture, axis: Tensor) -> Tensor:
    """The density of clean data on the grid, [Y, X]."""
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return mixture.log_density(torch.stack([x, y], dim=-1), CLEAN).exp()


def smoothed(samples: Tensor, axis: Tensor, width: float = 0.5) -> Tensor:
    """A density of samples [N, 2] on the grid [Y, X]: a Gaussian of this width for each."""

    def kernel(values: Tensor) -> Tensor:
        offsets = (axis[:, None] - values) / width
        return torch.exp(-offsets.square() / 2) / (width * math.sqrt(2 * math.pi))  # [grid, N]

    return kernel(samples[:, 1]) @ kernel(samples[:, 0]).T / len(samples)


def sampled(name: str, method: str, count: int = SAMPLES) -> Tensor:
    """Samples [count, 2] of a method; W2SD fused."""
    return run(bed(name), method, noise(count, 2), STEPS).final


def plane_numbers(schedules: Sequence[str] = SCHEDULES) -> dict[str, Any]:
    """Shares of the modes and their divergence from the ideal's, by schedule and method, T 20, 4000 samples."""
    found: dict[str, Any] = {"steps": STEPS, "samples": SAMPLES, "means": [list(mean) for mean in MEANS]}
    for name in schedules:
        shares = {method: mode_shares(sampled(name, method), MEANS) for method in METHODS}
        found[name] = {
            method: {"shares": share, "divergence": divergence(share, IDEAL.weights)}
            for method, share in shares.items()
        }
    return found


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """The cosine of the angle between rows of a and b [N, D], [N]; 0 for a row of zeros."""
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp_min(1e-300)


def angle_numbers(name: str, count: int = 1000) -> dict[str, Any]:
    """Per step of the strong model's own paths: how the weak-to-strong gap lies to the strong-to-ideal one.

    Also the angle of what each makes of a step to the ideal model's step from there, "gain": the share of samples
    whose step W2SD (fused) turns towards the ideal one. Steps where the two gaps vanish to 1e-9 have no angle.
    """
    here = bed(name)
    levels, path, latents = here.levels(STEPS), here.path, run(here, "strong", noise(count, 2), STEPS).latents
    rows: dict[str, list[float]] = {"mean": [], "low": [], "high": [], "positive": [], "closer": []}
    for i in range(STEPS):
        x, level = latents[i], levels[i]
        ideal, strong, weak = (model(x, level) for model in (here.ideal, here.strong, here.weak))
        gap, missing = strong - weak, ideal - strong
        seen = (gap.norm(dim=1) > 1e-9) & (missing.norm(dim=1) > 1e-9)
        cosine = cosines(gap, missing)[seen]
        angles = torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))
        reflected = path.gap_coefficient(level, levels[i + 1]) * (weak - strong) + x
        steps = [path.step(reflected, here.strong(reflected, level), level, levels[i + 1])]
        steps += [path.step(x, prediction, level, levels[i + 1]) for prediction in (strong, ideal)]
        closer = (steps[0] - steps[2]).norm(dim=1) < (steps[1] - steps[2]).norm(dim=1)
        rows["mean"].append(angles.mean().item())
        rows["low"].append(angles.quantile(0.05).item())
        rows["high"].append(angles.quantile(0.95).item())
        rows["positive"].append((cosine > 0).double().mean().item())
        rows["closer"].append(closer[seen].double().mean().item())
    return {"steps": STEPS, "angles": rows}


def directions(name: str, x: Tensor, step: int) -> dict[str, Tensor]:
    """The unit direction [N, 2] in which each model sees the clean sample from x [N, 2] at the level of a step.

    "w2sd" is what W2SD follows to first order: the strong model's prediction plus its difference to the weak one's.
    """
    here = bed(name)
    level, path = here.levels(STEPS)[step], here.path
    seen = {"ideal": here.ideal(x, level), "strong": here.strong(x, level), "weak": here.weak(x, level)}
    seen["w2sd"] = 2 * seen["strong"] - seen["weak"]
    ways = {method: path.clean(x, prediction, level) - x for method, prediction in seen.items()}
    return {method: way / way.norm(dim=1, keepdim=True) for method, way in ways.items()}
