"""Share right against cost: plain steps, fused and paper W2SD, cached gaps and auto-guidance on the bundled pairs.

Strengths are chosen on one set of seeds and scored on another; every method has the same choice of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.demo import videos
from experiments.engine import (
    Score,
    Scores,
    check_counts,
    chosen,
    make_folders,
    markdown,
    set_threads,
)
from experiments.faster.beds import STRENGTHS, Bed, beds
from experiments.faster.motion import motion_table
from experiments.faster.scaling import scaling_table
from vbench_eval.statistics import percentile_interval
from w2sd_video.errors import UserError
from w2sd_video.report.figures import GREY, save, style, subplots

# --- choosing and scoring -------------------------------------------------------------------------------------------


def best(methods: Iterable[Any], scores: Mapping[str, Score]) -> Any:
    """The method of the largest share right; of equals the first, so the least strength."""
    return max(methods, key=lambda method: scores[method.key].all.double().mean().item())


def compared(bed: Bed, folder: Path, *, tuned: int, count: int, quiet: bool) -> dict[str, tuple[Any, Score]]:
    """By label the method chosen on `tuned` samples and what it scores on `count` others."""
    tries = Scores(folder / "tuned", Score, lambda method: (tuned, bed.prints, method))
    kept = Scores(folder, Score, lambda method: (count, bed.prints, method))
    make_folders(folder, tries.folder)
    every = {m.key: m for methods in bed.methods.values() if len(methods) > 1 for m in methods}
    tries.fill(every, lambda _, m, done: bed.make(m, tuned, bed.tuned_on, done), count=tuned, quiet=quiet)
    found = tries.finished(every)
    picked = {name: m[0] if len(m) == 1 else best(m, found) for name, m in bed.methods.items()}
    grid = {method.key: method for method in picked.values()}
    kept.fill(grid, lambda _, m, done: bed.make(m, count, bed.scored_on, done), count=count, quiet=quiet)
    scores = kept.finished(grid)
    return {name: (method, scores[method.key]) for name, method in picked.items()}


def strength_of(method: Any) -> float:
    """The strength that a method was made with."""
    settings = method.settings if isinstance(method, videos.Method) else getattr(method, "more", {})
    return float(settings.get("strength", getattr(method, "strength", 1.0)))


def kept_share(own: Score, fused: Score, strong: Score) -> str:
    """A cell: which share of the fused gain over strong is kept, with the interval of a paired bootstrap."""
    from vbench_eval.statistics import resamples

    gain, most = (each.all.double() - strong.all.double() for each in (own, fused))
    weights = resamples(len(gain), 4000)
    shares = ((weights @ gain) / (weights @ most)).sort().values
    low, high = (shares[round(q * (len(shares) - 1))].item() for q in (0.025, 0.975))
    return f"{(gain.mean() / most.mean()).item():.2f} [{low:.2f}, {high:.2f}]"


def table(bed: Bed, found: Mapping[str, tuple[Any, Score]]) -> str:
    """A row per label: what was chosen, what it costs beside the stock call, and its paired gain."""
    strong = next(iter(found.values()))[1]
    fused = found["W2SD, fused"][1] if "W2SD, fused" in found else None
    rows = []
    for name, (method, score) in found.items():
        reflects = not name.startswith(("strong", "zero-gap"))
        rows.append(
            [
                name,
                f"{strength_of(method):g}" if reflects and not name.startswith("more") else "-",
                score.num_evaluations,
                score.num_rows,
                f"{score.num_rows / strong.num_rows:.2f}",
                score.shares()[-1],
                score.minus(strong),
                kept_share(score, fused, strong) if reflects and fused is not None else "-",
            ]
        )
    head = ["method", "strength", "evaluations", "rows", "times the stock call", "right", "minus strong"]
    return markdown([*head, "of fused W2SD's gain"], rows)


LOOKS = {
    "plain steps": (GREY, "o"),
    "cached gap": ("#0072B2", "s"),
    "W2SD": ("#D55E00", "D"),
    "guidance, auto-guidance": ("#009E73", "^"),
}


@style()
def draw(found: Mapping[str, Mapping[str, tuple[Any, Score]]], titles: Mapping[str, str], path: Path) -> None:
    """Share right against rows, a panel for each bed; the points of cached gaps and of plain steps are joined."""
    columns = min(3, len(found))
    lines = math.ceil(len(found) / columns)
    figure, panels = subplots(lines, columns, size=(4.2, 3.5))
    seen: dict[str, Any] = {}
    places = [axes for row in panels for axes in row]
    for axes in places[len(found) :]:
        axes.set_visible(False)
    for axes, (name, methods) in zip(places, found.items(), strict=False):
        for kind, (colour, marker) in LOOKS.items():
            mine = [score for label, (_, score) in methods.items() if _kind(label) == kind]
            found_here = [(s.num_rows, percentile_interval(s.all, draws=2000)) for s in mine]
            points = sorted(found_here, key=lambda point: (point[0], point[1].value))
            for rows, share in points:
                spread = [[share.value - (share.low or 0)], [(share.high or 0) - share.value]]
                axes.errorbar(rows, share.value, yerr=spread, color=colour, marker=marker, linewidth=1, capsize=2)
            if kind in ("plain steps", "cached gap") and points:
                axes.plot(
                    *zip(*((rows, share.value) for rows, share in points), strict=True), color=colour, linewidth=1
                )
            if points:
                seen[kind] = axes.plot([], [], color=colour, marker=marker)[0]
        axes.set(title=titles[name], xlabel="network rows a sample", ylabel="share right")
    places[0].legend(seen.values(), seen.keys(), loc="lower right")
    save(figure, path)


def _kind(label: str) -> str | None:
    """What a method's points look like: a name of LOOKS, None for what is not drawn."""
    begins = {"strong": "plain steps", "cached": "cached gap", "W2SD": "W2SD", "zero": None}
    return next((kind for start, kind in begins.items() if label.startswith(start)), "guidance, auto-guidance")


def _narrowed(bed: Bed, labels: str | None, strengths: str | None = None) -> Bed:
    """The bed with the methods of these labels, beside those that every row is compared with, and these strengths."""
    methods = dict(bed.methods)
    if labels is not None:
        always = {"W2SD, fused", "zero-gap, cached"} & methods.keys()
        wanted = {*(label.strip() for label in labels.split(";")), next(iter(methods)), *always}
        if unknown := wanted - methods.keys():
            raise UserError(f"unknown method {unknown.pop()!r}; choose from {'; '.join(methods)}")
        methods = {name: tries for name, tries in methods.items() if name in wanted}
    if strengths is not None:
        tried = {*chosen(strengths, [f"{s:g}" for s in STRENGTHS], "strength")}
        methods = {
            name: tries if len(tries) == 1 else tuple(each for each in tries if f"{strength_of(each):g}" in tried)
            for name, tries in methods.items()
        }
    return dataclasses.replace(bed, methods=methods)


# --- scripts/score_faster.py ----------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> int:
    check_counts(options, tuned=1)
    set_threads(options.threads)
    makers = beds(options.weights)
    done: dict[str, dict[str, tuple[Any, Score]]] = {}
    titles: dict[str, str] = {}
    for name in chosen(options.beds, makers, "bed"):
        bed = _narrowed(makers[name](), options.methods, options.strengths)
        done[name] = compared(bed, options.output / name, tuned=options.tuned, count=options.count, quiet=options.quiet)
        titles[name] = bed.title
        print(f"{bed.title}\n\n{table(bed, done[name])}\n")
        strong, zero = next(iter(done[name].values()))[1], done[name]["zero-gap, cached"][1]
        same = bool((strong.correct == zero.correct).all())
        print(f"the cached zero-gap reads as strong does in {'every sample' if same else 'NOT every sample'}")
    print(f"two modes, exact\n\n{scaling_table()}\n\nGaussian videos, exact\n\n{motion_table()}\n")
    draw(done, titles, options.output / "faster.png")
    print(f"drawn: {options.output / 'faster.png'}")
    return 0
