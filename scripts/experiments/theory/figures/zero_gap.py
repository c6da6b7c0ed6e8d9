"""The zero-gap artefact."""

from __future__ import annotations

from experiments.theory.experiments.zero_gap import zero_gap_numbers
from experiments.theory.made import COLOURS, NAMES, Made, verdict
from w2sd_video.report.plotting import Axis, Line, Panel, Rule, Sheet

LOOKS = {
    "release": ("release (coefficients one level off)", COLOURS["release"], False),
    "paper": ("paper (Eq. 4)", COLOURS["paper"], False),
    "lower level": ("paper, weak model told the lower level", COLOURS["weak"], True),
    "fixed point 2": ("paper, 2 fixed-point iterations", COLOURS["ideal"], False),
    "fused": ("fused (exactly 0)", COLOURS["w2sd"], False),
}
FLOOR = 1e-5  # where "exactly 0" is drawn on a log axis


def zero_gap() -> Made:
    numbers = zero_gap_numbers()
    errors, spreads = [], []
    for name in ("sdxl", "flow"):
        mine = numbers[name]
        errors.append(
            Panel(
                f"error of one reflection, {NAMES[name]}",
                Axis("sampling steps T", log=True, ticks=[(t, str(t)) for t in numbers["steps"]]),
                Axis("|x~ - x| / |x|, mean over steps", FLOOR, 1.0, log=True),
                [
                    Line(
                        numbers["steps"],
                        [max(e, FLOOR) for e in mine["mean_error"][kind]],
                        colour,
                        label,
                        2,
                        dashed,
                        True,
                    )
                    for kind, (label, colour, dashed) in LOOKS.items()
                    if kind in mine["mean_error"]
                ],
            )
        )
        spreads.append(
            Panel(
                f"spread of the samples, T 50, {NAMES[name]}",
                Axis("variance of the data along a direction", log=True),
                Axis("std with reflections / without", 0.3, 1.15),
                [
                    Rule("#888888", y=1.0, width=1.0),
                    *(
                        Line(numbers["variances"], mine["kept_std"][kind], colour, label, 2, dashed, True)
                        for kind, (label, colour, dashed) in LOOKS.items()
                        if kind in mine["kept_std"]
                    ),
                ],
            )
        )
    sdxl = numbers["sdxl"]
    at_50, at_8 = numbers["steps"].index(50), numbers["steps"].index(8)
    detail = dict(zip(numbers["variances"], sdxl["kept_std"]["paper"], strict=True))
    measured = (
        f"With equal models one reflection moves a latent by {100 * sdxl['mean_error']['paper'][at_50]:.2f} % at T 50 "
        f"but {100 * sdxl['mean_error']['paper'][at_8]:.1f} % at T 8 (SDXL schedule); 49 of them leave "
        f"{100 * detail[0.01]:.0f} % of the spread of fine detail (variance .01). The fused form moves nothing."
    )
    small = sdxl["mean_error"]["paper"][at_50] < 0.01
    harmless = min(sdxl["kept_std"]["paper"]) > 0.95
    sheet = Sheet("Reflection with no gap at all: the error of inversion alone", [errors, spreads], (470, 330))
    return Made(numbers, sheet, measured, verdict(small, harmless))
