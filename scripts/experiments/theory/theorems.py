"""Theorems 1 to 3 as numbers: the remainder of a reflection, the bound of the gaps, the Fisher divergence."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from experiments.theory.drawing import (
    COLOURS,
    GREY,
    PATH_LOOKS,
    Made,
    finished,
    level,
    log_scale,
    log_x,
    style,
    subplots,
    verdict,
)
from experiments.theory.gaps import Triple, exact_ratio_log_density, fisher_ratio, terms
from experiments.theory.mixtures import IDEAL, PATHS, STRONG, continuous_level, logit_weak, normal_quantiles
from experiments.theory.sizes import measured
from experiments.theory.testbed import SCHEDULES, ratio_testbed
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
                "strong": measured(ratio_testbed(name), "strong", 50)["distance"],
                "w2sd": [measured(ratio_testbed(name, ratio), "w2sd", 50)["distance"] for ratio in RATIOS],
            }
            for name in schedules
        },
    }


# --- figures ----------------------------------------------------------------------------------------------------------

FAMILY = {
    2.0: ("#08306b", "weak model and its gap, epsilon 0"),
    2.5: ("#2f7fbf", "epsilon .5"),
    3.0: ("#7fbbe0", "epsilon 1"),
}
CLEAN = Level(0, 1.0, 0.0)


@style()
def figure_3() -> Made:
    numbers = {**proxy_numbers(), "line": line_numbers()}
    epsilon, ratios = numbers["epsilon"], numbers["ratios"]
    x = torch.linspace(-8, 8, 401, dtype=torch.float64)
    ideal, strong = (model.log_density(x[:, None], CLEAN) for model in (IDEAL, STRONG))
    best, good = (model.score(x[:, None], MIDDLE)[:, 0] for model in (IDEAL, STRONG))
    title = "Figure 3: a small epsilon makes the weak-to-strong gap a stand-in for the strong-to-ideal gap"
    figure, ((models, gaps), (proxies, outcomes)) = subplots(2, 2, size=(4.9, 3.2), title=title)
    for ratio, (colour, words) in FAMILY.items():
        weak = exact_ratio_log_density(ideal, strong, ratio).exp()
        models.plot(x, weak / torch.trapezoid(weak, x), color=colour, label=words)
        gaps.plot(x, good - ((1 - ratio) * best + ratio * good), color=colour)
    models.plot(x, strong.exp(), color=COLOURS["w2sd"], label="strong model")
    models.plot(x, ideal.exp(), "--", color=COLOURS["ideal"], label="ideal model")
    models.set(title="models: strong and ideal fixed, weak modulated", xlabel="x", ylabel="density", ylim=(0, 0.42))
    gaps.plot(x, best - good, "--", color=COLOURS["ideal"], linewidth=3, label="strong-to-ideal gap (sought)")
    gaps.set(title="gaps at a middle noise level", xlabel="x", ylabel="difference of scores", xlim=(-3, 3))
    above = slice(ratios.index(2.0), None)
    errors, fisher = numbers["relative_error"][above], numbers["fisher_ratio"][above]
    proxies.plot(epsilon[above], errors, "o-", color=COLOURS["w2sd"], label="error of the gap (= epsilon)")
    proxies.plot(
        epsilon[above], fisher, "o-", color=COLOURS["autoguided"], label="Fisher divergence (= epsilon squared)"
    )
    level(proxies, 1.0, GREY, "no better than the strong model")
    proxies.set(title="the gap as a stand-in", xlabel="epsilon", ylabel="relative to strong to ideal", ylim=(0, 1.1))
    for name in ("ddpm", "flow"):
        share = [d / numbers[name]["strong"] for d in numbers[name]["w2sd"]]
        outcomes.plot([ratio - 2 for ratio in ratios], share, **PATH_LOOKS[name])
    level(outcomes, 1.0, GREY)
    outcomes.set(title="samples of W2SD, T 50", xlabel="bias ratio - 2 (its size is epsilon)", ylim=(0, 1.15))
    outcomes.set_ylabel("W2 to ideal / strong model's")
    at = {ratio: k for k, ratio in enumerate(ratios)}
    share = [numbers[name]["w2sd"][at[2.0]] / numbers[name]["strong"] for name in ("ddpm", "flow")]
    half = [numbers[name]["w2sd"][at[2.5]] / numbers[name]["strong"] for name in ("ddpm", "flow")]
    low, middle, high = numbers["line"]["mixture_epsilon"]
    measured = (
        "The error of the gap is epsilon times the strong-to-ideal gap, to rounding; at epsilon 0 the samples' "
        f"distance to the ideal falls to {100 * share[0]:.0f} % of the strong model's (flow {100 * share[1]:.0f} %), "
        f"at epsilon .5 to {100 * half[0]:.0f} % ({100 * half[1]:.0f} %). A genuine mixture has no single epsilon: "
        f"it runs from {low:.2f} to {high:.2f} over x (median {middle:.2f})."
    )
    holds = all(abs(e - r) < 1e-9 for e, r in zip(epsilon, numbers["relative_error"], strict=True))
    monotone = all(
        numbers[name]["w2sd"][at[2.0]] < numbers[name]["w2sd"][at[2.5]] < numbers[name]["w2sd"][at[3.0]]
        for name in ("ddpm", "sdxl", "flow")
    )
    return Made(numbers, finished(figure), measured, verdict(holds, monotone))


@style()
def theorem_1() -> Made:
    numbers = theorem_1_numbers()
    looks = {
        "level of x": ("paper (Eq. 4)", COLOURS["paper"], "-"),
        "level below": ("weak model at the lower level's timestep", COLOURS["weak"], "--"),
        "fixed point 2": ("2 fixed-point iterations", COLOURS["ideal"], "-"),
        "fused": ("fused (1e-15: below the axis)", COLOURS["fused"], "-"),
    }
    intervals = numbers["intervals"]
    title = "Theorem 1: a reflection moves a latent along the gap, up to second order"
    figure, (row,) = subplots(1, 3, size=(4.2, 3.5), title=title)
    for axes, name, path in ((row[0], "vp", "noise path"), (row[1], "flow", "flow path")):
        for kind, (words, colour, line) in looks.items():
            sizes = [max(size, 1.2e-5) for size in numbers[name][f"{kind}, t 0.6"]["remainder"]]
            axes.plot(intervals, sizes, line, marker="o", color=colour, label=words)
        axes.plot([0.0025, 0.04], [1e-4, 1e-4 * 256], ":", color=GREY, label="second order")
        axes.set(title=f"remainder, {path}, t 0.6", ylabel="|x~ - x - c gap|", ylim=(1e-5, 1.0))
        log_scale(axes, "y")
    row[2].plot(intervals, numbers["printed_over_true"], "o-", color=COLOURS["strong"], label="printed / true")
    level(row[2], 1.0, GREY)
    row[2].set(title="Eq. 5's coefficient as printed", ylabel="printed / true", ylim=(0.0, 2.5))
    for axes in row:
        log_x(axes, intervals)
        axes.set_xlabel("interval of the step")
    orders = [
        order
        for name in ("vp", "flow")
        for kind in ("level of x", "level below")
        for t in TIMES
        for order in numbers[name][f"{kind}, t {t}"]["orders"][1:]
    ]
    floor = max(max(numbers[name][f"fused, t {t}"]["remainder"]) for name in ("vp", "flow") for t in TIMES)
    factor = numbers["printed_over_true"][-1]
    measured = (
        f"The remainder falls with the interval at orders {min(orders):.2f} to {max(orders):.2f} (2 is second order); "
        f"fused it is at most {floor:.0e}. The direction is as claimed, but the printed coefficient sigma^2t dt is "
        f"{factor:.2f} times what a deterministic step moves."
    )
    agrees = verdict(1.8 <= min(orders) <= max(orders) <= 2.15, abs(factor - 1) < 0.05)
    return Made(numbers, finished(figure), measured, agrees)


@style()
def theorem_2() -> Made:
    numbers = {f"condition {c:g}": bound_numbers(c) for c in (1.0, 100.0)}
    title = "Theorem 2: the error of the gap and its bound, over random models and places"
    figure, (row,) = subplots(1, 2, size=(4.8, 3.9), title=title)
    shown = (("equal widths (isotropic)", "#0072b2"), ("one direction 10 times as wide", "#7b3294"))
    for axes, (words, colour), (key, mine) in zip(row, shown, numbers.items(), strict=True):
        axes.plot(
            mine["bound"], mine["error"], ".", markersize=3, alpha=0.5, color=colour, label=f"random models, {key}"
        )
        above = [(b, e) for b, e in zip(mine["bound"], mine["error"], strict=True) if e > b * (1 + 1e-9)]
        if above:
            axes.plot(*zip(*above, strict=True), ".", color=COLOURS["w2sd"], label="above the bound")
        axes.plot([1e-6, 1e3], [1e-6, 1e3], "--", color="black", linewidth=1.2, label="error = bound")
        axes.set(title=f"{words}: {mine['violations']} of {mine['points']} above")
        log_scale(axes, "x", "y")
        axes.set(
            xlim=(1e-4, 1e3), ylim=(1e-6, 1e2), xlabel="bound of Eq. 6", ylabel="|weak-to-strong - strong-to-ideal|"
        )
    round_, flat = numbers["condition 1"], numbers["condition 100"]
    measured = (
        f"In the plane, {round_['violations']} of {round_['points']} random cases break the bound where the components "
        f"are round (largest error / bound {round_['largest_ratio']:.3f}), {flat['violations']} of {flat['points']} "
        f"where one direction is ten times as wide (largest {flat['largest_ratio']:.2f}): the last step of Eq. 27 "
        "holds for round components only."
    )
    agrees = verdict(not round_["violations"], not flat["violations"])
    return Made(numbers, finished(figure), measured, agrees)
