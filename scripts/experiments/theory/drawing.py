"""What the figures share: what one is made of, its verdict, names and colours, and small marks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from w2sd_video.report.figures import GREY, METHOD_COLOURS, log_scale, shared_legend, style, subplots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AGREES, PARTLY, DISAGREES = "yes", "in part", "no"
COLOURS = {**METHOD_COLOURS, "paper": METHOD_COLOURS["w2sd"], "fused": METHOD_COLOURS["w2sd, fused"]}
NAMES = {"ddpm": "noise path (DDPM)", "sdxl": "noise path (SDXL)", "flow": "flow path"}
PATH_LOOKS: dict[str, dict[str, Any]] = {  # of curves that tell paths, not methods, apart
    "ddpm": {"color": "#1b1b1b", "label": NAMES["ddpm"], "marker": "o"},
    "sdxl": {"color": "#8c8c8c", "label": NAMES["sdxl"], "marker": "o"},
    "flow": {"color": "#7b3294", "label": NAMES["flow"], "marker": "o", "linestyle": "--"},
}
NOUNS = {"weak": "weak model", "strong": "strong model", "w2sd": "W2SD", "ideal": "ideal model"}
AWAY = "#b5b5b5"  # paths that end elsewhere
W2 = "W2 distance to the ideal data"


@dataclass(frozen=True)
class Made:
    """A figure: numbers (JSON data), the figure, one sentence of what was measured, and a verdict."""

    numbers: dict[str, Any]
    figure: Figure
    measured: str
    agrees: str

    @property
    def title(self) -> str:
        return self.figure.get_suptitle()


def verdict(*holds: bool) -> str:
    """ "yes" if all of these hold, "no" if none does, else "in part"."""
    return AGREES if all(holds) else PARTLY if any(holds) else DISAGREES


def finished(figure: Figure, *, columns: int = 4) -> Figure:
    """The figure with one legend for all of its axes."""
    shared_legend(figure, columns=columns)
    return figure


def level(axes: Any, y: float, colour: str, label: str | None = None) -> None:
    """A dashed line across at y."""
    axes.axhline(y, color=colour, linestyle="--", linewidth=1.2, label=label)


def log_x(axes: Any, values: Sequence[float], words: Sequence[str] | None = None) -> None:
    """A logarithmic x axis with these ticks alone."""
    axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:g}" for value in values] if words is None else words)
    axes.minorticks_off()


__all__ = [
    "AWAY",
    "COLOURS",
    "GREY",
    "NAMES",
    "NOUNS",
    "PATH_LOOKS",
    "W2",
    "Made",
    "finished",
    "level",
    "log_scale",
    "log_x",
    "style",
    "subplots",
    "verdict",
]
