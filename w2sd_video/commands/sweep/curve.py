"""A curve with intervals as a picture (imports no torch)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 76, WIDTH - 24, 48, HEIGHT - 84
COLOURS = {
    "w2sd": "#c23b22",
    "w2sd, fused": "#1b7f8c",
    "strong": "#1f4e9c",
    "zero-gap": "#7a7a7a",
    "weak": "#2e8b57",
    "swapped": "#8a5cc2",
    "w2sd-auto": "#e08a1e",
    "resample": "#11848f",
    "resample-aligned": "#5a9e1b",
    "resample-opposed": "#a0a000",
    "autoguided": "#d24b9a",
}


@dataclass(frozen=True)
class Point:
    """A value with its confidence limits, None where there are none."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def ends(self) -> tuple[float, float]:
        low, high = (self.value if limit is None else limit for limit in (self.low, self.high))
        return low, high


Lines = Mapping[str, Sequence[Point]]
"""By method, a point for each value of the axis; or one, for a method that the setting does not change."""


def draw_curve(title: str, label: str, values: Sequence[int | float | str], lines: Lines) -> Image:
    """Returns the curves over the values (words are set evenly), a band for each method that does not change."""
    from PIL import Image, ImageDraw

    numbers = [float(v) for v in values if not isinstance(v, str)]
    places = numbers if len(numbers) == len(values) else [float(k) for k in range(len(values))]
    ends = [end for points in lines.values() for point in points for end in point.ends]
    low, high = min(ends), max(ends)
    margin = 0.08 * (high - low) or 0.05
    frame = _Frame(min(places), max(places), low - margin, high + margin)
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    draw.text(((LEFT + RIGHT) / 2, 22), title, fill="black", anchor="mm", font_size=17)
    draw.text(((LEFT + RIGHT) / 2, BOTTOM + 38), label, fill="black", anchor="mm", font_size=14)
    for y in ticks(frame.low, frame.high):
        draw.line([(LEFT, frame.y(y)), (RIGHT, frame.y(y))], fill="#e2e2e2")
        draw.text((LEFT - 8, frame.y(y)), f"{y:.6g}", fill="black", anchor="rm", font_size=12)
    shown = places if len(places) <= 16 else ticks(frame.first, frame.last)
    for x in shown:
        text = f"{x:g}" if places is numbers else str(values[places.index(x)])
        draw.text((frame.x(x), BOTTOM + 16), text, fill="black", anchor="mm", font_size=12)
    for method, points in lines.items():
        colour = COLOURS.get(method, "black")
        if len(points) == 1 and len(places) > 1:
            _band(draw, frame, points[0], colour)
        else:
            _line(draw, frame, places, points, colour)
    draw.line([(LEFT, TOP), (LEFT, BOTTOM), (RIGHT, BOTTOM)], fill="black")
    _legend(draw, list(lines))
    return picture


def _legend(draw: ImageDraw, methods: Sequence[str]) -> None:
    """The names of the lines; more than a row of them holds go into a second one."""
    x, y = float(LEFT), HEIGHT - (18 if len(methods) <= 5 else 28)
    for method in methods:
        if x + 60 + draw.textlength(method, font_size=13) > WIDTH:
            x, y = float(LEFT), y + 18
        draw.line([(x, y), (x + 22, y)], fill=COLOURS.get(method, "black"), width=3)
        draw.text((x + 28, y), method, fill="black", anchor="lm", font_size=13)
        x += max(120, 48 + draw.textlength(method, font_size=13))


def ticks(low: float, high: float) -> list[float]:
    """Returns three to eleven round numbers within low .. high; low alone where both are equal."""
    if not high > low:
        return [low]
    size = 10.0 ** math.floor(math.log10(high - low))
    step = next((size * part for part in (0.1, 0.2, 0.5, 1.0) if (high - low) / (size * part) <= 8), size * 2)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(step * n, 12) for n in range(first, last + 1)]


@dataclass(frozen=True)
class _Frame:
    """From the numbers of both axes to pixels."""

    first: float
    last: float
    low: float
    high: float

    def x(self, value: float) -> float:
        share = 0.5 if self.last == self.first else (value - self.first) / (self.last - self.first)
        return LEFT + 16 + (RIGHT - LEFT - 32) * share

    def y(self, value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (value - self.low) / (self.high - self.low)


def _band(draw: ImageDraw, frame: _Frame, point: Point, colour: str) -> None:
    for end in point.ends:
        for x in range(LEFT, RIGHT, 12):  # dashes, so that a limit is not taken for a value
            draw.line([(x, frame.y(end)), (x + 5, frame.y(end))], fill=colour)
    draw.line([(LEFT, frame.y(point.value)), (RIGHT, frame.y(point.value))], fill=colour, width=2)


def _line(draw: ImageDraw, frame: _Frame, places: Sequence[float], points: Sequence[Point], colour: str) -> None:
    middle = [(frame.x(x), frame.y(point.value)) for x, point in zip(places, points, strict=True)]
    draw.line(middle, fill=colour, width=2)
    for (x, y), point in zip(middle, points, strict=True):
        low, high = (frame.y(end) for end in point.ends)
        draw.line([(x, low), (x, high)], fill=colour, width=2)
        for end in (low, high):
            draw.line([(x - 5, end), (x + 5, end)], fill=colour, width=2)
        draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=colour)
