"""How a cached gap is best carried from one level to another, on two modes that are known exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from experiments.engine import markdown
from experiments.theory.mixtures import PATHS, STRONG, left_mass, logit_weak, normal_quantiles, schedule
from w2sd_video.core import FlowPath, Level, Path, ReflectionConfig, autoguidance, sample, w2sd

STEPS = 20


def clean_held(path: Path, level: Level) -> float:
    """The growth of a native gap whose difference of clean estimates stays."""
    return 1 / level.sigma if isinstance(path, FlowPath) else level.alpha / level.sigma


LAWS: Mapping[str, Callable[[Path, Level], float]] = {
    "native gap held": lambda path, level: 1.0,
    "clean gap held": clean_held,
    "variance 1 (in use)": lambda path, level: path.gap_growth(level),
}


@dataclass(frozen=True)
class Carrying:
    """A path with another law for cached gaps."""

    path: Path
    law: Callable[[Path, Level], float]

    def gap_growth(self, level: Level) -> float:
        return self.law(self.path, level)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.path, name)


def scaling_table() -> str:
    """The share of fused W2SD's gain in left mass that cached gaps keep, by law, schedule, lambda and gap_every; beside
    it auto-guidance of all steps (Eq. 38), whose cost is two evaluations a step."""
    x, rows = normal_quantiles(), []
    for name in ("sdxl", "ddpm", "flow"):
        path, levels = PATHS[name], schedule(name, STEPS)
        strong, weak = STRONG.denoiser(path), logit_weak(2).denoiser(path)
        plain = left_mass(sample(x, levels, strong, path))
        guided = left_mass(sample(x, levels, autoguidance(strong, weak), path))
        for lam in (10, 19):
            most = left_mass(w2sd(x, levels, strong, weak, path, options=ReflectionConfig(lam, "fused"))) - plain
            for every in (1, 2, 5, 0):
                config = ReflectionConfig(lam, "fused", gap_every=every)
                kept = [
                    left_mass(w2sd(x, levels, strong, weak, Carrying(path, law), options=config)) - plain
                    for law in LAWS.values()
                ]
                cost = f"{config.evaluations(STEPS)} ({STEPS + 2 * lam})"
                shares = [f"{share / most:.2f}" for share in (*kept, guided - plain)]
                rows.append([name, lam, every or "once", cost, *shares])
    head = ["schedule", "lambda", "gap every", "evaluations (fused)", *LAWS, "auto-guidance (40)"]
    return markdown(head, rows)
