"""Theorems 1 to 3 as numbers: the remainder of a reflection, the bound of the gaps, the Fisher divergence."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from experiments.theory.bed import SCHEDULES, ratio_bed
from experiments.theory.experiments.magnitude import measured
from experiments.theory.gaps import Triple, fisher_ratio, terms
from experiments.theory.mixtures import IDEAL, PATHS, STRONG, continuous_level, logit_weak, normal_quantiles
from w2sd_video.core import Level, NoisePath, invert, reflect, reflect_fused

INTERVALS = (0.04, 0.02, 0.01, 0.005, 0.0025)
TIMES = (0.3, 0.6)
KINDS = ("level of x", "level below", "fixed point 2", "fused")
RATIOS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0)
MIDDLE = Level(0.5, 0.5, math.sqrt(0.75))  # where the modes still tell apart, but overlap
VE_BASE = 25.0


def remainder(name: str, kind: str, t: float, interval: float) -> float:
    """The norm of x~ - x - c (weak - strong), relative to that of c (weak - strong): what Theorem 1 neglects."""
    path = PATHS["flow" if name == "flow" else "ddpm"]
    strong, weak = STRONG.denoiser(path), logit_weak(2).denoiser(path)
    x, start, end = 2 * normal_quantiles(201), continuous_level(name, t), continuous_level(name, t - interval)
    gap = path.gap_coefficient(start, end) * (weak(x, start) - strong(x, start))
    if kind == "fused":
        tilde = reflect_fused(x, start, end, strong, weak, path)
    elif kind == "level below":
        tilde = invert(path.step(x, strong(x, start), start, end), start, end, lambda x, _: weak(x, end), path)
    else:
        tilde = reflect(x, start, end, strong, weak, path, fixed_point=2 if kind == "fixed point 2" else 0)
    return (tilde - x - gap).norm().item()


def printed_coefficient(t: float, interval: float) -> float:
    """Eq. 5's sigma^2t dt over what a step of the same interval really moves, on the paper's own kind of levels.

    With a diffusion coefficient sigma^t the noise has variance (sigma^2t - 1) / (2 log sigma); sigma is 25.
    """

    def level(t: float) -> Level:
        return Level(t, 1.0, math.sqrt((VE_BASE ** (2 * t) - 1) / (2 * math.log(VE_BASE))))

    start, end, path = level(t), level(t - interval), NoisePath()
    strong, weak = STRONG, logit_weak(2)
    x = 3 * normal_quantiles(201)
    moved = reflect_fused(x, start, end, strong.denoiser(path), weak.denoiser(path), path) - x
    printed = VE_BASE ** (2 * t) * interval * (strong.score(x, start) - weak.score(x, start))
    return (printed.norm() / moved.norm()).item()


def theorem_1_numbers() -> dict[str, Any]:
    """Remainders over the interval of a step, their orders, and the printed coefficient over the true one."""
    found: dict[str, Any] = {"intervals": list(INTERVALS), "times": list(TIMES)}
    for name in ("vp", "flow"):
        found[name] = {}
        for kind in KINDS:
            for t in TIMES:
                sizes = [remainder(name, kind, t, interval) for interval in INTERVALS]
                orders = [math.log2(a / b) if b > 1e-13 else None for a, b in itertools.pairwise(sizes)]
                found[name][f"{kind}, t {t}"] = {"remainder": sizes, "orders": orders}
    found["printed_over_true"] = [printed_coefficient(0.5, interval) for interval in INTERVALS]
    return found


def random_triple(seed: int, condition: float) -> tuple[Triple, Tensor]:
    """Random components in the plane, weights and latents; the covariance has this condition number."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    count = 2 + seed % 4
    means = 8 * uniform(count, 2) - 4
    angle, spread = 2 * math.pi * uniform(1).item(), 0.5 + 1.5 * uniform(1).item()
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    widths = torch.tensor([spread, spread * math.sqrt(condition)], dtype=torch.float64) ** 2
    weights = [row / row.sum() for row in 0.05 + uniform(3, count)]
    return Triple(means, turn @ torch.diag(widths) @ turn.T, *weights), 12 * uniform(60, 2) - 6


def bound_numbers(condition: float, count: int = 150) -> dict[str, Any]:
    """Theorem 2's error and bound over random triples in the plane: how often and how far it fails."""
    errors, bounds = [], []
    for seed in range(count):
        found = terms(*random_triple(seed, condition))
        kept = found.strong_to_ideal.norm(dim=1) > 1e-6
        errors.append(found.error[kept])
        bounds.append(found.bound[kept])
    error, bound = torch.cat(errors), torch.cat(bounds)
    broken = error > bound * (1 + 1e-9)
    return {
        "condition": condition,
        "points": len(error),
        "violations": int(broken.sum()),
        "largest_ratio": (error / bound).max().item(),
        "error": error[::4].tolist(),
        "bound": bound[::4].tolist(),
    }


def line_numbers() -> dict[str, Any]:
    """On a line with symmetric modes: C(x) and the bound's slack, for a genuine mixture as the weak model."""
    found = terms(Triple.at(MIDDLE, IDEAL, STRONG, logit_weak(2)), torch.linspace(-8, 8, 401).double()[:, None])
    kept = found.strong_to_ideal.norm(dim=1) > 1e-6
    epsilon = found.epsilon[kept]
    return {
        "efficiency": [found.efficiency[kept].min().item(), found.efficiency[kept].max().item()],
        "slack": (found.error / found.bound - 1)[kept].abs().max().item(),
        "mixture_epsilon": [epsilon.min().item(), epsilon.median().item(), epsilon.max().item()],
    }


def proxy_numbers(schedules: Sequence[str] = SCHEDULES) -> dict[str, Any]:
    """How good a stand-in Delta_1 is for Delta_2, and what becomes of samples, over the weak model's bias ratio."""
    errors = []
    x = torch.linspace(-8, 8, 401, dtype=torch.float64)[:, None]
    missing = IDEAL.score(x, MIDDLE) - STRONG.score(x, MIDDLE)
    for ratio in RATIOS:
        weak = (1 - ratio) * IDEAL.score(x, MIDDLE) + ratio * STRONG.score(x, MIDDLE)
        errors.append(((STRONG.score(x, MIDDLE) - weak - missing).norm() / missing.norm()).item())
    return {
        "ratios": list(RATIOS),
        "epsilon": [abs(ratio - 2) for ratio in RATIOS],
        "relative_error": errors,
        "fisher_ratio": [fisher_ratio(IDEAL, STRONG, ratio, MIDDLE) for ratio in RATIOS],
        "mixture_fisher_ratio": fisher_ratio(IDEAL, STRONG, logit_weak(2), MIDDLE),
        **{
            name: {
                "strong": measured(ratio_bed(name), "strong", 50)["distance"],
                "w2sd": [measured(ratio_bed(name, ratio), "w2sd", 50)["distance"] for ratio in RATIOS],
            }
            for name in schedules
        },
    }
