"""Figures 22 and 23 in miniature."""

from __future__ import annotations

import torch

from experiments.theory.bed import SCHEDULES, logit_bed, run
from experiments.theory.experiments import failures, plane
from experiments.theory.experiments.one_dimension import histogram
from experiments.theory.made import COLOURS, NAMES, Made, verdict
from experiments.theory.mixtures import IDEAL, STRONG, logit_weak, normal_quantiles
from w2sd_video.core import Level
from w2sd_video.report.plotting import Area, Axis, Bars, Contours, Dots, Line, Mark, Note, Panel, Rule, Sheet

BARS = {
    "Disney model": COLOURS["weak"],
    "ink model": COLOURS["release"],
    "W2SD, Disney strong": "#111111",
    "W2SD, ink strong": "#8a8a8a",
}


def figure_22() -> Made:
    numbers = failures.conflict_numbers()
    axis = plane.grid(points=61)
    heights = [0.002, 0.006, 0.015, 0.03, 0.06]
    place = [(v, str(v)) for v in (-4, 0, 4)]
    styles: list[Mark] = [
        Contours(axis, axis, plane.density(failures.DISNEY, axis), heights, BARS["Disney model"], "Disney model"),
        Contours(axis, axis, plane.density(failures.INK, axis), heights, BARS["ink model"], "ink model"),
        *(Note(x, y - 3.3, words, size=13) for (x, y), words in zip(plane.MEANS, failures.STYLES, strict=True)),
    ]
    shares = numbers["ddpm"]["shares"]
    bars: list[Mark] = [
        Bars([k + 0.2 * (j - 1.5) for k in range(4)], shares[label], colour, label, 0.18)
        for j, (label, colour) in enumerate(BARS.items())
    ]
    x = torch.linspace(-8, 8, 400, dtype=torch.float64)
    clean = Level(0, 1.0, 0.0)
    samples = run(logit_bed("ddpm", failures.OPPOSED), "w2sd", normal_quantiles(4000), 50).final
    models = (
        (logit_weak(failures.OPPOSED), COLOURS["weak"], "weak model (left .75)", False),
        (STRONG, COLOURS["strong"], "strong model (left .25)", False),
        (IDEAL, COLOURS["ideal"], "ideal (left .5)", True),
    )
    line: list[Mark] = [
        Area(*histogram(samples, -8, 8, 80), "#666666", "samples of W2SD", opacity=0.35),
        *(
            Line(x, model.log_density(x[:, None], clean).exp(), colour, words, dashed=dashed)
            for model, colour, words, dashed in models
        ),
    ]
    panels = [
        Panel(
            "two models, goal: both styles", Axis("ink", -8, 8, ticks=place), Axis("Disney", -8, 8, ticks=place), styles
        ),
        Panel(
            "what is sampled (noise path)",
            Axis("", -0.5, 3.5, ticks=list(enumerate(failures.STYLES))),
            Axis("share of samples", 0, 1),
            bars,
        ),
        Panel(
            "opposed biases on a line",
            Axis("x", -8, 8, ticks=[(v, str(v)) for v in (-8, -4, 0, 4, 8)]),
            Axis("density", 0, 0.52),
            line,
        ),
    ]
    goal = {name: {label: share[3] for label, share in numbers[name]["shares"].items()} for name in SCHEDULES}
    left = {name: numbers[name]["line"] for name in SCHEDULES}
    measured = (
        "Of two models that know one style each, W2SD makes both styles in "
        f"{100 * goal['ddpm']['W2SD, Disney strong']:.1f} and {100 * goal['ddpm']['W2SD, ink strong']:.1f} % of the "
        "samples, by whichever is the strong one, where the models alone do "
        f"in {100 * goal['ddpm']['Disney model']:.1f} %. With opposed biases the left share falls "
        f"from {left['ddpm']['strong']['left']:.2f} to {left['ddpm']['w2sd']['left']:.2f} (ideal .5)."
    )
    holds = [
        max(goal[name]["W2SD, Disney strong"], goal[name]["W2SD, ink strong"])
        < min(goal[name]["Disney model"], goal[name]["ink model"])
        and left[name]["w2sd"]["distance"] > left[name]["strong"]["distance"]
        for name in SCHEDULES
    ]
    sheet = Sheet("Figure 22: models in conflict; W2SD moves away from what was wanted", [panels], (420, 360))
    return Made(numbers, sheet, measured, verdict(*holds))


def figure_23() -> Made:
    numbers = failures.similarity_numbers()
    ratios = numbers["ratios"]
    looks = {"paper": ("W2SD, paper (Eq. 4)", COLOURS["paper"]), "fused": ("W2SD, fused", COLOURS["w2sd"])}
    panels = [
        Panel(
            f"along the right direction, {NAMES[name]}",
            Axis("weak model's bias / strong model's (1: equal)"),
            Axis("share of the left mode", 0.2, 0.6),
            [
                *(
                    Line(ratios, [p["left"] for p in numbers[name][mode]], colour, words, dots=True)
                    for mode, (words, colour) in looks.items()
                ),
                Rule(COLOURS["strong"], y=numbers[name]["strong"]["left"], label="strong model alone"),
                Rule(COLOURS["ideal"], y=0.5, label="ideal"),
            ],
        )
        for name in ("ddpm", "flow")
    ]
    panels.append(
        Panel(
            "signal over error of the inversion",
            Axis("weak model's bias / strong model's (1: equal)"),
            Axis("move of the gap / inversion error", 0.0, None),
            [
                *(
                    Line(ratios, numbers[name]["move_over_error"], colour, words, dashed=name == "flow", dots=True)
                    for name, colour, words in (
                        ("ddpm", COLOURS["weak"], "noise path (DDPM), T 20"),
                        ("flow", COLOURS["release"], "flow path, T 20"),
                    )
                ),
                Rule("#999999", y=1.0, label="as large as the error"),
            ],
        )
    )
    spreads = list(numbers["random"])
    jitter = [(k / (numbers["pairs"] - 1) - 0.5) * 0.5 for k in range(numbers["pairs"])]
    random: list[Mark] = [
        Dots([k + j for j in jitter], numbers["random"][spread], COLOURS["weak"], "one random pair", 2.6, 0.6)
        for k, spread in enumerate(spreads)
    ]
    random.append(Rule(COLOURS["strong"], y=0.0))
    panels.append(
        Panel(
            "random directions, four modes",
            Axis("spread of the pairs' log weights", -0.5, 3.5, ticks=list(enumerate(spreads))),
            Axis("change of divergence (below 0: better)"),
            random,
        )
    )
    strong = numbers["ddpm"]["strong"]["left"]
    near = ratios.index(1.1)
    gains = {mode: numbers["ddpm"][mode][near]["left"] - strong for mode in looks}
    full = numbers["ddpm"]["fused"][-1]["left"] - strong
    better = {spread: sum(change < 0 for change in changes) for spread, changes in numbers["random"].items()}
    worst = {spread: max(map(abs, changes)) for spread, changes in numbers["random"].items()}
    first, last = spreads[0], spreads[-1]
    measured = (
        f"At 1.1 times the strong model's bias the left share changes by {gains['fused']:+.3f} fused and "
        f"{gains['paper']:+.3f} as printed (noise path, T 20), at twice by {full:+.3f}. Pairs that differ at random by "
        f"{first} in log weight change the divergence by at most {worst[first]:.3f}, {better[first]} of "
        f"{numbers['pairs']} for the better; by {last}, by up to {worst[last]:.2f}, {better[last]} for the better."
    )
    holds = (abs(gains["fused"]) < 0.2 * full, 0.2 < better[first] / numbers["pairs"] < 0.8)
    title = "Figure 23: models too alike; the move drowns in the error of inversion, or points anywhere"
    return Made(numbers, Sheet(title, [panels[:2], panels[2:]], (470, 320)), measured, verdict(*holds))
