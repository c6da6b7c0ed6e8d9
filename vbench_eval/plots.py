"""Plots of a comparison: the paired differences with their intervals, and every video under baseline and method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vbench_eval import figures
from vbench_eval.comparison import ALPHA, Comparison, Row, interval_text, motion_row, picture_rows, words
from vbench_eval.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 3


def motion_plot(comparison: Comparison, *, dark: bool = False) -> Figure | None:
    """Every method's quality of pictures against its motion, both with their intervals; None if one was not measured.

    Up is better; how far to the right a method ought to be is for the reader to say, but a step to the left for a step
    upward is a price that the table of means hides.
    """
    motion, pictures = motion_row(comparison), picture_rows(comparison)
    if motion is None or not pictures:
        return None
    colours = figures.colours(comparison.labels)
    with figures.style(dark=dark):
        figure, panels = figures.subplots(1, len(pictures), size=(3.9, 3.2))
        for axes, row in zip(panels[0], pictures, strict=True):
            scales = [100 if one.official else 1 for one in (motion, row)]
            for label in comparison.labels:
                if label not in motion.means or label not in row.means:
                    continue
                (x, x_ends), (y, y_ends) = (
                    _scaled(one.means[label], scale) for one, scale in zip((motion, row), scales, strict=True)
                )
                name = _short(label, 28)
                axes.errorbar(x, y, xerr=x_ends, yerr=y_ends, fmt="o", color=colours[label], capsize=3, label=name)
                axes.annotate(
                    name, (x, y), xytext=(5, 5), textcoords="offset points", fontsize=8.5, color=colours[label]
                )
            axes.set_xlabel(f"{words(motion.name)}{'' if motion.official else ' (proxy)'}: more motion to the right")
            axes.set_ylabel(words(row.name))
            axes.margins(0.15)
        figure.supxlabel(f"Means with {comparison.level:.0%} intervals.", fontsize=8)
    return figure


def _scaled(found: Interval, scale: float) -> tuple[float, list[list[float]] | None]:
    """The value, and how far its interval reaches down and up."""
    if found.low is None or found.high is None:
        return scale * found.value, None
    ends = found.value - found.low, found.high - found.value  # of equal values, rounding leaves less than nothing
    return scale * found.value, [[max(0.0, scale * end)] for end in ends]


def differences_plot(comparison: Comparison, rows: Sequence[Row], *, dark: bool = False) -> Figure | None:
    """Per dimension the difference of each method to the baseline, with its interval; None if there is none.

    Every dimension has its own scale, since a point of dynamic degree is nothing beside a point of consistency: the
    numbers stand at the right. A full dot is significant at 0.05 after Holm's correction.
    """
    rows = [row for row in rows if row.differences]
    if not rows:
        return None
    colours = figures.colours(comparison.labels)
    count = sum(len(row.differences) for row in rows)
    with figures.style(dark=dark):
        figure, panels = figures.subplots(size=(7.8, 0.9 + 0.18 * count + 0.11 * len(rows)))
        axes, page = panels[0, 0], figure.get_facecolor()
        axes.axvline(0, color="#98a0ae", linewidth=1)
        top = 0.0
        for row in rows:
            reach, start = _reach(row), top
            for label, found in row.differences.items():
                value, low, high = (
                    None if end is None else end / reach
                    for end in (found.interval.value, found.interval.low, found.interval.high)
                )
                ends = None
                if value is not None and low is not None and high is not None:
                    ends = [[max(0.0, value - low)], [max(0.0, high - value)]]  # rounding may leave less than 0
                fill = colours[label] if found.p_holm < ALPHA else page
                axes.errorbar(value, top, xerr=ends, fmt="o", color=colours[label], mfc=fill, capsize=3)
                said = interval_text(row, found.interval, signed=True)
                axes.text(1.02, top, said, transform=axes.get_yaxis_transform(), va="center", fontsize=8.5)
                top += 1
            note = {1: "", -1: "\nlower is better", 0: "\nneither way is better"}[row.better]
            name = axes.text(-1.1, (start + top - 1) / 2, words(row.name) + note, ha="right", va="center", fontsize=9)
            name.set_in_layout(True)
            axes.axhline(top - 0.2, color="#98a0ae", linewidth=0.4)
            top += 0.6
        for label in comparison.labels[1:]:
            axes.plot([], [], "o", color=colours[label], label=_short(label, 28))
        axes.set(xlim=(-1.06, 1.06), ylim=(top - 0.6, -0.9), xticks=[-0.3, 0, 0.3], yticks=[])
        axes.set_xticklabels(["less", "0", "more"])
        axes.tick_params(length=0)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.legend(
            title=f"minus {_short(comparison.baseline, 40)}",
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=min(4, len(comparison.labels) - 1),
        )
        note = f"Lines: {comparison.level:.0%} intervals. Full dots: p < {ALPHA} after Holm's correction. "
        figure.supxlabel(note + "Rows have their own scales.", fontsize=8)
    return figure


def _reach(row: Row) -> float:
    """The largest number that the row must show."""
    found = [one.interval for one in row.differences.values()]
    numbers = [end for one in found for end in (one.value, one.low, one.high) if end is not None]
    return max(1.04 * max(map(abs, numbers)), 1e-12)


def scatter_plot(comparison: Comparison, rows: Sequence[Row], label: str, *, dark: bool = False) -> Figure | None:
    """A panel per dimension with a dot per video: the baseline's score across, the method's upward; None if no panel.

    Dots above the diagonal are higher under the method. A yes-or-no dimension shows the four counts of pairs.
    """
    rows = [row for row in rows if label in row.differences]
    if not rows:
        return None
    colour = figures.colours(comparison.labels)[label]
    columns = min(_COLUMNS, len(rows))
    with figures.style(dark=dark):
        figure, panels = figures.subplots(math.ceil(len(rows) / columns), columns, size=(2.7, 2.7))
        for axes, row in zip(panels.flat, rows, strict=False):
            base, ours = row.values[comparison.baseline], row.values[label]
            axes.set_title(words(row.name))
            if row.yes_or_no:
                _counts(axes, base, ours, colour)
            else:
                scale = 100 if row.official else 1
                _dots(axes, [scale * x for x in base], [scale * y for y in ours], colour)
        for axes in panels.flat[len(rows) :]:
            axes.set_axis_off()
        for axes in panels[-1, :]:
            axes.set_xlabel(_short(comparison.baseline, 30), fontsize=9)
        for axes in panels[:, 0]:
            axes.set_ylabel(_short(label, 30), fontsize=9)
    return figure


def _dots(axes: Any, base: Sequence[float], ours: Sequence[float], colour: str) -> None:
    low, high = min(*base, *ours), max(*base, *ours)
    margin = 0.06 * (high - low) or abs(high) * 0.01 or 0.01
    ends = (low - margin, high + margin)
    axes.plot(ends, ends, color="#98a0ae", linewidth=1)
    axes.scatter(base, ours, s=18 if len(base) < 300 else 8, color=colour, alpha=0.45, linewidths=0)
    axes.set(xlim=ends, ylim=ends, box_aspect=1)
    axes.locator_params(nbins=4)


def _counts(axes: Any, base: Sequence[float], ours: Sequence[float], colour: str) -> None:
    pairs = [(bool(x), bool(y)) for x, y in zip(base, ours, strict=True)]
    for x in (0, 1):
        for y in (0, 1):
            count = pairs.count((bool(x), bool(y)))
            share = 0.05 + 0.4 * count / len(pairs)
            axes.add_patch(_square(x, y, colour, share))
            axes.text(x, y, str(count), ha="center", va="center", fontsize=16)
    axes.set(xlim=(-0.5, 1.5), ylim=(-0.5, 1.5), box_aspect=1, xticks=[0, 1], yticks=[0, 1])
    axes.set_xticklabels(["no", "yes"])
    axes.set_yticklabels(["no", "yes"])
    axes.grid(False)


def _square(x: float, y: float, colour: str, opacity: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.49, y - 0.49), 0.98, 0.98, color=colour, alpha=opacity, linewidth=0)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3].rstrip() + "..."
