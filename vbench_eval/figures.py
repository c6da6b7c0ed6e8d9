"""One look for every figure: the colours of the methods, one style, and files that are the same whenever they are made.

matplotlib is an extra and imported when a figure is made: `pip install -e '.[plots]'` in a clone.
"""

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbench_eval.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INSTALL = "pip install -e '.[plots]'"
GREY = "#7f7f7f"
METHOD_COLOURS = {  # told apart without seeing red, green or blue (Okabe and Ito; Tol)
    "w2sd": "#d55e00",
    "w2sd, fused": "#e69f00",
    "strong": "#0072b2",
    "weak": "#56b4e9",
    "ideal": "#009e73",
    "zero-gap": GREY,
    "swapped": "#332288",
    "autoguided": "#cc79a7",
    "release": "#999933",
    "w2sd-auto": "#882255",
    "resample": "#44aa99",
    "resample-aligned": "#117733",
    "resample-opposed": "#b8a038",
}
CYCLE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # for what is no method

_STYLE: dict[str, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "figure.constrained_layout.use": True,
    "figure.titlesize": 13,
    "figure.titleweight": "bold",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.hashsalt": "figures",
}


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


@contextmanager
def style() -> Iterator[None]:
    """The style of every figure while it is drawn and saved; also a decorator of functions that draw.

    Raises:
        UserError: matplotlib is not installed.
    """
    if not available():
        raise UserError(f"figures need matplotlib, which is not installed; in a clone: {INSTALL}")
    from cycler import cycler
    from matplotlib import rc_context

    settings: Any = {**_STYLE, "axes.prop_cycle": cycler(color=CYCLE)}
    with rc_context(settings):
        yield


def subplots(
    rows: int = 1, columns: int = 1, *, size: tuple[float, float] = (4.0, 3.1), title: str = "", **options: Any
) -> tuple[Figure, Any]:
    """A figure and its axes [rows, columns], each of `size` inches; `options` as for `Figure.subplots`. No window."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * size[0], rows * size[1] + (0.3 if title else 0.0)))
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    if title:
        figure.suptitle(title, wrap=True)
    return figure, axes


def shared_legend(figure: Figure, *, columns: int = 4) -> None:
    """One legend below all axes, each label once."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        figure.legend(
            list(found.values()), list(found), loc="outside lower center", ncols=min(columns, len(found)), fontsize=9
        )


def png(figure: Figure) -> bytes:
    """The figure as a PNG file, equal to the byte for equal figures."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG, complete or not at all. OSError if it cannot be written."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(png(figure))
    os.replace(partial, path)


def interval_line(axes: Any, x: Sequence[float], points: Sequence[Sequence[float | None]], **options: Any) -> None:
    """A line through points (value, low, high) over x, its interval a band; a missing limit is the value itself."""
    values = [float(point[0]) for point in points if point[0] is not None]
    ends = [[value if end is None else end for end in point[1:3]] for value, point in zip(values, points, strict=True)]
    (line,) = axes.plot(x, values, **{"marker": "o", **options})
    low, high = zip(*ends, strict=True)
    axes.fill_between(x, low, high, color=line.get_color(), alpha=0.18, linewidth=0)
