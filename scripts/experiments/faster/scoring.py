"""Share right against cost: plain steps, fused and paper W2SD, cached gaps and auto-guidance on the bundled pairs.

Strengths are chosen on one set of seeds and scored on another; every method has the same choice of them.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.demo import gaps, videos
from experiments.engine import (
    Progress,
    Score,
    Scores,
    check_counts,
    chosen,
    fingerprint,
    make_folders,
    markdown,
    set_threads,
)
from experiments.faster.motion import motion_table
from experiments.faster.scaling import scaling_table
from vbench_eval.statistics import percentile_interval
from w2sd_video.demo import LORA_WEIGHTS, PICTURE_WEIGHTS, WEIGHTS
from w2sd_video.errors import UserError
from w2sd_video.report.figures import GREY, save, style, subplots

STRENGTHS = (1.0, 2.0, 3.0)
EVERY = {"1": 1, "2": 2, "3": 3, "5": 5, "once, at the start": 0}


@dataclass(frozen=True)
class Bed:
    """One pair: its methods by label, those of a label differing in strength alone, and how `count` samples score.

    `make(method, count, first, progress)` scores samples of the noise seeds from `first` on.
    """

    title: str
    methods: Mapping[str, tuple[Any, ...]]
    make: Callable[[Any, int, int, Progress], Score]
    tuned_on: int
    scored_on: int
    prints: tuple[str, ...]


def video_bed(weights: Path) -> Bed:
    """The gap of two networks, of equal cost: T 20, lambda 10, guidance 1."""
    sides: dict[str, Any] = {}

    def make(method: videos.Method, count: int, first: int, progress: Progress) -> Score:
        sides.update(sides or videos.load(weights))
        return videos.score(sides, method, count, progress, first=first)[0]

    def over(**settings: Any) -> tuple[videos.Method, ...]:
        return tuple(videos.fused(strength=strength, **settings) for strength in STRENGTHS)

    methods = {
        **{f"strong, T {steps}": (videos.Method(steps=steps),) for steps in (20, 25, 30, 40)},
        "W2SD, paper mode": tuple(videos.paper(strength=strength) for strength in STRENGTHS),
        "W2SD, fused": over(),
        "W2SD, fused, lag": over(lag=True),
        **{f"cached gap, every {name}": over(gap_every=every) for name, every in EVERY.items()},
        "auto-guidance": tuple(
            videos.Method(partner="weak", algorithm="autoguided", settings={"strength": s}) for s in STRENGTHS
        ),
        "zero-gap, cached": (videos.zero_gap(mode="fused", gap_every=1, strength=3.0),),
    }
    return Bed("videos: two networks", methods, make, 100_000, 200_000, (fingerprint(weights),))


BLOCKS = {  # of the picture pair's SDXL, by where they are
    place: f"{place}.transformer_blocks.0"
    for place in (
        *("down_blocks.1.attentions.0", "mid_block.attentions.0"),
        *("up_blocks.0.attentions.0", "up_blocks.0.attentions.1"),
    )
}


def depth_bed(weights: Path, lora: Path) -> Bed:
    """The strong network with a block left out as the weak side: a gap without a second checkpoint."""
    strong, every_block = gaps.Setting(), tuple(BLOCKS.values())
    bed = picture_bed(weights, lora, strong, gaps.Setting(skip=every_block), "pictures: skipped blocks")
    methods = {name: bed.methods[name] for name in ("strong, T 28", "strong, T 48", "zero-gap, cached")}
    for place, skip in {**{name: (block,) for name, block in BLOCKS.items()}, "all four": every_block}.items():
        for kind, every in (("W2SD, fused", None), ("cached gap", 1)):
            methods[f"{kind}, without {place}"] = tuple(
                gaps.Sampling(strong, strong, gaps.Setting(skip=skip), "fused", strength=s, gap_every=every)
                for s in STRENGTHS
            )
    return dataclasses.replace(bed, methods=methods)


def picture_bed(weights: Path, lora: Path, strong: gaps.Setting, weak: gaps.Setting, title: str) -> Bed:
    """A gap on one network: T 28, lambda 10."""
    loaded: list[Any] = []

    def make(method: gaps.Sampling, count: int, first: int, progress: Progress) -> Score:
        loaded.extend(() if loaded else [gaps.load(weights, lora)])
        return gaps.score(loaded[0], method, count, progress, first=first)

    def over(mode: str = "fused", **settings: Any) -> tuple[gaps.Sampling, ...]:
        return tuple(gaps.Sampling(strong, strong, weak, mode, strength=s, **settings) for s in STRENGTHS)

    methods: dict[str, tuple[gaps.Sampling, ...]] = {
        **{f"strong, T {steps}": (gaps.Sampling(strong, steps=steps),) for steps in (28, 38, 48)},
        "W2SD, paper mode": over("paper"),
        "W2SD, fused": over(),
        **{f"cached gap, every {name}": over(gap_every=every) for name, every in EVERY.items()},
        "zero-gap, cached": (gaps.Sampling(strong, strong, strong, "fused", strength=3.0, gap_every=1),),
    }
    if strong.guidance != weak.guidance:
        scales = tuple(
            dataclasses.replace(strong, guidance=strong.guidance + s * (strong.guidance - weak.guidance))
            for s in STRENGTHS
        )
        methods["more guidance, all steps"] = tuple(gaps.Sampling(scale) for scale in scales)
        methods[f"more guidance, first {gaps.REFLECTIONS} steps"] = tuple(
            gaps.Sampling(scale, guided_steps=gaps.REFLECTIONS, then=strong.guidance) for scale in scales
        )
    return Bed(title, methods, make, 400_000, 500_000, (fingerprint(weights), fingerprint(lora)))


def beds(weights: Path | None = None) -> dict[str, Callable[[], Bed]]:
    """By name, what makes a bed."""
    where = weights or PICTURE_WEIGHTS / "weak", LORA_WEIGHTS

    def pictures(strong: gaps.Setting, weak: gaps.Setting, title: str) -> Callable[[], Bed]:
        return lambda: picture_bed(*where, strong, weak, f"pictures: {title}")

    return {
        "video": lambda: video_bed(weights or WEIGHTS),
        "guidance": pictures(gaps.Setting(1.0), gaps.Setting(0.0), "guidance 1 over 0"),
        "guidance-1.5": pictures(gaps.Setting(1.5), gaps.Setting(0.0), "guidance 1.5 over 0"),
        "depth": lambda: depth_bed(*where),
        "lora": pictures(gaps.Setting(lora=0.8), gaps.Setting(lora=-1.5), "LoRA 0.8 over -1.5"),
    }


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
    if isinstance(method, videos.Method):
        return float(method.settings.get("strength", 1.0))
    return float(method.strength)


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
        reflects = len(bed.methods[name]) > 1
        rows.append(
            [
                name,
                f"{strength_of(method):g}" if reflects and "guidance," not in name else "-",
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


@style()
def draw(found: Mapping[str, Mapping[str, tuple[Any, Score]]], titles: Mapping[str, str], path: Path) -> None:
    """Share right against rows, a panel for each bed; the points of cached gaps and of plain steps are joined."""
    figure, (row,) = subplots(1, len(found), size=(4.2 * len(found), 3.9))
    seen: dict[str, Any] = {}
    looks = {"strong": (GREY, "o"), "cached": ("#0072B2", "s"), "W2SD": ("#D55E00", "D"), "other": ("#009E73", "^")}
    for axes, (name, methods) in zip(row, found.items(), strict=True):
        for kind, (colour, marker) in looks.items():
            mine = {
                label: score
                for label, (_, score) in methods.items()
                if not label.startswith("zero")
                and (kind if kind != "other" else "")
                == next((k for k in ("strong", "cached", "W2SD") if label.startswith(k)), "")
            }
            points = [(s.num_rows, percentile_interval(s.all, draws=2000)) for s in mine.values()]
            for rows, share in points:
                axes.errorbar(
                    rows,
                    share.value,
                    yerr=[[share.value - (share.low or 0)], [(share.high or 0) - share.value]],
                    color=colour,
                    marker=marker,
                    linewidth=1,
                    capsize=2,
                )
            if kind in ("strong", "cached"):
                ordered = sorted((rows, share.value) for rows, share in points)
                axes.plot(*zip(*ordered, strict=True), color=colour, linewidth=1)
            label = {"other": "guidance", "strong": "plain steps", "cached": "cached gap"}.get(kind, kind)
            if points:
                seen[label] = axes.plot([], [], color=colour, marker=marker)[0]
        axes.set(title=titles[name], xlabel="network rows a sample", ylabel="share right")
    row[0].legend(seen.values(), seen.keys(), loc="center right")
    save(figure, path)


def _narrowed(bed: Bed, labels: str | None) -> Bed:
    """The bed with the methods of these labels, beside those that every row is compared with."""
    if labels is None:
        return bed
    always = {"W2SD, fused", "zero-gap, cached"} & bed.methods.keys()
    wanted = {*(label.strip() for label in labels.split(";")), next(iter(bed.methods)), *always}
    if unknown := wanted - bed.methods.keys():
        raise UserError(f"unknown method {unknown.pop()!r}; choose from {'; '.join(bed.methods)}")
    return dataclasses.replace(bed, methods={name: m for name, m in bed.methods.items() if name in wanted})


# --- scripts/score_faster.py ----------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> int:
    check_counts(options, tuned=1)
    set_threads(options.threads)
    makers = beds(options.weights)
    done: dict[str, dict[str, tuple[Any, Score]]] = {}
    titles: dict[str, str] = {}
    for name in chosen(options.beds, makers, "bed"):
        bed = _narrowed(makers[name](), options.methods)
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
