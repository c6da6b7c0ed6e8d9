"""The pairs that ways to spend evaluations are compared on: of each its methods, and how samples of one are scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridges.dit_moe.demo import WEIGHTS as DIGITS
from experiments.dataset_gap import WEIGHTS as CLASSES
from experiments.demo import gaps, videos
from experiments.engine import Progress, Score, fingerprint
from w2sd_video.demo import LORA_WEIGHTS, PICTURE_WEIGHTS, WEIGHTS

STRENGTHS = (1.0, 2.0, 3.0)
EVERY = {"1": 1, "2": 2, "3": 3, "5": 5, "once, at the start": 0}
SHIFTS = (50, 100, 200)  # timesteps of a time gap
EARLY = 20  # lambda of the digits and of the dataset gap, of 50 steps


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
        return videos.score(sides, videos.placed(sides, method), count, progress, first=first)[0]

    def over(**settings: Any) -> tuple[videos.Method, ...]:
        return tuple(videos.fused(strength=strength, **settings) for strength in STRENGTHS)

    def autoguided(**settings: Any) -> tuple[videos.Method, ...]:
        return tuple(
            videos.Method(partner="weak", algorithm="autoguided", settings={"strength": s, **settings})
            for s in STRENGTHS
        )

    methods = {
        **{f"strong, T {steps}": (videos.Method(steps=steps),) for steps in (20, 25, 30, 40)},
        "W2SD, paper mode": tuple(videos.paper(strength=strength) for strength in STRENGTHS),
        "W2SD, fused": over(),
        "W2SD, fused, lag": over(lag=True),
        **{f"cached gap, every {name}": over(gap_every=every) for name, every in EVERY.items()},
        "cached gap, auto": over(gap_every="auto"),
        "auto-guidance": autoguided(),
        f"auto-guidance, first {videos.REFLECTIONS} steps": autoguided(window=(0.0, videos.REFLECTIONS / videos.STEPS)),
        "zero-gap, cached": (videos.zero_gap(mode="fused", gap_every=1, strength=3.0),),
    }
    return Bed("videos: two networks", methods, make, 100_000, 200_000, (fingerprint(weights),))


def video_time_bed(weights: Path) -> Bed:
    """The strong network told noisier levels as the weak side, of the video pair."""
    bed = video_bed(weights)
    methods = {name: bed.methods[name] for name in ("strong, T 20", "strong, T 40", "zero-gap, cached")}
    methods["W2SD, fused, time gap"] = tuple(
        videos.fused(f"{videos.NOISIER}{shift}", strength=s) for shift in SHIFTS for s in STRENGTHS[:2]
    )
    return dataclasses.replace(bed, title="videos: a time gap", methods=methods)


def picture_time_bed(weights: Path, lora: Path) -> Bed:
    """The same of the picture pair."""
    strong = gaps.Setting()
    bed = picture_bed(weights, lora, strong, strong, "pictures: a time gap")
    methods = {name: bed.methods[name] for name in ("strong, T 28", "strong, T 48", "zero-gap, cached")}
    methods["W2SD, fused, time gap"] = tuple(
        gaps.Sampling(strong, strong, gaps.Setting(noisier=shift), "fused", strength=s)
        for shift in SHIFTS
        for s in STRENGTHS[:2]
    )
    return dataclasses.replace(bed, methods=methods)


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
    if strong.guidance == weak.guidance:
        methods["auto-guidance"] = over(gaps.AUTOGUIDED)
        methods[f"auto-guidance, first {gaps.REFLECTIONS} steps"] = over(gaps.AUTOGUIDED, guided_steps=gaps.REFLECTIONS)
    else:
        scales = tuple(
            dataclasses.replace(strong, guidance=strong.guidance + s * (strong.guidance - weak.guidance))
            for s in STRENGTHS
        )
        methods["more guidance, all steps"] = tuple(gaps.Sampling(scale) for scale in scales)
        methods[f"more guidance, first {gaps.REFLECTIONS} steps"] = tuple(
            gaps.Sampling(scale, guided_steps=gaps.REFLECTIONS, then=strong.guidance) for scale in scales
        )
    return Bed(title, methods, make, 400_000, 500_000, (fingerprint(weights), fingerprint(lora)))


def digits_bed(weights: Path) -> Bed:
    """The gap of routing in one DiT-MoE, unguided: T 50, lambda 20. Right is the class that a judge reads."""
    from experiments.digits import scoring as digits

    loaded: list[Any] = []

    def make(method: digits.Method, count: int, first: int, progress: Progress) -> Score:
        loaded.extend(() if loaded else [digits.load(weights), digits.load_judge(weights / digits.JUDGE)])
        found, _ = digits.score(loaded[0], loaded[1], method, count, progress=progress, first=first)
        return Score(found.correct[:, None], found.num_evaluations, found.num_rows, found.seconds)

    weak = digits.WEAK
    own: dict[str, Any] = {"guidance": 1.0, "num_reflections": EARLY}

    def over(mode: str = "fused", algorithm: str = "w2sd", **more: Any) -> tuple[digits.Method, ...]:
        return tuple(
            digits.Method("", weak, mode=mode, algorithm=algorithm, more={"strength": s, **more}, **own)
            for s in STRENGTHS
        )

    methods: dict[str, tuple[digits.Method, ...]] = {
        **{f"strong, T {steps}": (digits.Method("", guidance=1.0, steps=steps),) for steps in (50, 70, 90)},
        "W2SD, paper mode": over("paper"),
        "W2SD, fused": over(),
        "W2SD, fused, lag": over(lag=True),
        **{f"cached gap, every {name}": over(gap_every=every) for name, every in EVERY.items()},
        "auto-guidance": over("paper", "autoguided"),
        f"auto-guidance, first {EARLY} steps": over("paper", "autoguided", window=(0.0, EARLY / digits.STEPS)),
        "zero-gap, cached": (
            digits.Method("", "zero-gap", mode="fused", more={"strength": 3.0, "gap_every": 1}, **own),
        ),
    }
    return Bed("digits: routing, unguided", methods, make, 600_000, 700_000, (fingerprint(weights),))


def classes_bed(weights: Path) -> Bed:
    """The gap of two data sets, on the flow path: T 50, lambda 20, strength 1. "Right" is a sample of the rare class,
    which the ideal model shows in half of the samples: more than half is no merit.
    """
    from experiments.dataset_gap import scoring as classes

    worlds: list[classes.World] = []

    def make(method: classes.Method, count: int, first: int, progress: Progress) -> Score:
        worlds.extend(() if worlds else [classes.load_world(weights, "flow")])
        found = classes.score(worlds[0], method, count, 250, progress)
        return Score(found.minority[:, None], found.num_evaluations, found.num_evaluations, found.seconds)

    def one(partner: str = "weak", mode: str = "fused", **settings: Any) -> tuple[classes.Method, ...]:
        return (classes.Method("", "strong", partner, mode, 1.0, EARLY, **settings),)

    methods: dict[str, tuple[classes.Method, ...]] = {
        **{f"strong, T {steps}": (classes.Method("", steps=steps),) for steps in (50, 70, 90)},
        "W2SD, paper mode": one(mode="paper"),
        "W2SD, fused": one(),
        "W2SD, fused, lag": one(more={"lag": True}),
        **{f"cached gap, every {name}": one(more={"gap_every": every}) for name, every in EVERY.items()},
        "auto-guidance": one(algorithm="autoguided"),
        f"auto-guidance, first {EARLY} steps": one(algorithm="autoguided", guided=EARLY),
        "zero-gap, cached": one("strong", more={"gap_every": 1}),
    }
    return Bed("dataset gap: share of eights", methods, make, 0, 0, (fingerprint(weights),))


def beds(weights: Path | None = None) -> dict[str, Callable[[], Bed]]:
    """By name, what makes a bed."""
    where = weights or PICTURE_WEIGHTS / "weak", LORA_WEIGHTS

    def pictures(strong: gaps.Setting, weak: gaps.Setting, title: str) -> Callable[[], Bed]:
        return lambda: picture_bed(*where, strong, weak, f"pictures: {title}")

    return {
        "video": lambda: video_bed(weights or WEIGHTS),
        "guidance": pictures(gaps.Setting(1.0), gaps.Setting(0.0), "guidance 1 over 0"),
        "guidance-1.5": pictures(gaps.Setting(1.5), gaps.Setting(0.0), "guidance 1.5 over 0"),
        "video-time": lambda: video_time_bed(weights or WEIGHTS),
        "time": lambda: picture_time_bed(*where),
        "depth": lambda: depth_bed(*where),
        "prompt": pictures(gaps.Setting(), gaps.Setting(raw=True), "refined over raw prompt"),
        "digits": lambda: digits_bed(weights or DIGITS),
        "classes": lambda: classes_bed(weights or CLASSES),
        "lora": pictures(gaps.Setting(lora=0.8), gaps.Setting(lora=-1.5), "LoRA 0.8 over -1.5"),
    }
