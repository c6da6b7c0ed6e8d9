"""Figures 4, 5, 21 and 25: modes on a line."""

from __future__ import annotations

import torch

from experiments.theory.bed import Bed, logit_bed, run
from experiments.theory.experiments import one_dimension as lines
from experiments.theory.made import COLOURS, NAMES, Made, verdict
from experiments.theory.mixtures import IDEAL, STRONG, normal_quantiles
from w2sd_video.report.plotting import Area, Arrows, Axis, Fan, Line, Mark, Note, Panel, Sheet

AWAY = "#b5b5b5"  # paths that end elsewhere
TOLD = {"weak": "weak", "strong": "strong", "w2sd": "W2SD", "swapped": "with swapped roles"}
NOUNS = {"weak": "weak model", "strong": "strong model", "w2sd": "W2SD", "ideal": "ideal model"}


def figure_4() -> Made:
    numbers = lines.balance_numbers()
    x = torch.linspace(-8, 8, 400, dtype=torch.float64)
    panels = []
    for name in ("ddpm", "flow"):
        samples = run(logit_bed(name), "w2sd", normal_quantiles(4000), lines.STEPS).final
        centres, heights = lines.histogram(samples, -8, 8, 80)
        heads = [lines.density(mixture, torch.tensor([-4.0]).double())[0] for mixture in (lines.WEAK, STRONG, IDEAL)]
        marks: list[Mark] = [
            Area(centres, heights, "#666666", "samples of W2SD", opacity=0.35),
            Line(x, lines.density(lines.WEAK, x), COLOURS["weak"], "weak model (left mass .1)"),
            Line(x, lines.density(STRONG, x), COLOURS["strong"], "strong model (.25)"),
            Line(x, lines.density(IDEAL, x), COLOURS["ideal"], "ideal (.5)", dashed=True),
            Arrows([[-4.0, heads[0]]], [[-4.0, heads[1]]], COLOURS["w2sd"], "what the weak-to-strong gap adds"),
            Arrows([[-4.0, heads[1]]], [[-4.0, heads[2]]], COLOURS["autoguided"], "what is missing: strong to ideal"),
            Note(-4.0, 0.29, f"left share with W2SD {numbers[name]['w2sd']['left']:.2f}", size=14),
            Note(-4.0, 0.26, f"strong alone {numbers[name]['strong']['left']:.2f}", COLOURS["strong"], size=14),
        ]
        panels.append(
            Panel(
                NAMES[name],
                Axis("x", -8, 8, ticks=[(v, str(v)) for v in (-8, -4, 0, 4, 8)]),
                Axis("density", 0.0, 0.4),
                marks,
            )
        )
    title = "Figure 4: W2SD fills the mode that both models lack, the weak one more so"
    return Made(numbers, Sheet(title, [panels], (500, 380)), *_balance(numbers))


def figure_5() -> Made:
    numbers = lines.balance_numbers()
    rows = [
        [
            _fan(logit_bed(name), method, lines.STEPS, f"{NOUNS[method]}, {NAMES[name]}")
            for method in ("weak", "strong", "w2sd")
        ]
        for name in ("ddpm", "flow")
    ]
    title = "Figure 5: paths from noise to data; W2SD brings more of them to the left mode"
    return Made(numbers, Sheet(title, rows, (360, 290)), *_balance(numbers))


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


def figure_21() -> Made:
    numbers = lines.budget_numbers()
    rows = []
    for steps in lines.FEW_AND_MANY:
        bed = logit_bed("ddpm")
        panels = [
            _fan(bed, method, steps, f"{NOUNS[method]}{words}, {steps} steps", mode, dots=steps < 10)
            for method, mode, words in (
                ("strong", "fused", ""),
                ("w2sd", "paper", " as printed"),
                ("w2sd", "fused", " fused"),
            )
        ]
        rows.append(panels)
    few, many = numbers["ddpm"]["5"], numbers["ddpm"]["20"]
    gains = [
        numbers[name][str(steps)][f"w2sd {mode}"]["left"] - numbers[name][str(steps)]["strong"]["left"]
        for name in ("ddpm", "sdxl", "flow")
        for steps in lines.FEW_AND_MANY
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
    title = "Figure 21: five steps and twenty; the direction holds, the inversion error of few steps costs part of it"
    return Made(numbers, Sheet(title, rows, (360, 290)), measured, verdict(*holds))


def figure_25() -> Made:
    numbers = lines.case_numbers()
    rows = []
    for method in ("weak", "strong", "w2sd"):
        rows.append(
            [
                _fan(case.bed("ddpm"), method, lines.STEPS, f"{NOUNS[method]}: {case.title}")
                for case in lines.CASES.values()
            ]
        )
    better = {
        (name, label): numbers[name][label]["w2sd"]["distance"] < numbers[name][label]["strong"]["distance"]
        for name in ("ddpm", "sdxl", "flow")
        for label in lines.CASES
    }
    told = "; ".join(
        f"{lines.CASES[label].title} {mine['strong']['distance']:.2f} to {mine['w2sd']['distance']:.2f}"
        for label, mine in numbers["ddpm"].items()
    )
    measured = (
        f"W2 distance to the ideal data, strong to W2SD on the noise path: {told}. Nearer to the ideal in "
        f"{sum(better.values())} of {len(better)} cases over three schedules."
    )
    title = "Figure 25: more pairs on a line; grey paths end outside the left mode"
    return Made(numbers, Sheet(title, rows, (310, 250)), measured, verdict(*better.values()))


def _fan(bed: Bed, method: str, num_steps: int, title: str, mode: str = "fused", *, dots: bool = False) -> Panel:
    """Paths over the steps; those that end in the leftmost mode in the method's colour."""
    latents = lines.paths(bed, method, num_steps, 48, mode)
    means = torch.tensor(bed.target.means, dtype=torch.float64).flatten()
    leftmost = (latents[:, -1, None] - means).abs().argmin(1) == 0
    steps = list(range(num_steps + 1))
    marks: list[Mark] = []
    for chosen, colour, label in (
        (~leftmost, AWAY, "ends elsewhere"),
        (leftmost, COLOURS[method], f"{NOUNS[method]}: ends in the left mode"),
    ):
        if bool(chosen.any()):
            marks.append(Fan(steps, latents[chosen], colour, label, opacity=0.75 if dots else 0.6))
    ended = lines.outcome(bed, method, num_steps, mode)
    ticks = [(k, str(k)) for k in range(0, num_steps + 1, max(1, num_steps // 5))]
    high = float(means.abs().max()) + 4.0
    words = f"left share {ended['left']:.2f}, std {ended['std']:.2f}"
    marks.append(Note(num_steps * 0.02, -high * 0.93, words, anchor="lm", size=13))
    y = Axis("x", -high, high, ticks=[(value, f"{value:g}") for value in means.tolist()])
    return Panel(title, Axis("step", 0, num_steps, ticks=ticks), y, marks)
