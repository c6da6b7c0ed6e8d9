"""Two and three modes on a line: what is sampled, and along which paths (Figures 4, 5, 21 and 25)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.theory.drawing import AWAY, COLOURS, NAMES, NOUNS, Made, finished, style, subplots, verdict
from experiments.theory.mixtures import IDEAL, STRONG, Mixture, logit_weak, normal_quantiles, two_modes, wasserstein
from experiments.theory.testbed import (
    SCHEDULES,
    Testbed,
    in_mode_std,
    logit_testbed,
    mixtures_testbed,
    mode_shares,
    options,
    run,
)
from w2sd_video.core import Level

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

    def bed(self, name: str) -> Testbed:
        return mixtures_testbed(name, self.ideal, self.strong, self.weak)


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


def paths(bed: Testbed, method: str, num_steps: int, count: int, mode: str = "fused") -> Tensor:
    """The latents of each step [count, T + 1] from evenly spread quantiles of the starting noise."""
    return run(bed, method, normal_quantiles(count), num_steps, options(mode)).latents[:, :, 0].T


def roughness(latents: Tensor) -> float:
    """How far paths [N, T + 1] are from smooth: the mean second difference over the mean step."""
    steps = latents.diff(dim=1)
    return (steps.diff(dim=1).abs().mean() / steps.abs().mean()).item()


def outcome(bed: Testbed, method: str, num_steps: int, mode: str = "fused") -> dict[str, float]:
    """The share of the leftmost mode, the distance to the ideal, the spread within modes, how rough the paths are."""
    done = run(bed, method, normal_quantiles(), num_steps, options(mode))
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
        **{name: {method: outcome(logit_testbed(name), method, STEPS) for method in methods} for name in schedules},
    }


def budget_numbers(schedules: Sequence[str] = SCHEDULES) -> dict[str, Any]:
    """The same pair at 5 and at 20 steps; W2SD as printed and fused."""
    runs = (("weak", "fused"), ("strong", "fused"), ("w2sd", "paper"), ("w2sd", "fused"))
    return {
        name: {
            str(steps): {
                f"{method} {mode}" if method == "w2sd" else method: outcome(logit_testbed(name), method, steps, mode)
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


# --- figures ----------------------------------------------------------------------------------------------------------

PLACES = (-8, -4, 0, 4, 8)
TOLD = {"weak": "weak", "strong": "strong", "w2sd": "W2SD", "swapped": "with swapped roles"}


@style()
def figure_4() -> Made:
    numbers = balance_numbers()
    x = torch.linspace(-8, 8, 400, dtype=torch.float64)
    title = "Figure 4: W2SD fills the mode that both models lack, the weak one more so"
    figure, (row,) = subplots(1, 2, size=(5.0, 3.8), title=title, sharey=True)
    for axes, name in zip(row, ("ddpm", "flow"), strict=True):
        samples = run(logit_testbed(name), "w2sd", normal_quantiles(4000), STEPS).final
        axes.fill_between(*histogram(samples, -8, 8, 80), color=COLOURS["w2sd"], alpha=0.25, label="samples of W2SD")
        axes.plot(x, density(WEAK, x), color=COLOURS["weak"], label="weak model (left mass .1)")
        axes.plot(x, density(STRONG, x), color=COLOURS["strong"], label="strong model (.25)")
        axes.plot(x, density(IDEAL, x), "--", color=COLOURS["ideal"], label="ideal (.5)")
        heads = [density(mixture, torch.tensor([-4.0]).double())[0] for mixture in (WEAK, STRONG, IDEAL)]
        for low, high, colour, words in (
            (heads[0], heads[1], COLOURS["w2sd"], "weak-to-strong gap"),
            (heads[1], heads[2], COLOURS["ideal"], "missing: strong to ideal"),
        ):
            arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 2}
            axes.annotate("", (-4.0, high), (-4.0, low), arrowprops=arrow)
            axes.text(-3.6, (low + high) / 2, words, color=colour, fontsize=8, va="center")
        left = {method: numbers[name][method]["left"] for method in ("w2sd", "strong")}
        words = f"left share with W2SD {left['w2sd']:.2f}, strong alone {left['strong']:.2f}"
        axes.set(title=f"{NAMES[name]}: {words}", xlabel="x", xticks=PLACES, ylabel="density", ylim=(0, 0.4))
    return Made(numbers, finished(figure), *_balance(numbers))


@style()
def figure_5() -> Made:
    numbers = balance_numbers()
    title = "Figure 5: paths from noise to data; W2SD brings more of them to the left mode"
    figure, rows = subplots(2, 3, size=(3.8, 2.8), title=title)
    for row, name in zip(rows, ("ddpm", "flow"), strict=True):
        for axes, method in zip(row, ("weak", "strong", "w2sd"), strict=True):
            _paths(axes, logit_testbed(name), method, STEPS, f"{NOUNS[method]}, {NAMES[name]}")
    return Made(numbers, finished(figure), *_balance(numbers))


def _balance(numbers: dict) -> tuple[str, str]:
    noise, flow = numbers["ddpm"], numbers["flow"]
    shares = {
        name: ", ".join(f"{words} {mine[method]['left']:.3f}" for method, words in TOLD.items())
        for name, mine in (("noise", noise), ("flow", flow))
    }
    words = (
        f"Share of the left mode (ideal .5) on the noise path: {shares['noise']}; on the flow path: {shares['flow']}."
    )
    return words, verdict(
        *(mine["weak"]["left"] < mine["strong"]["left"] + 0.1 < mine["w2sd"]["left"] for mine in (noise, flow))
    )


@style()
def figure_21() -> Made:
    numbers = budget_numbers()
    title = "Figure 21: five steps and twenty; the direction holds, the inversion error of few steps costs part of it"
    figure, rows = subplots(2, 3, size=(3.8, 2.8), title=title)
    shown = (("strong", "fused", ""), ("w2sd", "paper", " as printed"), ("w2sd", "fused", " fused"))
    for row, steps in zip(rows, FEW_AND_MANY, strict=True):
        for axes, (method, mode, words) in zip(row, shown, strict=True):
            _paths(axes, logit_testbed("ddpm"), method, steps, f"{NOUNS[method]}{words}, {steps} steps", mode)
    few, many = numbers["ddpm"]["5"], numbers["ddpm"]["20"]
    gains = [
        numbers[name][str(steps)][f"w2sd {mode}"]["left"] - numbers[name][str(steps)]["strong"]["left"]
        for name in ("ddpm", "sdxl", "flow")
        for steps in FEW_AND_MANY
        for mode in ("paper", "fused")
    ]
    measured = (
        f"Noise path: the left share goes from {few['strong']['left']:.3f} (strong) to {few['w2sd paper']['left']:.3f} "
        f"as printed and {few['w2sd fused']['left']:.3f} fused at 5 steps, from {many['strong']['left']:.3f} to "
        f"{many['w2sd paper']['left']:.3f} and {many['w2sd fused']['left']:.3f} at 20; the printed path is "
        f"{few['w2sd paper']['roughness'] / few['strong']['roughness']:.2f} times as rough as the strong model's at 5 "
        f"steps. Over all three schedules and both modes the least gain is {min(gains):+.3f}."
    )
    holds = (min(gains) > 0.02, few["w2sd paper"]["roughness"] > many["w2sd paper"]["roughness"])
    return Made(numbers, finished(figure), measured, verdict(*holds))


@style()
def figure_25() -> Made:
    numbers = case_numbers()
    title = "Figure 25: more pairs on a line; grey paths end outside the left mode"
    figure, rows = subplots(3, len(CASES), size=(3.5, 2.5), title=title)
    for row, method in zip(rows, ("weak", "strong", "w2sd"), strict=True):
        for axes, case in zip(row, CASES.values(), strict=True):
            _paths(axes, case.bed("ddpm"), method, STEPS, f"{NOUNS[method]}: {case.title}")
    better = {
        (name, label): numbers[name][label]["w2sd"]["distance"] < numbers[name][label]["strong"]["distance"]
        for name in ("ddpm", "sdxl", "flow")
        for label in CASES
    }
    told = "; ".join(
        f"{CASES[label].title} {mine['strong']['distance']:.2f} to {mine['w2sd']['distance']:.2f}"
        for label, mine in numbers["ddpm"].items()
    )
    measured = (
        f"W2 distance to the ideal data, strong to W2SD on the noise path: {told}. Nearer to the ideal in "
        f"{sum(better.values())} of {len(better)} cases over three schedules."
    )
    return Made(numbers, finished(figure), measured, verdict(*better.values()))


def _paths(axes: Any, bed: Testbed, method: str, num_steps: int, title: str, mode: str = "fused") -> None:
    """Paths over the steps; those that end in the leftmost mode in the method's colour."""
    latents = paths(bed, method, num_steps, 48, mode)
    means = torch.tensor(bed.target.means, dtype=torch.float64).flatten()
    leftmost = (latents[:, -1, None] - means).abs().argmin(1) == 0
    ends = ((~leftmost, AWAY, "ends elsewhere"), (leftmost, COLOURS[method], f"{NOUNS[method]}: ends in the left mode"))
    for chosen, colour, label in ends:
        if bool(chosen.any()):
            lines = axes.plot(
                latents[chosen].T, color=colour, alpha=0.6, linewidth=0.9, marker="." if num_steps < 10 else ""
            )
            lines[0].set_label(label)
    ended = outcome(bed, method, num_steps, mode)
    axes.set_title(f"{title}\nleft share {ended['left']:.2f}, std {ended['std']:.2f}", fontsize=9)
    high = float(means.abs().max()) + 4.0
    axes.set(xlabel="step", xlim=(0, num_steps), ylabel="x", ylim=(-high, high), yticks=means.tolist())
