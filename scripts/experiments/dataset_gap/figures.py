"""The pictures of the dataset gap: samples by method (Figure 7), features (18), cosines (26), share over strength."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from experiments.dataset_gap.chart import Line, exact, panel
from experiments.dataset_gap.cosines import Cosines
from experiments.dataset_gap.methods import STRENGTHS, sweep_name
from experiments.dataset_gap.recipe import Recipe
from experiments.dataset_gap.report import Row
from experiments.dataset_gap.scoring import Score
from experiments.dataset_gap.statistics import Interval
from w2sd_video.errors import UserError

COLOURS = ("#1f5fa8", "#e07b00", "#9a9a9a")  # majority, minority, neither
SHORT = {
    "weak": "weak",
    "strong": "strong",
    "ideal": "ideal",
    "w2sd": "W2SD",
    "w2sd-fused": "W2SD, fused",
    "zero-gap": "zero-gap",
    "s2wd": "S2WD",
    "autoguided": "auto-guidance",
}
GRID = ("weak", "strong", "s2wd", "zero-gap", "w2sd", "ideal")
PANELS = ("strong", "weak", "w2sd", "s2wd")  # Figure 18 (a) to (d)
PROJECTIONS = ("tsne", "pca")


def sample_grid(score: Score, side: int, tile: int) -> Image.Image:
    """The first side x side samples, each `tile` pixels wide in a frame of its class's colour."""
    picture = Image.new("RGB", (side * (tile + 6), side * (tile + 6)), "white")
    draw = ImageDraw.Draw(picture)
    for n in range(min(side * side, len(score.pictures))):
        left, top = (n % side) * (tile + 6) + 1, (n // side) * (tile + 6) + 1
        colour = COLOURS[int(score.reading.classes[n])]
        draw.rectangle([left, top, left + tile + 3, top + tile + 3], fill=colour)
        pixels = score.pictures[n].expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
        shown = Image.fromarray(pixels).resize((tile, tile), Image.Resampling.NEAREST)
        picture.paste(shown, (left + 2, top + 2))
    return picture


def class_key(draw: ImageDraw.ImageDraw, at: tuple[float, float], recipe: Recipe) -> None:
    """Which colour is which class."""
    names = (f"{recipe.majority} (majority)", f"{recipe.minority} (minority)", "neither")
    for n, (name, colour) in enumerate(zip(names, COLOURS, strict=True)):
        x = at[0] + 170 * n
        draw.rectangle([x, at[1] - 6, x + 12, at[1] + 6], fill=colour)
        draw.text((x + 18, at[1]), name, fill="black", anchor="lm", font_size=13)


def samples_figure(
    scores: Mapping[str, Score], found: Mapping[str, Row], recipe: Recipe, *, side: int = 8, columns: int = 3
) -> Image.Image | None:
    """Figure 7: a grid of samples for each method, from the same noises, with the minority's share."""
    names = [name for name in GRID if name in scores]
    if not names:
        return None
    tile = recipe.size * max(1, 32 // recipe.size) * 3 // 4 if recipe.size < 32 else recipe.size
    width = side * (tile + 6) + 16
    columns = min(columns, len(names))
    down = -(-len(names) // columns)
    picture = Image.new("RGB", (columns * width, down * (width + 44) + 30), "white")
    draw = ImageDraw.Draw(picture)
    for n, name in enumerate(names):
        left, top = (n % columns) * width + 8, (n // columns) * (width + 44)
        share = found[name].minority
        text = f"{100 * share.value:.1f}% [{100 * share.low:.1f}, {100 * share.high:.1f}]"
        for row, line in enumerate((SHORT[name], text)):
            draw.text((left + width / 2 - 8, top + 14 + 18 * row), line, fill="black", anchor="mm", font_size=15)
        picture.paste(sample_grid(scores[name], side, tile), (left, top + 46))
    class_key(draw, (12, picture.height - 16), recipe)
    return picture


def projected(features: Tensor, kind: str) -> Tensor:
    """Features [N, D] in two dimensions, [N, 2]: t-SNE from a start by principal components, or those alone.

    Raises:
        UserError: another kind, or scikit-learn is missing.
    """
    if kind not in PROJECTIONS:
        raise UserError(f"the projection is {kind!r}; choose one of {', '.join(PROJECTIONS)}")
    try:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise UserError("the projection needs scikit-learn: pip install 'w2sd-video[digits]'") from error
    if kind == "pca":
        return torch.from_numpy(PCA(2).fit_transform(features.numpy()))
    perplexity = min(30.0, (len(features) - 1) / 3)
    return torch.from_numpy(TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(features.numpy()))


def features_figure(
    scores: Mapping[str, Score], recipe: Recipe, kind: str = "tsne", most: int = 400
) -> Image.Image | None:
    """Figure 18: the judge's features of strong, weak, W2SD and S2WD samples in one 2-D projection, by class."""
    if any(name not in scores for name in PANELS):
        return None
    features = [scores[name].reading.features[:most] for name in PANELS]
    points = projected(torch.cat(features), kind).split([len(some) for some in features])
    everything = torch.cat(points)
    low, high = everything.amin(dim=0), everything.amax(dim=0)
    size = 320
    picture = Image.new("RGB", (2 * size, 2 * (size + 30) + 30), "white")
    draw = ImageDraw.Draw(picture)
    for n, name in enumerate(PANELS):
        left, top = (n % 2) * size, (n // 2) * (size + 30)
        classes = scores[name].reading.classes[:most]
        counts = [int((classes == number).sum()) for number in range(3)]
        text = f"({'abcd'[n]}) {SHORT[name]}: {counts[0]} : {counts[1]}"
        draw.text((left + size / 2, top + 18), text, fill="black", anchor="mm", font_size=15)
        draw.rectangle([left + 8, top + 32, left + size - 8, top + size + 16], outline="#bbbbbb")
        places = (points[n] - low) / (high - low) * (size - 40)
        for (x, y), number in zip(places.tolist(), classes.tolist(), strict=True):
            draw.circle((left + 20 + x, top + size + 4 - y), 2.5, fill=COLOURS[number])
    class_key(draw, (12, picture.height - 16), recipe)
    return picture


def strength_figure(found: Mapping[str, Row], expected: Mapping[str, float], path: str) -> Image.Image | None:
    """The minority's share of both classes over strength, measured and with exact models, and the share of neither.

    None before the sweep is finished.
    """
    xs = sorted([0.0, 1.0, *STRENGTHS])
    lines, neither = [], []
    for mode, colour in (("paper", "#c23b22"), ("fused", "#7b3fb0")):
        names = [sweep_name("weak", mode, x) for x in xs]
        if any(name not in found for name in names):
            return None
        lines.append(Line(f"W2SD, {mode}", colour, xs, [balance(found[name]) for name in names]))
        grey = "#9a9a9a" if mode == "paper" else "#cfa9e0"
        neither.append(Line(f"neither class, {mode}", grey, xs, [found[name].neither for name in names]))
        if all(name in expected for name in names):
            shares = [exact(expected[name]) for name in names]
            lines.append(Line(f"{mode}, exact Gaussian classes", colour, xs, shares, dashed=True))
    for name, colour in (("strong", "#1f4e9c"), ("weak", "#2e8b57"), ("ideal", "#000000")):
        if name in found:
            lines.append(Line(SHORT[name], colour, xs, [balance(found[name])], dashed=name == "ideal"))
    title = f"the minority's share of both classes ({path} path)"
    return panel(title, "strength of the reflection (1 is W2SD)", [*lines, *neither], low=0, high=1)


def balance(row: Row) -> Interval:
    """The minority's share of the samples that show either class; anything where none does."""
    return row.balance or Interval(0.5, 0.0, 1.0)


def cosine_figure(curves: Mapping[str, Cosines], path: str) -> Image.Image:
    """Figure 26: the mean cosine of the two gaps per level, with intervals."""
    colours = ("#c23b22", "#1f5fa8", "#9a9a9a")
    lines = [
        Line(label, colour, curve.timesteps, curve.means, dashed=label.startswith("exact"))
        for (label, curve), colour in zip(curves.items(), colours, strict=False)
    ]
    lines.append(Line("independent errors: -1/2", "#b0a080", [0.0], [exact(-0.5)], dashed=True))
    title = f"cosine of (strong - weak) and (ideal - strong), {path} path"
    return panel(title, "timestep (noisiest first)", lines, low=-0.8, high=1, flip=True)


def overview(samples: Image.Image, charts: Sequence[Image.Image]) -> Image.Image:
    """Samples above a row of charts, in a palette of 128 colours, so that the file is small."""
    size = (max(samples.width, sum(p.width for p in charts)), samples.height + max(p.height for p in charts))
    whole = Image.new("RGB", size, "white")
    whole.paste(samples, ((size[0] - samples.width) // 2, 0))
    left = 0
    for chart in charts:
        whole.paste(chart, (left, samples.height))
        left += chart.width
    return whole.quantize(128, dither=Image.Dither.NONE)
