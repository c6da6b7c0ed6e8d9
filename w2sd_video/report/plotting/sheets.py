"""A sheet: a title, rows of panels with axes, and one legend for all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from w2sd_video.report.plotting.marks import Area, Arrows, Bars, Contours, Dots, Fan, Line, Mark, Rule


@dataclass(frozen=True)
class Axis:
    """An axis; limits that are None are those of what is drawn. `ticks` replaces round numbers by (place, words)."""

    label: str = ""
    low: float | None = None
    high: float | None = None
    log: bool = False
    ticks: Sequence[tuple[float, str]] | None = None


@dataclass(frozen=True)
class Panel:
    title: str
    x: Axis
    y: Axis
    marks: Sequence[Mark]


@dataclass(frozen=True)
class Sheet:
    """Rows of panels of one size (`panel`: width and height in pixels, axes included)."""

    title: str
    rows: Sequence[Sequence[Panel]]
    panel: tuple[int, int] = (400, 330)


@dataclass(frozen=True)
class Span:
    """An axis with its limits settled: numbers to shares of its length."""

    low: float
    high: float
    log: bool
    ticks: tuple[tuple[float, str], ...]

    def share(self, values: ArrayLike) -> NDArray[np.float64]:
        """Returns where values lie, 0 at `low` and 1 at `high`; on a log axis what is not positive lies far below."""
        numbers = np.asarray(values, dtype=float)
        if self.log:
            numbers = np.log10(np.maximum(numbers, 1e-300))
            low, high = math.log10(self.low), math.log10(self.high)
        else:
            low, high = self.low, self.high
        return np.clip((numbers - low) / (high - low), -50.0, 50.0)


def span(axis: Axis, values: NDArray[np.float64]) -> Span:
    """Returns the axis with limits and ticks for the finite ones of these values."""
    finite = values[np.isfinite(values) & ((values > 0) | (not axis.log))]
    low = axis.low if axis.low is not None else (float(finite.min()) if len(finite) else 1.0)
    high = axis.high if axis.high is not None else (float(finite.max()) if len(finite) else low + 1.0)
    if axis.log:
        margin = 1.12 if high / low < 100 else 1.4
        low = low if axis.low is not None else low / margin
        high = high if axis.high is not None else high * margin
        found = _decades(low, high)
    else:
        margin = 0.06 * (high - low) or 0.5
        low = low if axis.low is not None else low - margin
        high = high if axis.high is not None else high + margin
        found = tuple((v, f"{v:g}") for v in round_numbers(low, high))
    return Span(low, high, axis.log, tuple(axis.ticks) if axis.ticks is not None else found)


def round_numbers(low: float, high: float, most: int = 6) -> list[float]:
    """Returns at most `most` round numbers within low .. high."""
    size = 10.0 ** math.floor(math.log10(high - low))
    for part in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0):
        step = size * part
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            break
    return [round(step * n, 12) for n in range(first, last + 1)]


def _decades(low: float, high: float) -> tuple[tuple[float, str], ...]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    parts = (1, 2, 5) if last - first <= 2 else (1, 3) if last - first <= 3 else (1,)
    every = max(1, (last - first) // 6)
    values = [part * 10.0**n for n in range(first, last + 1, every) for part in parts]
    return tuple((v, f"{v:g}") for v in values if low * 0.999 <= v <= high * 1.001)


def extent(marks: Sequence[Mark]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns all the numbers that the marks put on the x and on the y axis."""
    xs: list[ArrayLike] = []
    ys: list[ArrayLike] = []
    for mark in marks:
        match mark:
            case Line() | Fan() | Dots() | Contours():
                xs.append(mark.x)
                ys.append(mark.y)
            case Area():
                xs.append(mark.x)
                ys += [mark.y, [mark.base]]
            case Bars():
                centres = np.asarray(mark.x, dtype=float)
                xs += [centres - mark.width / 2, centres + mark.width / 2]
                ys += [mark.y, [mark.base]]
            case Arrows():
                for ends in (mark.tails, mark.heads):
                    xs.append(np.asarray(ends, dtype=float)[:, 0])
                    ys.append(np.asarray(ends, dtype=float)[:, 1])
            case Rule():
                xs += [] if mark.x is None else [[mark.x]]
                ys += [] if mark.y is None else [[mark.y]]
    return _joined(xs), _joined(ys)


def _joined(parts: Sequence[ArrayLike]) -> NDArray[np.float64]:
    arrays = [np.asarray(part, dtype=float).ravel() for part in parts]
    return np.concatenate(arrays) if arrays else np.zeros(0)
