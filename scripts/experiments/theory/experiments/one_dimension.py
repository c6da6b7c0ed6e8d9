"""Two and three modes on a line: what is sampled, and along which paths (Figures 4, 5, 21 and 25)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.theory.bed import SCHEDULES, Bed, in_mode_std, logit_bed, mixtures_bed, mode_shares, run
from experiments.theory.mixtures import IDEAL, STRONG, Mixture, logit_weak, normal_quantiles, two_modes, wasserstein
from w2sd_video.core import Level, ReflectionConfig

STEPS = 50
FEW_AND_MANY = (5, 20)
CLEAN = Level(0, 1.0, 0.0)
WEAK = logit_weak(2)


@dataclass(frozen=True)
class Case:
    """Three mixtures on a line, and what the weak and the strong one get wrong."""

    title: str
    ideal: Mixture
    strong: Mixture
    weak: Mixture

    def bed(self, name: str) -> Bed:
        return mixtures_bed(name, self.ideal, self.strong, self.weak)


def three_modes(*weights: float) -> Mixture:
    return Mixture(means=((-6.0,), (0.0,), (6.0,)), weights=weights)


CASES = {
    "missing": Case("missing mode (ideal .50)", IDEAL, STRONG, two_modes(0.02)),
    "rare": Case("rare mode (ideal .15)", two_modes(0.15), two_modes(0.07), two_modes(0.03)),
    "three": Case(
        "three modes (ideal .33)",
        three_modes(1 / 3, 1 / 3, 1 / 3),
        three_modes(0.15, 0.3, 0.55),
        three_modes(0.06, 0.24, 0.7),
    ),
    "wide": Case(
        "modes too wide (ideal std 1)",
        IDEAL,
        Mixture(means=((-4.0,), (4.0,)), weights=(0.5, 0.5), std=1.3),
        Mixture(means=((-4.0,), (4.0,)), weights=(0.5, 0.5), std=1.6),
    ),
}


def density(mixture: Mixture, x: Tensor) -> list[float]:
    """The density of clean data at x [N]."""
    return mixture.log_density(x[:, None], CLEAN).exp().tolist()


def histogram(x: Tensor, low: float, high: float, bins: int) -> tuple[list[float], list[float]]:
    """The centres of the bins and the density of samples [N, 1] in each."""
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    counts = torch.histogram(x.flatten(), edges).hist
    return ((edges[1:] + edges[:-1]) / 2).tolist(), (counts / (len(x) * (high - low) / bins)).tolist()


def paths(bed: Bed, method: str, num_steps: int, count: int, mode: str = "fused") -> Tensor:
    """The latents of each step [count, T + 1] from evenly spread quantiles of the starting noise."""
    return run(bed, method, normal_quantiles(count), num_steps, ReflectionConfig(mode=mode)).latents[:, :, 0].T


def roughness(latents: Tensor) -> float:
    """How far paths [N, T + 1] are from smooth: the mean second difference over the mean step."""
    steps = latents.diff(dim=1)
    return (steps.diff(dim=1).abs().mean() / steps.abs().mean()).item()


def outcome(bed: Bed, method: str, num_steps: int, mode: str = "fused") -> dict[str, float]:
    """The share of the leftmost mode, the distance to the ideal, the spread within modes, how rough the paths are."""
    done = run(bed, method, normal_quantiles(), num_steps, ReflectionConfig(mode=mode))
    return {
        "left": mode_shares(done.final, bed.target.means)[0],
        "distance": wasserstein(done.final, bed.target, 2),
        "std": in_mode_std(done.final, bed.target.means),
        "roughness": roughness(done.latents[:, :, 0].T),
        "evaluations": done.evaluations,
    }


def balance_numbers(schedules: Sequence[str] = SCHEDULES) -> dict[str, Any]:
    """Weak, strong, W2SD and ideal on two modes, the weak model a real mixture (left mass .1), T 50."""
    methods = ("weak", "strong", "w2sd", "swapped", "ideal")
    return {
        "steps": STEPS,
        "data": {"ideal": 0.5, "strong": 0.25, "weak": WEAK.weights[0]},
        **{name: {method: outcome(logit_bed(name), method, STEPS) for method in methods} for name in schedules},
    }


def budget_numbers(schedules: Sequence[str] = SCHEDULES) -> dict[str, Any]:
    """The same pair at 5 and at 20 steps; W2SD as printed and fused."""
    runs = (("weak", "fused"), ("strong", "fused"), ("w2sd", "paper"), ("w2sd", "fused"))
    return {
        name: {
            str(steps): {
                f"{method} {mode}" if method == "w2sd" else method: outcome(logit_bed(name), method, steps, mode)
                for method, mode in runs
            }
            for steps in FEW_AND_MANY
        }
        for name in schedules
    }


def case_numbers(schedules: Sequence[str] = SCHEDULES) -> dict[str, Any]:
    """Weak, strong and W2SD in each of `CASES`, T 50."""
    return {
        name: {
            label: {method: outcome(case.bed(name), method, STEPS) for method in ("weak", "strong", "w2sd")}
            for label, case in CASES.items()
        }
        for name in schedules
    }
