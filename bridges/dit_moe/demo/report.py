"""What the scores of the bundled DiT-MoE say: the table with intervals, the sweep over lambda, and its plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from bridges.dit_moe.demo.digits import NUM_CLASSES
from bridges.dit_moe.demo.measures import (
    DRAWS,
    Interval,
    Moments,
    Sample,
    accuracy,
    frechet_distance,
    inception_score,
    interval,
    resamples,
)
from bridges.dit_moe.demo.scoring import LAMBDAS, METHODS, REFLECTIONS, Score

SWEEP = {0: "strong", **{lam: f"lambda-{lam}" for lam in LAMBDAS}, REFLECTIONS: "w2sd"}


@dataclass(frozen=True)
class Row:
    """One method's numbers; `..._gain` is the paired difference to the strong model (None for itself)."""

    accuracy: Interval
    inception: Interval
    frechet: Interval
    accuracy_gain: Interval | None
    frechet_gain: Interval | None


def rows(scores: Mapping[str, Score], reference: Moments, draws: int = DRAWS) -> dict[str, Row]:
    """The numbers of each method, the Frechet distance to `reference`; same resamples of the pictures for all."""
    count = len(next(iter(scores.values())).sample.correct)
    weights, distance = resamples(count, draws), frechet_distance(reference)
    strong = scores["strong"].sample if "strong" in scores else None
    found = {}
    for name, score in scores.items():
        against = None if name == "strong" else strong
        found[name] = Row(
            interval(accuracy, score.sample, weights),
            interval(inception_score, score.sample, weights),
            interval(distance, score.sample, weights),
            None if against is None else interval(accuracy, score.sample, weights, against),
            None if against is None else interval(distance, score.sample, weights, against),
        )
    return found


def table(scores: Mapping[str, Score], found: Mapping[str, Row]) -> str:
    """A Markdown table, one row per finished method, in the order of METHODS."""
    lines = [
        "| method | evaluations | rows | class accuracy | minus strong | Inception-style score | Frechet distance "
        "| minus strong | ms / picture |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, score in scores.items():
        row = found[name]
        cells = [
            METHODS[name].label,
            str(score.num_evaluations),
            str(score.num_rows),
            row.accuracy.text(3),
            "-" if row.accuracy_gain is None else row.accuracy_gain.text(3, signed=True),
            row.inception.text(2),
            row.frechet.text(2),
            "-" if row.frechet_gain is None else row.frechet_gain.text(2, signed=True),
            f"{1000 * score.seconds:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def real_row(label: str, sample: Sample, reference: Moments, draws: int = DRAWS) -> str:
    """A row of the table for pictures that are no method's: what the judge says of real digits."""
    weights = resamples(len(sample.correct), draws)
    numbers = [interval(measure, sample, weights) for measure in (accuracy, inception_score)]
    distance = interval(frechet_distance(reference), sample, weights)
    cells = [label, "-", "-", numbers[0].text(3), "-", numbers[1].text(2), distance.text(2), "-", "-"]
    return "| " + " | ".join(cells) + " |"


def sheet(pictures: Tensor, most: int = 8) -> Image.Image:
    """The first pictures [N, 3, 32, 32] uint8, a column for each class, twice as large."""
    count = max(1, min(most, len(pictures) // NUM_CLASSES))
    grid = pictures[: count * NUM_CLASSES]
    grid = grid.unflatten(0, (count, -1)).permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    picture = Image.fromarray(grid.contiguous().numpy())
    return picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.NEAREST)


def sweep_plot(found: Mapping[str, Row]) -> Image.Image | None:
    """Class accuracy and Frechet distance over lambda, with 95 percent bars; None before the sweep is finished."""
    if any(name not in found for name in SWEEP.values()):
        return None
    panels = [
        ("class accuracy", [found[name].accuracy for name in SWEEP.values()]),
        ("Frechet distance to unseen digits", [found[name].frechet for name in SWEEP.values()]),
    ]
    width, height = 480, 340
    picture = Image.new("RGB", (width * len(panels), height), "white")
    for i, (title, points) in enumerate(panels):
        panel = draw_panel(title, list(SWEEP), points, width, height)
        picture.paste(panel, (i * width, 0))
    return picture


def ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers within low .. high."""
    step = 10.0 ** torch.tensor(high - low).log10().floor().item()
    for part in (0.1, 0.2, 0.5, 1.0, 2.0):
        size = step * part
        first, last = -int(-low // size), int(high // size)
        if last - first <= 5:
            break
    return [size * n for n in range(first, last + 1)]


def draw_panel(title: str, xs: Sequence[int], points: Sequence[Interval], width: int, height: int) -> Image.Image:
    """One curve with its intervals, over lambda."""
    left, right, top, bottom = 64, width - 20, 40, height - 50
    low, high = min(point.low for point in points), max(point.high for point in points)
    margin = 0.08 * (high - low) or 0.01
    low, high = low - margin, high + margin

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (right - left) * x / max(xs), bottom - (bottom - top) * (y - low) / (high - low)

    panel = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(panel)
    draw.text(((left + right) / 2, 18), title, fill="black", anchor="mm", font_size=15)
    draw.text(((left + right) / 2, height - 14), "lambda (reflections)", fill="black", anchor="mm", font_size=13)
    for y in ticks(low, high):
        draw.line([place(0, y), place(max(xs), y)], fill="#dddddd")
        draw.text((left - 8, place(0, y)[1]), f"{y:.4g}", fill="black", anchor="rm", font_size=12)
    for x in xs:
        draw.text((place(x, low)[0], bottom + 14), str(x), fill="black", anchor="mm", font_size=12)
    draw.line([(left, top), (left, bottom), (right, bottom)], fill="black")
    draw.line([place(x, point.value) for x, point in zip(xs, points, strict=True)], fill="#1f5fa8", width=2)
    for x, point in zip(xs, points, strict=True):
        draw.line([place(x, point.low), place(x, point.high)], fill="#1f5fa8", width=2)
        for end in (point.low, point.high):
            centre = place(x, end)
            draw.line([(centre[0] - 4, centre[1]), (centre[0] + 4, centre[1])], fill="#1f5fa8", width=2)
        draw.circle(place(x, point.value), 4, fill="#1f5fa8")
    return panel
