"""Plots of a comparison: the paired differences with their intervals, and every video under baseline and method."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from vbench_eval.canvas import LIGHT, Canvas, Theme
from vbench_eval.comparison import ALPHA, Comparison, Row
from vbench_eval.meanings import words
from vbench_eval.tables import interval_text

_NAME, _TEXT, _LINE, _GAP, _HEAD, _FOOT = 190, 210, 20, 12, 58, 46
_PANEL, _COLUMNS = 290, 3


def differences_plot(comparison: Comparison, rows: Sequence[Row], theme: Theme = LIGHT) -> Image.Image | None:
    """Per dimension the difference of each method to the baseline, with its interval; None if there is none.

    Every dimension has its own scale, since a point of dynamic degree is nothing beside a point of consistency: the
    numbers stand at the right. A full dot is significant at 0.05 after Holm's correction.
    """
    rows = [row for row in rows if row.differences]
    if not rows:
        return None
    others = comparison.labels[1:]
    heights = [_LINE * len(row.differences) + _GAP for row in rows]
    canvas = Canvas(860, _HEAD + sum(heights) + _FOOT, theme)
    left, right = _NAME + 14, canvas.width - _TEXT - 14
    middle, half = (left + right) / 2, (right - left) / 2
    _legend(canvas, others, f"minus {comparison.baseline}", left)
    bottom = canvas.height - _FOOT
    canvas.line((middle, _HEAD - 10), (middle, bottom), theme.faint)
    top = float(_HEAD)
    for row, height in zip(rows, heights, strict=True):
        canvas.line((10, top - _GAP / 2), (canvas.width - 10, top - _GAP / 2), theme.line)
        centre = top + (height - _GAP) / 2
        note = {1: "", -1: "lower is better", 0: "neither way is better"}[row.better]
        canvas.text((_NAME, centre - (7 if note else 0)), canvas.fit(words(row.name), _NAME - 14), anchor="rm")
        canvas.text((_NAME, centre + 8), note, size=10, anchor="rm", colour=theme.faint)
        reach = max(_reach(row), 1e-12)
        for n, (label, found) in enumerate(row.differences.items()):
            y, colour = top + _LINE * (n + 0.5), theme.marks[others.index(label) % len(theme.marks)]
            x = middle + half * found.interval.value / reach
            if found.interval.low is not None and found.interval.high is not None:
                low, high = (middle + half * end / reach for end in (found.interval.low, found.interval.high))
                canvas.line((low, y), (high, y), colour, 2)
                for end in (low, high):
                    canvas.line((end, y - 4), (end, y + 4), colour, 1.5)
            canvas.dot((x, y), 4.5, colour, filled=found.p_holm < ALPHA)
            canvas.text((right + 14, y), interval_text(row, found.interval, signed=True), size=12)
        top += height
    for x, word in ((-34, "less"), (0, "0"), (34, "more")):
        canvas.text((middle + x, bottom + 12), word, size=11, anchor="mm", colour=theme.faint)
    note = f"Lines: {comparison.level:.0%} intervals. Full dots: p < {ALPHA} after Holm's correction. "
    note += "Rows have their own scales."
    canvas.text((canvas.width / 2, bottom + 32), note, size=11, anchor="mm", colour=theme.faint)
    return canvas.picture()


def _reach(row: Row) -> float:
    """The largest number that the row must show."""
    ends = [end for found in row.differences.values() for end in (found.interval.low, found.interval.high)]
    values = [found.interval.value for found in row.differences.values()]
    return 1.04 * max(abs(number) for number in (*values, *ends) if number is not None)


def _legend(canvas: Canvas, labels: Sequence[str], title: str, left: float) -> None:
    x = left
    for n, label in enumerate(labels):
        shown = canvas.fit(label, 150)
        canvas.dot((x + 5, 24), 4.5, canvas.theme.marks[n % len(canvas.theme.marks)])
        canvas.text((x + 16, 24), shown)
        x += 34 + canvas.measure(shown)
    canvas.text((x, 24), canvas.fit(title, canvas.width - x), colour=canvas.theme.faint)


def scatter_plot(comparison: Comparison, rows: Sequence[Row], label: str, theme: Theme = LIGHT) -> Image.Image | None:
    """A panel per dimension with a dot per video: the baseline's score across, the method's upward; None if no panel.

    Dots above the diagonal are higher under the method. A yes-or-no dimension shows the four counts of pairs.
    """
    rows = [row for row in rows if label in row.differences]
    if not rows:
        return None
    columns = min(_COLUMNS, len(rows))
    canvas = Canvas(_PANEL * columns, (_PANEL + 6) * math.ceil(len(rows) / columns), theme)
    colour = theme.marks[(comparison.labels.index(label) - 1) % len(theme.marks)]
    for n, row in enumerate(rows):
        corner = (_PANEL * (n % columns), (_PANEL + 6) * (n // columns))
        base, ours = row.values[comparison.baseline], row.values[label]
        canvas.text((corner[0] + _PANEL / 2 + 18, corner[1] + 16), words(row.name), size=14, anchor="mm")
        area = (corner[0] + 52.0, corner[1] + 32.0, corner[0] + _PANEL - 14.0, corner[1] + _PANEL - 34.0)
        name, other = canvas.fit(comparison.baseline, 190, 11), canvas.fit(label, 190, 11)
        canvas.text(
            ((area[0] + area[2]) / 2, area[3] + 28),
            f"{name} (across), {other} (up)",
            size=11,
            anchor="mm",
            colour=theme.faint,
        )
        if row.yes_or_no:
            _counts(canvas, area, base, ours, colour)
        else:
            scale = 100 if row.official else 1
            _dots(canvas, area, [scale * x for x in base], [scale * y for y in ours], colour)
    return canvas.picture()


Area = tuple[float, float, float, float]


def _dots(canvas: Canvas, area: Area, base: Sequence[float], ours: Sequence[float], colour: str) -> None:
    left, top, right, bottom = area
    low, high = min(*base, *ours), max(*base, *ours)
    margin = 0.06 * (high - low) or abs(high) * 0.01 or 0.01
    low, high = low - margin, high + margin

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (right - left) * (x - low) / (high - low), bottom - (bottom - top) * (y - low) / (high - low)

    for tick in ticks(low, high):
        x, y = place(tick, tick)
        canvas.line((left, y), (right, y), canvas.theme.line)
        canvas.line((x, top), (x, bottom), canvas.theme.line)
        canvas.text((left - 6, y), f"{tick:.4g}", size=10.5, anchor="rm", colour=canvas.theme.faint)
        canvas.text((x, bottom + 11), f"{tick:.4g}", size=10.5, anchor="mm", colour=canvas.theme.faint)
    canvas.line(place(low, low), place(high, high), canvas.theme.faint)
    radius = 3.2 if len(base) < 300 else 2.2
    for x, y in zip(base, ours, strict=True):
        canvas.cloud(place(x, y), radius, colour)


def _counts(canvas: Canvas, area: Area, base: Sequence[float], ours: Sequence[float], colour: str) -> None:
    left, top, right, bottom = area
    pairs = list(zip(base, ours, strict=True))
    width, height = (right - left) / 2, (bottom - top) / 2
    for yes_base in (0, 1):
        for yes_ours in (0, 1):
            count = sum((x, y) == (yes_base, yes_ours) for x, y in pairs)
            x, y = left + width * yes_base, bottom - height * (yes_ours + 1)
            shade = round(12 + 100 * count / len(pairs))
            canvas.box((x + 1, y + 1), (x + width - 1, y + height - 1), f"{colour}{shade:02x}")
            canvas.text((x + width / 2, y + height / 2), str(count), size=22, anchor="mm")
    for n, word in enumerate(("no", "yes")):
        canvas.text((left + width * (n + 0.5), bottom + 11), word, size=10.5, anchor="mm", colour=canvas.theme.faint)
        canvas.text((left - 6, bottom - height * (n + 0.5)), word, size=10.5, anchor="rm", colour=canvas.theme.faint)


def ticks(low: float, high: float) -> list[float]:
    """Two to five round numbers within low .. high, low < high."""
    size = 10.0 ** math.floor(math.log10(high - low))
    for step in (size * part for part in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)):
        first, last = math.ceil(low / step), math.floor(high / step)
        if last - first <= 4:
            return [step * n for n in range(first, last + 1)]
    return []
