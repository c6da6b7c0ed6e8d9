"""The figures of the dataset gap: samples by method (Figure 7), features (18), cosines (26), share over strength."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from experiments.dataset_gap.cosines import Cosines
from experiments.dataset_gap.recipe import Recipe
from experiments.dataset_gap.scoring import STRENGTHS, Row, Score, sweep_name
from vbench_eval.statistics import Interval
from w2sd_video.errors import UserError
from w2sd_video.report.figures import GREY, METHOD_COLOURS, interval_line, shared_legend, style, subplots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES = ("#0072b2", "#e69f00", "#bbbbbb")  # majority, minority, neither
SHORT = {"weak": "weak", "strong": "strong", "ideal": "ideal", "w2sd": "W2SD", "zero-gap": "zero-gap", "s2wd": "S2WD"}
GRID = ("weak", "strong", "s2wd", "zero-gap", "w2sd", "ideal")
PANELS = ("strong", "weak", "w2sd", "s2wd")  # Figure 18 (a) to (d)
PROJECTIONS = ("tsne", "pca")


def sample_grid(score: Score, side: int) -> np.ndarray:
    """The first side x side samples as one picture [H, W, 3], each in a frame of its class's colour."""
    from matplotlib.colors import to_rgb

    size = score.pictures.shape[-1]
    edge = max(1, size // 12)
    cell = size + 2 * edge + 1
    picture = np.ones((side * cell, side * cell, 3))
    for n in range(min(side * side, len(score.pictures))):
        top, left = (n // side) * cell, (n % side) * cell
        picture[top : top + cell - 1, left : left + cell - 1] = to_rgb(CLASSES[int(score.classes[n])])
        pixels = score.pictures[n].expand(3, -1, -1).permute(1, 2, 0).numpy() / 255
        picture[top + edge : top + edge + size, left + edge : left + edge + size] = pixels
    return picture


def _draw_samples(axes: Any, name: str, score: Score, share: Interval, side: int) -> None:
    axes.imshow(sample_grid(score, side), interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(
        f"{SHORT[name]}\n{100 * share.value:.1f}% [{100 * (share.low or 0):.1f}, {100 * (share.high or 1):.1f}]"
    )


def _class_legend(figure: Any, recipe: Recipe) -> None:
    from matplotlib.patches import Patch

    names = (f"{recipe.majority} (majority)", f"{recipe.minority} (minority)", "neither")
    handles = [Patch(color=colour, label=name) for name, colour in zip(names, CLASSES, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)


@style()
def samples_figure(scores: Mapping[str, Score], found: Mapping[str, Row], recipe: Recipe) -> Figure | None:
    """Figure 7: a grid of samples for each method, from the same noises, with the minority's share."""
    names = [name for name in GRID if name in scores]
    if not names:
        return None
    columns = min(3, len(names))
    title = f"Share of {recipe.minority}s by method"
    figure, axes = subplots(-(-len(names) // columns), columns, size=(3.0, 3.4), title=title)
    for unused in axes.flat[len(names) :]:
        unused.set_axis_off()
    for place, name in zip(axes.flat, names, strict=False):
        _draw_samples(place, name, scores[name], found[name].minority, 8)
    _class_legend(figure, recipe)
    return figure


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
        raise UserError("the projection needs scikit-learn; in a clone: pip install -e '.[digits]'") from error
    if kind == "pca":
        return torch.from_numpy(PCA(2).fit_transform(features.numpy()))
    perplexity = min(30.0, (len(features) - 1) / 3)
    return torch.from_numpy(TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(features.numpy()))


@style()
def features_figure(scores: Mapping[str, Score], recipe: Recipe, kind: str = "tsne", most: int = 400) -> Figure | None:
    """Figure 18: the judge's features of strong, weak, W2SD and S2WD samples in one 2-D projection, by class."""
    if any(name not in scores for name in PANELS):
        return None
    features = [scores[name].features[:most] for name in PANELS]
    points = projected(torch.cat(features), kind).split([len(some) for some in features])
    title = f"The judge's features ({'t-SNE' if kind == 'tsne' else 'principal components'})"
    figure, axes = subplots(2, 2, size=(3.4, 3.2), title=title, sharex=True, sharey=True)
    for letter, place, name, own in zip("abcd", axes.flat, PANELS, points, strict=True):
        classes = scores[name].classes[:most]
        counts = [int((classes == number).sum()) for number in range(3)]
        place.scatter(*own.T.tolist(), c=[CLASSES[number] for number in classes.tolist()], s=9, linewidths=0)
        place.set(title=f"({letter}) {SHORT[name]}: {counts[0]} : {counts[1]}", xticks=[], yticks=[])
    _class_legend(figure, recipe)
    return figure


def _sweep(found: Mapping[str, Row], mode: str) -> list[str]:
    return [sweep_name("weak", mode, x) for x in sorted([0.0, 1.0, *STRENGTHS])]


def _draw_strength(axes: Any, found: Mapping[str, Row], expected: Mapping[str, float], path: str) -> None:
    xs = sorted([0.0, 1.0, *STRENGTHS])
    for mode in ("paper", "fused"):
        names, colour = _sweep(found, mode), METHOD_COLOURS["w2sd" if mode == "paper" else "w2sd, fused"]
        balances = [found[name].balance or Interval(0.5, 0.0, 1.0) for name in names]
        interval_line(axes, xs, [(b.value, b.low, b.high) for b in balances], color=colour, label=f"W2SD, {mode}")
        if all(name in expected for name in names):
            shares = [expected[name] for name in names]
            axes.plot(xs, shares, "--", color=colour, label=f"{mode}, exact Gaussian classes")
        neither = [found[name].neither for name in names]
        axes.plot(xs, [n.value for n in neither], ":", color=colour, label=f"neither class, {mode}")
    for name in ("strong", "weak", "ideal"):
        if name in found and (balance := found[name].balance) is not None:
            axes.axhline(balance.value, color=METHOD_COLOURS[name], linewidth=1.2, linestyle="-.", label=name)
    title = f"minority's share of both classes ({path} path)"
    axes.set(title=title, xlabel="strength of the reflection (1 is W2SD)", ylabel="share", ylim=(0, 1))


@style()
def strength_figure(found: Mapping[str, Row], expected: Mapping[str, float], path: str) -> Figure | None:
    """The minority's share of both classes over strength, measured and with exact models, and the share of neither.

    None before the sweep is finished.
    """
    if any(name not in found for mode in ("paper", "fused") for name in _sweep(found, mode)):
        return None
    figure, ((axes,),) = subplots(size=(6.4, 4.4))
    _draw_strength(axes, found, expected, path)
    shared_legend(figure, columns=3)
    return figure


def _draw_cosines(axes: Any, curves: Mapping[str, Cosines], path: str) -> None:
    for (label, curve), colour in zip(
        curves.items(), (METHOD_COLOURS["w2sd"], METHOD_COLOURS["strong"], GREY), strict=False
    ):
        looks = {"color": colour, "label": label, "marker": "", "linestyle": "--" if label.startswith("exact") else "-"}
        interval_line(axes, curve.timesteps, [(m.value, m.low, m.high) for m in curve.means], **looks)
    axes.axhline(-0.5, color="#b8a038", linestyle=":", label="independent errors: -1/2")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(title=f"cosine of (strong - weak) and (ideal - strong), {path} path")
    axes.set(xlabel="timestep (noisiest first)", ylabel="mean cosine", ylim=(-0.8, 1))
    axes.invert_xaxis()


@style()
def cosine_figure(curves: Mapping[str, Cosines], path: str) -> Figure:
    """Figure 26: the mean cosine of the two gaps per level, with intervals."""
    figure, ((axes,),) = subplots(size=(6.4, 4.2))
    _draw_cosines(axes, curves, path)
    shared_legend(figure, columns=2)
    return figure


@style()
def overview(
    scores: Mapping[str, Score],
    found: Mapping[str, Row],
    recipe: Recipe,
    expected: Mapping[str, float],
    curves: Mapping[str, Cosines],
    path: str,
) -> Figure | None:
    """Samples above the share over strength and the cosines, in one picture; None before all is scored."""
    from matplotlib.figure import Figure as Blank

    wanted = [*GRID, *(name for mode in ("paper", "fused") for name in _sweep(found, mode))]
    if any(name not in scores for name in wanted):
        return None
    figure = Blank(figsize=(12.0, 7.8))
    parts: Any = figure.subfigures(2, 1, height_ratios=(3.1, 4.7))
    above, below = parts
    for place, name in zip(above.subplots(1, len(GRID)), GRID, strict=True):
        _draw_samples(place, name, scores[name], found[name].minority, 5)
    _class_legend(above, recipe)
    left, right = below.subplots(1, 2)
    _draw_strength(left, found, expected, path)
    _draw_cosines(right, curves, path)
    for axes in (left, right):
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=8)
    return figure
