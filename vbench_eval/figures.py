"""One look for every figure: the colours of the methods, one style, and files that are the same whenever they are made.

matplotlib is an extra and imported when a figure is made: `pip install -e '.[plots]'` in a clone.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbench_eval.errors import UserError
from vbench_eval.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INSTALL = "pip install -e '.[plots]'"
GREY = "#7f7f7f"
METHOD_COLOURS = {  # told apart also by eyes without red or green cones (from Okabe and Ito; a test measures it)
    "w2sd": "#d55e00",
    "w2sd, fused": "#e69f00",
    "strong": "#0072b2",
    "weak": "#56b4e9",
    "ideal": "#7cbf9e",
    "zero-gap": GREY,
    "swapped": "#332288",
    "autoguided": "#4b5873",
    "release": "#a6694b",
    "w2sd-auto": "#733e34",
    "resample": "#30bfbf",
    "resample-aligned": "#b4bf7c",
    "resample-opposed": "#734c00",
}
CYCLE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # for what is no method

_STYLE: dict[str, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "figure.constrained_layout.use": True,
    "figure.titlesize": 13,
    "figure.titleweight": "bold",
    "font.size": 10,
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same figure on every machine
    "text.parse_math": False,  # a "$" in a prompt or label is a dollar
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


_DARK: dict[str, Any] = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), "#1b1e25"),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), "#e8eaee"),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), "#98a0ae"),
    "grid.color": "#2d323c",
}


def colours(labels: Iterable[str]) -> dict[str, str]:
    """A colour for each label: a method's own one, for other labels those that no method here has, in their order.

    A label may say more than the method: "w2sd (lambda 5)" has the colour of "w2sd" if that is free.
    """
    wanted = list(dict.fromkeys(labels))
    chosen = {label: METHOD_COLOURS[label] for label in wanted if label in METHOD_COLOURS}
    for label in wanted:
        own = METHOD_COLOURS.get(label.partition(",")[0].partition(" ")[0])
        if label not in chosen and own is not None and own not in chosen.values():
            chosen[label] = own
    palette = dict.fromkeys((*CYCLE, *METHOD_COLOURS.values()))
    free = [colour for colour in palette if colour not in chosen.values()] or list(CYCLE)
    for place, label in enumerate(label for label in wanted if label not in chosen):
        chosen[label] = free[place % len(free)]
    return {label: chosen[label] for label in wanted}


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


@contextmanager
def style(*, dark: bool = False) -> Iterator[None]:
    """The style of every figure while it is drawn; also a decorator of functions that draw. On a dark page if `dark`.

    A user's own matplotlibrc changes nothing here, and matplotlib's settings are as before afterwards.

    Raises:
        UserError: matplotlib is not installed.
    """
    if not available():
        raise UserError(f"figures need matplotlib, which is not installed; in a clone: {INSTALL}")
    from cycler import cycler
    from matplotlib import rc_context, rcParamsDefault

    defaults = {name: value for name, value in rcParamsDefault.items() if "backend" not in name}
    settings: Any = {**defaults, **_STYLE, **(_DARK if dark else {}), "axes.prop_cycle": cycler(color=CYCLE)}
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


def log_scale(axes: Any, *which: str) -> None:
    """Logarithmic axes, "x" or "y" or both, with plain numbers at powers of ten; at 2 and 5 too where those are few."""
    from matplotlib.ticker import FuncFormatter

    def between(axis: Any) -> Any:
        def words(value: float, _: int) -> str:
            low, high = axis.get_view_interval()
            return f"{value:g}" if high < 30 * low and f"{value:e}"[0] in "25" else ""

        return FuncFormatter(words)

    for name in which:
        getattr(axes, f"set_{name}scale")("log")
        axis = getattr(axes, f"{name}axis")
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(between(axis))


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
    with style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a label in letters that the font lacks shows boxes
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG, complete or not at all, and its folder if it is not there. OSError if it cannot be written."""
    write_bytes(path, png(figure))


def interval_line(axes: Any, x: Sequence[float], points: Sequence[Sequence[float | None]], **options: Any) -> None:
    """A line through points (value, low, high) over x, its interval a band; a missing limit is the value itself."""
    values = [float(point[0]) for point in points if point[0] is not None]
    ends = [[value if end is None else end for end in point[1:3]] for value, point in zip(values, points, strict=True)]
    (line,) = axes.plot(x, values, **{"marker": "o", **options})
    low, high = zip(*ends, strict=True)
    axes.fill_between(x, low, high, color=line.get_color(), alpha=0.18, linewidth=0)
