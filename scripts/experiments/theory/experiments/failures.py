"""The two ways in which a pair fails: models that contradict each other, and models too alike (Figures 22 and 23)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from experiments.theory.bed import (
    BOTH,
    SCHEDULES,
    divergence,
    logit_bed,
    mixtures_bed,
    mode_shares,
    noise,
    ratio_bed,
    run,
)
from experiments.theory.experiments import plane
from experiments.theory.experiments.magnitude import measured
from experiments.theory.mixtures import Mixture, normal_quantiles
from w2sd_video.core import ReflectionConfig

# The four modes of the plane as styles: ink to the right, Disney upwards; both together is the goal.
STYLES = ("neither", "Disney", "ink", "both")
DISNEY = Mixture(plane.MEANS, (0.1, 0.7, 0.1, 0.1))
INK = Mixture(plane.MEANS, (0.1, 0.1, 0.7, 0.1))
GOAL = Mixture(plane.MEANS, (0.01, 0.01, 0.01, 0.97))
OPPOSED = -1.0  # the weak model's bias over the strong one's: as large, the other way

RATIOS = (1.0, 1.05, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0)
STEPS = 20
SPREADS = (0.03, 0.1, 0.3, 1.0)
PAIRS, PAIR_SAMPLES, PAIR_STEPS = 40, 400, 10


def conflict_numbers(schedules: Sequence[str] = SCHEDULES) -> dict[str, Any]:
    """Shares of the styles for both models and for W2SD with either as the strong one; and opposed biases on a line."""
    found: dict[str, Any] = {"styles": list(STYLES), "opposed_ratio": OPPOSED}
    for name in schedules:
        x = noise(2000, 2)
        first, second = mixtures_bed(name, GOAL, DISNEY, INK), mixtures_bed(name, GOAL, INK, DISNEY)
        shares = {
            "Disney model": run(first, "strong", x, STEPS),
            "ink model": run(second, "strong", x, STEPS),
            "W2SD, Disney strong": run(first, "w2sd", x, STEPS),
            "W2SD, ink strong": run(second, "w2sd", x, STEPS),
        }
        line = logit_bed(name, OPPOSED)
        found[name] = {
            "shares": {label: mode_shares(done.final, plane.MEANS) for label, done in shares.items()},
            "line": {method: measured(line, method, 50) for method in ("weak", "strong", "w2sd")},
        }
    return found


def move_over_error(name: str, ratio: float) -> float:
    """The size of the gap's move over that of the inversion's error, mean over the reflected steps of a run."""
    bed = ratio_bed(name, ratio)
    settings = ReflectionConfig()
    moved, idle = run(bed, "w2sd", normal_quantiles(), STEPS, settings), None
    sizes, errors = [], []
    same = ratio_bed(name, 1.0)
    levels = bed.levels(STEPS)
    for i, (x, _) in moved.moves.items():
        strong, weak = bed.strong(x, levels[i]), bed.weak(x, levels[i])
        sizes.append((bed.path.gap_coefficient(levels[i], levels[i + 1]) * (weak - strong)).norm())
    idle = run(same, "w2sd", normal_quantiles(), STEPS, settings)
    errors = [(tilde - x).norm() for x, tilde in idle.moves.values()]
    return (torch.stack(sizes).mean() / torch.stack(errors).mean()).item()


def random_pair(spread: float, seed: int) -> Mixture:
    """A weak model like the strong one of the plane, but for log weights off by noise of this standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    shift = spread * torch.randn(4, generator=generator, dtype=torch.float64)
    weights = torch.softmax(torch.tensor(plane.STRONG.weights, dtype=torch.float64).log() + shift, 0)
    return Mixture(plane.MEANS, tuple(weights.tolist()))


def similarity_numbers(schedules: Sequence[str] = BOTH) -> dict[str, Any]:
    """What little a similar weak model gives: along the ideal direction, and in random ones.

    Random ones: how the divergence of the modes' shares from the ideal changes from the strong model to W2SD, for
    pairs whose weights differ at random; the same 400 starting points for all.
    """
    found: dict[str, Any] = {"ratios": list(RATIOS), "steps": STEPS, "spreads": list(SPREADS), "pairs": PAIRS}
    for name in schedules:
        found[name] = {
            "strong": measured(ratio_bed(name), "strong", STEPS),
            **{
                mode: [measured(ratio_bed(name, ratio), "w2sd", STEPS, ReflectionConfig(mode=mode)) for ratio in RATIOS]
                for mode in ("paper", "fused")
            },
            "move_over_error": [move_over_error(name, ratio) for ratio in RATIOS],
        }
    x = noise(PAIR_SAMPLES, 2)

    def spoiled(final: Tensor) -> float:
        return divergence(mode_shares(final, plane.MEANS), plane.IDEAL.weights)

    strong = spoiled(run(plane.bed("ddpm"), "strong", x, PAIR_STEPS).final)
    found["random"] = {
        str(spread): [
            spoiled(
                run(
                    mixtures_bed("ddpm", plane.IDEAL, plane.STRONG, random_pair(spread, seed)), "w2sd", x, PAIR_STEPS
                ).final
            )
            - strong
            for seed in range(PAIRS)
        ]
        for spread in SPREADS
    }
    return found
