"""The library's figures: a curve over a setting, and the sides that Algorithm 2 chose. matplotlib is an extra."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from vbench_eval import figures as shared
from vbench_eval.figures import (
    GREY,
    INSTALL,
    METHOD_COLOURS,
    available,
    interval_line,
    log_scale,
    save,
    shared_legend,
    subplots,
)
from w2sd_video.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOT_DRAWN = f"not drawn: matplotlib is not installed ({INSTALL} in a clone)"
MOST_ROWS = 60  # of a picture of choices; the counts are of all


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


@contextmanager
def style() -> Iterator[None]:
    """The style of every figure while it is drawn; also a decorator. UserError if matplotlib is not installed."""
    if not available():
        raise UserError(f"figures need matplotlib, which is not installed; in a clone: {INSTALL}")
    with shared.style():
        yield


Lines = Mapping[str, Sequence[Point]]
"""By method, a point for each value of the axis; or one, for a method that the setting does not change."""


@style()
def curve(title: str, label: str, values: Sequence[int | float | str], lines: Lines) -> Figure:
    """A line with a band for each method over the values (words are set evenly); a level one where nothing changes."""
    numbers = [float(v) for v in values if not isinstance(v, str)]
    places = numbers if len(numbers) == len(values) else [float(k) for k in range(len(values))]
    figure, ((axes,),) = subplots(size=(7.0, 4.2))
    axes.set(title=title, xlabel=label)
    if places is not numbers:
        axes.set_xticks(places, [str(value) for value in values])
    elif len(places) <= 12:
        axes.set_xticks(places, [f"{value:g}" for value in places])
    for method, points in lines.items():
        colour = METHOD_COLOURS.get(method, "black")
        if len(points) == 1 and len(places) > 1:
            value, *limits = astuple(points[0])
            axes.axhline(value, color=colour, linestyle="--", label=method)
            if None not in limits:
                axes.axhspan(*limits, color=colour, alpha=0.08, linewidth=0)
        else:
            interval_line(axes, places, [astuple(point) for point in points], color=colour, label=method)
    figure.legend(loc="outside lower center", ncols=min(5, len(lines)))
    return figure


@style()
def choices(rows: Mapping[str, str], steps: Sequence[int], *, noun: str = "picture") -> Figure:
    """A row of cells for each text of letters "s" and "w", a column for each reflected step; below, the weak's share.

    A text may be shorter than the steps, of a call that was ended early. Of more than MOST_ROWS the first are drawn.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    texts = list(rows.values())
    columns = max([len(steps), 1, *map(len, texts)])
    shown = list(rows.items())[:MOST_ROWS]
    letters = "".join(texts)
    figure, axes = subplots(
        2,
        size=(8.6, (1.6 + 0.24 * len(shown)) / 2),
        title="w2sd-auto: the side that the reward took as the strong one",
        sharex=True,
        height_ratios=(max(1.0, 0.24 * len(shown)), 1.0),
    )
    (grid,), (bars,) = axes
    cells = [[{"s": 0.0, "w": 1.0}[letter] for letter in text] for _, text in shown]
    padded = [row + [float("nan")] * (columns - len(row)) for row in cells]
    colours = {"strong": METHOD_COLOURS["strong"], "weak": METHOD_COLOURS["weak"]}
    grid.grid(False)
    grid.pcolormesh(padded, cmap=ListedColormap(list(colours.values())), vmin=0, vmax=1, edgecolor="white", linewidth=1)
    grid.invert_yaxis()
    places = [k + 0.5 for k in range(len(shown))]
    grid.set_yticks(places, [_shortened(label) for label, _ in shown], fontsize=8)
    beside = grid.twinx()
    beside.set(ylim=grid.get_ylim())
    beside.grid(False)
    beside.set_yticks(places, [f"{text.count('w') / max(1, len(text)):.0%}" for _, text in shown], fontsize=8)
    beside.set_ylabel("weak side")
    if len(shown) < len(texts):
        grid.set_title(f"the first {len(shown)} of {len(texts)} {noun}s; counts are of all")
    shares = []
    for column in range(columns):
        here = [text[column] for text in texts if column < len(text)]
        shares.append(here.count("w") / len(here) if here else 0.0)
    bars.bar([k + 0.5 for k in range(columns)], shares, width=0.9, color=colours["weak"])
    bars.set(ylim=(0, 1), ylabel="weak, share", xlabel="reflected step (0 is the noisiest)", xlim=(0, columns))
    every = max(1, -(-columns // 25))
    bars.set_xticks([k + 0.5 for k in range(0, len(steps), every)], [str(step) for step in steps[::every]])
    figure.legend(
        handles=[
            Patch(color=colours[side], label=f"the {side} side: {count} of {len(letters)}")
            for side, count in (("strong", letters.count("s")), ("weak", letters.count("w")))
        ],
        loc="outside lower center",
        ncols=2,
    )
    return figure


def _shortened(label: str, most: int = 34) -> str:
    """The label, its middle left out where it is too long: its end says which of a prompt's it is."""
    return label if len(label) <= most else f"{label[: most - 12]}...{label[-9:]}"


__all__ = [
    "GREY",
    "METHOD_COLOURS",
    "NOT_DRAWN",
    "Lines",
    "Point",
    "available",
    "choices",
    "curve",
    "interval_line",
    "log_scale",
    "save",
    "shared_legend",
    "style",
    "subplots",
]
