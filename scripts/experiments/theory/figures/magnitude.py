"""Figure 12's curve on a model whose gap is known."""

from __future__ import annotations

from experiments.theory.experiments.magnitude import magnitude_numbers
from experiments.theory.made import COLOURS, NAMES, Made, verdict
from w2sd_video.report.plotting import Axis, Line, Panel, Rule, Sheet

LOOKS = {
    "fused": ("W2SD, fused", COLOURS["w2sd"], False),
    "paper": ("W2SD, paper (Eq. 4)", COLOURS["paper"], False),
    "autoguided": ("auto-guidance", COLOURS["autoguided"], False),
    "fused, mixture": ("W2SD, fused; weak model a real mixture", COLOURS["w2sd"], True),
}

WHOLE = [(gap, str(gap)) for gap in range(-3, 4)]


def figure_12() -> Made:
    numbers = magnitude_numbers()
    gaps = numbers["gaps"]
    rows = []
    for key, label, best in (
        ("left", "share of samples in the left mode", 0.5),
        ("distance", "W2 distance to the ideal data", None),
    ):
        row = []
        for name in ("ddpm", "flow"):
            mine = numbers[name]
            rules = [Rule(COLOURS["strong"], y=mine["strong"][key], label="strong model alone")]
            if best is not None:
                rules.append(Rule(COLOURS["ideal"], y=best, label="ideal"))
            curves = [
                Line(gaps, mine["curves"][curve][key], colour, words, dashed=dashed, dots=not dashed)
                for curve, (words, colour, dashed) in LOOKS.items()
            ]
            top = 1.0 if key == "left" else 6.0
            row.append(
                Panel(
                    NAMES[name],
                    Axis(
                        "gap: weak model's bias - strong model's (1: epsilon 0)",
                        ticks=[(g, f"{g}") for g in range(-3, 4)],
                    ),
                    Axis(label, 0.0, top),
                    [Rule("#999999", x=0.0, width=1.0), *rules, *curves],
                )
            )
        rows.append(row)
    curve = dict(zip(gaps, numbers["ddpm"]["curves"]["fused"]["distance"], strict=True))
    mass = dict(zip(gaps, numbers["ddpm"]["curves"]["fused"]["left"], strict=True))
    strong = numbers["ddpm"]["strong"]
    measured = (
        f"Noise path, T 50: the left mode's share is {mass[-1.0]:.3f} at gap -1, {mass[0.0]:.3f} at 0 (strong alone "
        f"{strong['left']:.3f}) and {mass[1.0]:.3f} at 1 (ideal .5). Beyond that an exact gap overshoots "
        f"({mass[3.0]:.3f} at 3, W2 {curve[3.0]:.2f} against {strong['distance']:.2f}); a real mixture levels off."
    )
    signs = (
        curve[-1.0] > strong["distance"] > curve[1.0] and abs(curve[0.0] - strong["distance"]) < 1e-6,
        all(curve[g] < strong["distance"] for g in gaps if g > 0),
    )
    sheet = Sheet("Figure 12: the size of the weak-to-strong gap decides what is gained", rows, (470, 330))
    return Made(numbers, sheet, measured, verdict(*signs))
