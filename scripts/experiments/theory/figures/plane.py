"""Figures 6 and 27: modes in the plane."""

from __future__ import annotations

import torch

from experiments.theory.bed import noise, run
from experiments.theory.experiments import plane
from experiments.theory.made import COLOURS, NAMES, Made, verdict
from w2sd_video.report.plotting import Arrows, Axis, Contours, Dots, Fan, Line, Mark, Note, Panel, Rule, Sheet

NOUNS = {"weak": "weak model", "strong": "strong model", "w2sd": "W2SD", "ideal": "ideal model"}
START = {"ddpm": (-0.5, -1.0), "flow": (-0.5, -1.0)}  # where the models disagree
AT = {"ddpm": (8,), "flow": (3,)}
SIDE = [(v, str(v)) for v in (-4, 0, 4)]


def figure_6() -> Made:
    numbers = plane.plane_numbers()
    name, axis = "ddpm", plane.grid()
    mixtures = {"weak": plane.WEAK, "strong": plane.STRONG, "ideal": plane.IDEAL}
    contours, walks = [], []
    for method in ("weak", "strong", "w2sd", "ideal"):
        drawn = (
            plane.smoothed(plane.sampled(name, "w2sd"), axis)
            if method == "w2sd"
            else plane.density(mixtures[method], axis)
        )
        share = numbers[name][method]["shares"][0]
        marks: list[Mark] = [
            Contours(axis, axis, drawn, [0.0015, 0.004, 0.008, 0.016, 0.03, 0.05], COLOURS[method]),
            Note(-7.4, -7.3, f"bottom left {share:.2f}", anchor="lm", size=13),
        ]
        title = "samples of W2SD, smoothed" if method == "w2sd" else f"density of the {NOUNS[method]}"
        contours.append(Panel(title, _side("x"), _side("y"), marks))
        latents = run(plane.bed(name), method, noise(70, 2, seed=3), plane.STEPS).latents
        rare = (latents[-1] < 0).all(1)
        walks.append(
            Panel(
                f"paths: {NOUNS[method]}",
                _side("x"),
                _side("y"),
                [
                    Fan(latents[:, ~rare, 0].T, latents[:, ~rare, 1].T, "#b5b5b5", "ends elsewhere", 0.7),
                    *(
                        [
                            Fan(
                                latents[:, rare, 0].T,
                                latents[:, rare, 1].T,
                                COLOURS[method],
                                f"{NOUNS[method]}, ends bottom left",
                                0.8,
                                1.5,
                            )
                        ]
                        if bool(rare.any())
                        else []
                    ),
                    Dots(latents[-1, :, 0], latents[-1, :, 1], "#555555", "sample", 1.8, 0.8),
                ],
            )
        )
    told = "; ".join(
        f"{NAMES[key]} {mine['strong']['divergence']:.3f} to {mine['w2sd']['divergence']:.3f} (swapped "
        f"{mine['swapped']['divergence']:.3f})"
        for key, mine in numbers.items()
        if key in NAMES
    )
    measured = f"Divergence of the modes' shares from the ideal ones, strong model to W2SD at T 20: {told}."
    holds = [
        numbers[key]["w2sd"]["divergence"] < numbers[key]["strong"]["divergence"] / 2
        and numbers[key]["w2sd"]["shares"][0] > numbers[key]["strong"]["shares"][0]
        for key in NAMES
    ]
    title = "Figure 6: in the plane W2SD fills the neglected bottom-left mode (noise path)"
    return Made(numbers, Sheet(title, [contours, walks], (318, 318)), measured, verdict(*holds))


def figure_27() -> Made:
    numbers = {name: plane.angle_numbers(name) for name in ("ddpm", "sdxl", "flow")}
    walks, angles = [], []
    for name in ("ddpm", "flow"):
        walks.append(_walks(name))
        rows, steps = numbers[name]["angles"], list(range(plane.STEPS))
        angles.append(
            Panel(
                f"angle between the two gaps, {NAMES[name]}",
                Axis(
                    "step of the strong model's path", 0, plane.STEPS - 1, ticks=[(k, str(k)) for k in range(0, 20, 4)]
                ),
                Axis("degrees", 0, 120, ticks=[(k, str(k)) for k in (0, 30, 60, 90, 120)]),
                [
                    Line(steps, rows["mean"], COLOURS["w2sd"], "mean angle", dots=True),
                    Line(steps, rows["high"], COLOURS["paper"], "5 % and 95 % of samples", dashed=True),
                    Line(steps, rows["low"], COLOURS["paper"], dashed=True),
                    Rule(COLOURS["strong"], y=90.0, label="90 degrees"),
                ],
            )
        )
    least = {name: min(numbers[name]["angles"]["positive"]) for name in numbers}
    worst = {name: max(numbers[name]["angles"]["mean"]) for name in numbers}
    closer = {name: sum(numbers[name]["angles"]["closer"]) / plane.STEPS for name in numbers}
    always = "for every sample" if min(least.values()) == 1 else f"for at least {100 * min(least.values()):.1f} %"
    measured = (
        "The angle between the two gaps along the strong model's paths is at most "
        f"{max(worst.values()):.0f} degrees on average, at any step of any schedule, and below 90 {always}. "
        "W2SD's step ends nearer to the ideal model's than the strong model's own does in at least "
        f"{100 * min(closer.values()):.0f} % of the cases."
    )
    title = "Figure 27: the weak-to-strong gap points where the strong-to-ideal gap points"
    holds = (max(worst.values()) < 90, min(least.values()) == 1.0, min(closer.values()) > 0.5)
    return Made(numbers, Sheet(title, [[*walks], [*angles]], (470, 380)), measured, verdict(*holds))


def _side(label: str) -> Axis:
    return Axis(label, -8, 8, ticks=SIDE)


def _walks(name: str) -> Panel:
    """Each model's path from one noise, and along W2SD's where each of them points."""
    start = torch.tensor([START[name]], dtype=torch.float64)
    walked = {m: run(plane.bed(name), m, start, plane.STEPS).latents[:, 0] for m in ("weak", "strong", "ideal", "w2sd")}
    marks: list[Mark] = [
        Line(walked[method][:, 0], walked[method][:, 1], COLOURS[method], NOUNS[method], 1.8, dashed=True)
        for method in walked
    ]
    for step in AT[name]:
        x = walked["w2sd"][step][None]
        for method, way in plane.directions(name, x, step).items():
            marks.append(Arrows(x, x + 1.5 * way, COLOURS[method], None, 2.8))
        marks.append(Dots(x[:, 0], x[:, 1], "#111111", "arrows: where each model points from here", 4.5, 1.0))
    return Panel(f"paths from one noise, {NAMES[name]}", Axis("x", -4.5, 3.5), Axis("y", -4.7, 1.3), marks)
