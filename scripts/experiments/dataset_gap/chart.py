"""Lines with intervals in a panel, drawn with PIL."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image, ImageDraw

from experiments.dataset_gap.statistics import Interval

WIDTH = 560
LEFT, RIGHT, TOP, BOTTOM = 62, WIDTH - 16, 44, 304


@dataclass(frozen=True)
class Line:
    """Points over x with their intervals (bars), or dashed without; one point alone is a level across the panel."""

    label: str
    colour: str
    xs: Sequence[float]
    points: Sequence[Interval]
    dashed: bool = False


def exact(value: float) -> Interval:
    """A number without uncertainty."""
    return Interval(value, value, value)


def ticks(low: float, high: float) -> list[float]:
    """Three to nine round numbers within low .. high."""
    size = 10.0 ** math.floor(math.log10(high - low))
    step = next((size * part for part in (0.1, 0.2, 0.5) if (high - low) / (size * part) <= 7), size)
    return [round(step * n, 12) for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def panel(
    title: str, x_label: str, lines: Sequence[Line], *, low: float, high: float, flip: bool = False
) -> Image.Image:
    """The lines between `low` and `high`; `flip` runs x from high to low (noise levels, noisiest first)."""
    xs = [x for line in lines if len(line.points) > 1 for x in line.xs]
    first, last = (max(xs), min(xs)) if flip else (min(xs), max(xs))

    def place(x: float, y: float) -> tuple[float, float]:
        y = min(max(y, low), high)
        return LEFT + 10 + (RIGHT - LEFT - 20) * (x - first) / (last - first), BOTTOM - (BOTTOM - TOP) * (y - low) / (
            high - low
        )

    picture = Image.new("RGB", (WIDTH, BOTTOM + 52 + 18 * -(-len(lines) // 2)), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((WIDTH / 2, 20), title, fill="black", anchor="mm", font_size=15)
    draw.text(((LEFT + RIGHT) / 2, BOTTOM + 36), x_label, fill="black", anchor="mm", font_size=13)
    for y in ticks(low, high):
        at = place(first, y)[1]
        draw.line([(LEFT, at), (RIGHT, at)], fill="#999999" if y == 0 else "#e2e2e2")
        draw.text((LEFT - 6, at), f"{y:g}", fill="black", anchor="rm", font_size=12)
    for x in ticks(min(xs), max(xs)):
        draw.text((place(x, low)[0], BOTTOM + 14), f"{x:g}", fill="black", anchor="mm", font_size=12)
    draw.line([(LEFT, TOP), (LEFT, BOTTOM), (RIGHT, BOTTOM)], fill="black")
    for number, line in enumerate(lines):
        _draw_line(draw, line, place, (first, last))
        key = (LEFT + 250 * (number % 2), BOTTOM + 56 + 18 * (number // 2))
        _stroke(draw, [key, (key[0] + 24, key[1])], line)
        draw.text((key[0] + 30, key[1]), line.label, fill="black", anchor="lm", font_size=12)
    return picture


def _stroke(draw: ImageDraw.ImageDraw, places: Sequence[tuple[float, float]], line: Line) -> None:
    if not line.dashed:
        draw.line(list(places), fill=line.colour, width=2)
        return
    for start, end in pairwise(places):
        length = math.dist(start, end)
        for n in range(math.ceil(length / 8)):
            parts = [min(1.0, (8 * n + offset) / length) for offset in (0, 4)]
            ends = [tuple(a + (b - a) * part for a, b in zip(start, end, strict=True)) for part in parts]
            draw.line(ends, fill=line.colour, width=2)


def _draw_line(draw: ImageDraw.ImageDraw, line: Line, place, ends: tuple[float, float]) -> None:
    if len(line.points) == 1:
        _stroke(draw, [place(x, line.points[0].value) for x in ends], line)
        return
    _stroke(draw, [place(x, point.value) for x, point in zip(line.xs, line.points, strict=True)], line)
    for x, point in zip(line.xs, line.points, strict=True):
        if point.high > point.low:
            draw.line([place(x, point.low), place(x, point.high)], fill=line.colour, width=2)
        if not line.dashed and len(line.points) <= 12:
            draw.circle(place(x, point.value), 3.5, fill=line.colour)
