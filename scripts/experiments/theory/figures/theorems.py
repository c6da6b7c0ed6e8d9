"""Figure 3 and the theorems behind it."""

from __future__ import annotations

import torch

from experiments.theory.experiments import theorems
from experiments.theory.gaps import exact_ratio_log_density
from experiments.theory.made import COLOURS, NAMES, Made, verdict
from experiments.theory.mixtures import IDEAL, STRONG
from w2sd_video.core import Level
from w2sd_video.report.plotting import Axis, Dots, Line, Mark, Panel, Rule, Sheet

FAMILY = {
    2.0: ("#08306b", "weak model and its gap, epsilon 0"),
    2.5: ("#2f7fbf", "epsilon .5"),
    3.0: ("#7fbbe0", "epsilon 1"),
}
CLEAN = Level(0, 1.0, 0.0)
PLACES = Axis("x", -8, 8, ticks=[(v, str(v)) for v in (-8, -4, 0, 4, 8)])


def figure_3() -> Made:
    numbers = {**theorems.proxy_numbers(), "line": theorems.line_numbers()}
    epsilon, ratios = numbers["epsilon"], numbers["ratios"]
    x = torch.linspace(-8, 8, 401, dtype=torch.float64)
    ideal, strong = (model.log_density(x[:, None], CLEAN) for model in (IDEAL, STRONG))
    densities: list[Mark] = []
    gaps: list[Mark] = []
    best, good = (model.score(x[:, None], theorems.MIDDLE)[:, 0] for model in (IDEAL, STRONG))
    for ratio, (colour, words) in FAMILY.items():
        weak = exact_ratio_log_density(ideal, strong, ratio).exp()
        densities.append(Line(x, weak / torch.trapezoid(weak, x), colour, words))
        gaps.append(Line(x, good - ((1 - ratio) * best + ratio * good), colour))
    densities += [
        Line(x, strong.exp(), COLOURS["strong"], "strong model"),
        Line(x, ideal.exp(), COLOURS["ideal"], "ideal model", dashed=True),
    ]
    gaps.append(Line(x, best - good, COLOURS["ideal"], "strong-to-ideal gap (sought)", 3, dashed=True))
    above = slice(ratios.index(2.0), None)
    proxies: list[Mark] = [
        Line(
            epsilon[above], numbers["relative_error"][above], COLOURS["w2sd"], "error of the gap (= epsilon)", dots=True
        ),
        Line(
            epsilon[above],
            numbers["fisher_ratio"][above],
            COLOURS["autoguided"],
            "Fisher divergence (= epsilon squared)",
            dots=True,
        ),
        Rule("#999999", y=1.0, label="no better than the strong model"),
    ]
    outcomes: list[Mark] = []
    for name, colour, dashed in (("ddpm", COLOURS["weak"], False), ("flow", COLOURS["release"], True)):
        share = [d / numbers[name]["strong"] for d in numbers[name]["w2sd"]]
        outcomes.append(Line([r - 2 for r in ratios], share, colour, NAMES[name], dashed=dashed, dots=True))
    outcomes.append(Rule("#999999", y=1.0))
    panels = [
        [
            Panel("models: strong and ideal fixed, weak modulated", PLACES, Axis("density", 0, 0.42), densities),
            Panel("gaps at a middle noise level", Axis("x", -3, 3), Axis("difference of scores"), gaps),
        ],
        [
            Panel(
                "the gap as a stand-in", Axis("epsilon", 0, 1.05), Axis("relative to strong to ideal", 0, 1.1), proxies
            ),
            Panel(
                "samples of W2SD, T 50",
                Axis("bias ratio - 2 (its size is epsilon)"),
                Axis("W2 to ideal / strong model's W2", 0, 1.15),
                outcomes,
            ),
        ],
    ]
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
    title = "Figure 3: a small epsilon makes the weak-to-strong gap a stand-in for the strong-to-ideal gap"
    return Made(numbers, Sheet(title, panels, (470, 320)), measured, verdict(holds, monotone))


def theorem_1() -> Made:
    numbers = theorems.theorem_1_numbers()
    looks = {
        "level of x": ("paper (Eq. 4)", COLOURS["paper"], False),
        "level below": ("weak model told the lower level", COLOURS["weak"], True),
        "fixed point 2": ("2 fixed-point iterations", COLOURS["ideal"], False),
        "fused": ("fused (1e-15: below the axis)", COLOURS["w2sd"], False),
    }
    panels = [
        Panel(
            f"remainder, {'noise path' if name == 'vp' else 'flow path'}, t 0.6",
            Axis("interval of the step", log=True, ticks=[(h, f"{h:g}") for h in numbers["intervals"]]),
            Axis("|x~ - x - c gap|", 1e-5, 1.0, log=True),
            [
                *(
                    Line(
                        numbers["intervals"],
                        [max(size, 1.2e-5) for size in numbers[name][f"{kind}, t 0.6"]["remainder"]],
                        colour,
                        words,
                        dashed=dashed,
                        dots=True,
                    )
                    for kind, (words, colour, dashed) in looks.items()
                ),
                Line([0.0025, 0.04], [1e-4, 1e-4 * 256], "#999999", "second order", 1.2, dashed=True),
            ],
        )
        for name in ("vp", "flow")
    ]
    panels.append(
        Panel(
            "Eq. 5's coefficient as printed",
            Axis("interval of the step", log=True, ticks=[(h, f"{h:g}") for h in numbers["intervals"]]),
            Axis("printed / true", 0.0, 2.5),
            [
                Line(
                    numbers["intervals"], numbers["printed_over_true"], COLOURS["strong"], "printed / true", dots=True
                ),
                Rule("#999999", y=1.0),
            ],
        )
    )
    orders = [
        order
        for name in ("vp", "flow")
        for kind in ("level of x", "level below")
        for t in theorems.TIMES
        for order in numbers[name][f"{kind}, t {t}"]["orders"][1:]
    ]
    floor = max(max(numbers[name][f"fused, t {t}"]["remainder"]) for name in ("vp", "flow") for t in theorems.TIMES)
    factor = numbers["printed_over_true"][-1]
    measured = (
        f"The remainder falls with the interval at orders {min(orders):.2f} to {max(orders):.2f} (2 is second order); "
        f"fused it is at most {floor:.0e}. The direction is as claimed, but the printed coefficient sigma^2t dt is "
        f"{factor:.2f} times what a deterministic step moves."
    )
    sheet = Sheet("Theorem 1: a reflection moves a latent along the gap, up to second order", [panels], (410, 330))
    return Made(numbers, sheet, measured, verdict(1.8 <= min(orders) <= max(orders) <= 2.15, abs(factor - 1) < 0.05))


def theorem_2() -> Made:
    numbers = {f"condition {c:g}": theorems.bound_numbers(c) for c in (1.0, 100.0)}
    panels = []
    for words, colour, (key, mine) in zip(
        ("equal widths (isotropic)", "one direction 10 times as wide"),
        (COLOURS["weak"], COLOURS["strong"]),
        numbers.items(),
        strict=True,
    ):
        above = [(b, e) for b, e in zip(mine["bound"], mine["error"], strict=True) if e > b * (1 + 1e-9)]
        panels.append(
            Panel(
                f"{words}: {mine['violations']} of {mine['points']} above",
                Axis("bound of Eq. 6", 1e-4, 1e3, log=True),
                Axis("|weak-to-strong gap - strong-to-ideal gap|", 1e-6, 1e2, log=True),
                [
                    Dots(mine["bound"], mine["error"], colour, f"random models, {key}", 2.2, 0.4),
                    *(
                        [
                            Dots(
                                [b for b, _ in above],
                                [e for _, e in above],
                                COLOURS["w2sd"],
                                "above the bound",
                                2.6,
                                0.9,
                            )
                        ]
                        if above
                        else []
                    ),
                    Line([1e-6, 1e3], [1e-6, 1e3], COLOURS["w2sd"], "error = bound", 1.6, dashed=True),
                ],
            )
        )
    round_, flat = numbers["condition 1"], numbers["condition 100"]
    measured = (
        f"In the plane, {round_['violations']} of {round_['points']} random cases break the bound where the components "
        f"are round (largest error / bound {round_['largest_ratio']:.3f}), {flat['violations']} of {flat['points']} "
        f"where one direction is ten times as wide (largest {flat['largest_ratio']:.2f}): the last step of Eq. 27 "
        "holds for round components only."
    )
    title = "Theorem 2: the error of the gap and its bound, over random models and places"
    return Made(
        numbers, Sheet(title, [panels], (480, 380)), measured, verdict(not round_["violations"], not flat["violations"])
    )
