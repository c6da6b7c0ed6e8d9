"""What a figure is made of: its numbers, its sheet, and what they say of the claim."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from w2sd_video.report.plotting import Sheet

AGREES, PARTLY, DISAGREES = "yes", "in part", "no"

COLOURS = {  # told apart also without seeing red, green or blue (Okabe and Ito)
    "weak": "#0072b2",
    "strong": "#d55e00",
    "w2sd": "#111111",
    "ideal": "#009e73",
    "autoguided": "#cc79a7",
    "zero-gap": "#7f7f7f",
    "paper": "#56b4e9",
    "release": "#e69f00",
}

NAMES = {"ddpm": "noise path (DDPM)", "sdxl": "noise path (SDXL)", "flow": "flow path"}


@dataclass(frozen=True)
class Made:
    """A figure: numbers (JSON data), the sheet to draw, one sentence of what was measured, and a verdict."""

    numbers: dict[str, Any]
    sheet: Sheet
    measured: str
    agrees: str


def verdict(*holds: bool) -> str:
    """ "yes" if all of these hold, "no" if none does, else "in part"."""
    return AGREES if all(holds) else PARTLY if any(holds) else DISAGREES
