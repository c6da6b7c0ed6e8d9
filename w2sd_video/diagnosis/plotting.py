"""The plot of a diagnosis: moves and inversion error, gaps and cosine, by level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from w2sd_video.diagnosis.measuring import Array, Measured
from w2sd_video.report.figures import GREY, METHOD_COLOURS, interval_line, log_scale, shared_legend, style, subplots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOVE, GAP, OTHER, LIMIT = (METHOD_COLOURS[name] for name in ("w2sd, fused", "w2sd", "strong", "ideal"))


@style()
def draw_gap(measured: Measured, title: str, reflections: float, similar_below: float) -> Figure:
    """The mean over samples by level, bands of a standard deviation; `reflections` is the recommended share of steps.

    `similar_below` is the threshold of over-similarity.
    """
    count = measured.move.shape[1] + 1
    x = np.arange(count - 1)
    figure, ((moves, sizes, directions),) = subplots(1, 3, size=(4.2, 3.6), title=title)
    _line(moves, x, measured.move, MOVE, "move of a reflection (fused)")
    if np.isfinite(measured.error).all():
        _line(moves, x, measured.error, GREY, "error of the inversion (zero-gap)")
    moves.set(title="What a reflection moves", ylabel="rms, latent units")
    log_scale(moves, "y")
    _line(sizes, x, measured.clean_gap, GAP, "gap of clean estimates / sample")
    _line(sizes, x, measured.gap, OTHER, "gap / prediction")
    sizes.axhline(similar_below, color=GREY, linestyle="--", label="too similar below (mean over levels)")
    sizes.set(title="Size of the gap", ylabel="relative")
    log_scale(sizes, "y")
    _line(directions, x[1:], measured.cosine[:, 1:], GAP, None)
    lowest = min(0.0, float(np.nanmin(measured.cosine))) - 0.05
    directions.set(title="Direction of successive gaps", ylabel="cosine", ylim=(lowest, 1.05))
    for axes in (moves, sizes, directions):
        axes.axvline(reflections * count - 0.5, color=LIMIT, linestyle="--", label="recommended lambda")
        axes.set(xlabel="sampling step, noisiest first", xlim=(-0.5, count - 1.5))
        axes.xaxis.get_major_locator().set_params(integer=True)
    shared_legend(figure, columns=5)
    return figure


def _line(axes: Any, x: Array, values: Array, colour: str, label: str | None) -> None:
    mean, spread = values.mean(0), values.std(0)
    low = np.maximum(mean - spread, 0.2 * mean) if (mean > 0).all() else mean - spread
    interval_line(axes, x.tolist(), list(zip(mean, low, mean + spread, strict=True)), color=colour, label=label)
