"""The plot of a diagnosis: moves and inversion error, gaps and cosine, by level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from w2sd_video.diagnosis.measuring import Array, Measured
from w2sd_video.report.plotting import Axis, Line, Mark, Panel, Rule, Sheet, draw

GAP, ERROR, OTHER, LIMIT, MOVE = "#c23b22", "#7a7a7a", "#1f4e9c", "#2e8b57", "#b07d12"


def draw_gap(measured: Measured, title: str, reflections: float, similar_below: float) -> Any:
    """Returns the picture; `reflections` is the recommended share of the steps, `similar_below` a threshold."""
    count = measured.move.shape[1] + 1
    x = np.arange(count - 1)
    places = Axis("sampling step, noisiest first", 0, count - 2, ticks=[(float(i), str(i)) for i in x])
    end = Rule(LIMIT, x=reflections * count - 0.5, label="recommended lambda")
    sizes: list[Mark] = [*_curve(x, measured.move, MOVE, "move of a reflection (fused)"), end]
    if np.isfinite(measured.error).all():
        sizes += _curve(x, measured.error, ERROR, "error of the inversion (zero-gap)")
    gaps: list[Mark] = [
        *_curve(x, measured.clean_gap, GAP, "gap of clean estimates / sample"),
        *_curve(x, measured.gap, OTHER, "gap / prediction"),
        Rule(ERROR, y=similar_below, label="too similar below (mean over levels)"),
        end,
    ]
    rows = [
        [
            Panel("What a reflection moves", places, Axis("rms, latent units", log=True), sizes),
            Panel("Size of the gap", places, Axis("relative", log=True), gaps),
            Panel(
                "Direction of successive gaps",
                places,
                Axis("cosine", min(0.0, float(np.nanmin(measured.cosine))) - 0.05, 1.05),
                [*_curve(x[1:], measured.cosine[:, 1:], GAP, None), end],
            ),
        ]
    ]
    return draw(Sheet(title, rows, (400, 340)))


def save(picture: Any, path: Path) -> None:
    """Writes a picture with few colours as a small file."""
    from PIL import Image

    picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def _curve(x: Array, values: Array, colour: str, label: str | None) -> list[Mark]:
    """The mean over samples, and the standard deviation around it dashed."""
    mean, spread = values.mean(0), values.std(0)
    low = np.maximum(mean - spread, 0.2 * mean) if (mean > 0).all() else mean - spread
    edges: list[Mark] = [Line(x, edge, colour, None, 0.8, True) for edge in (low, mean + spread)]
    return [*edges, Line(x, mean, colour, label, 2.0, False, True)]
