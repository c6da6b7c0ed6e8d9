"""One metric of a folder of pictures, and of the baseline's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbench_eval.images import IMAGE_METRICS
from vbench_eval.images.pictures import PictureError, find_pictures, read_picture
from vbench_eval.images.rewards import REWARDS
from vbench_eval.images.sources import Gallery, Sources
from vbench_eval.images.win_rate import against, as_json
from vbench_eval.statistics import mean_interval

if TYPE_CHECKING:
    from PIL import Image

    from vbench_eval.images.rewards import Reward

Progress = Callable[[str, int, int], None]
"""Told the metric, how many pictures are behind and how many there are."""


@dataclass
class Job:
    """What every metric works on; `skipped` gathers the pictures that cannot be read, `gathered` the statistics of sets
    that FID and IS share.
    """

    ours: Gallery
    theirs: Gallery | None
    pairs: Mapping[str, str]
    reference: Path | None
    sources: Sources
    plugins: Mapping[str, str]
    statistics: Path | None
    progress: Progress | None
    skipped: dict[str, str] = field(default_factory=dict)
    gathered: dict[str, dict[str, Any]] = field(default_factory=dict)

    def told(self, metric: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(metric, done, total)

    def skip(self, path: Path, error: PictureError) -> None:
        self.skipped[str(path)] = str(error)

    def open(self, path: Path) -> Image.Image | None:
        """The picture, or None for one that cannot be read."""
        if str(path) in self.skipped:
            return None
        try:
            return read_picture(path)
        except PictureError as error:
            self.skip(path, error)
            return None


def measure(name: str, job: Job) -> dict[str, Any]:
    """What the report says of a metric; raises Unavailable if its weights are not on this machine."""
    if name in ("fid", "is"):
        from vbench_eval.images.set_scores import measure_set

        return measure_set(name, job)
    if name == "mps":
        return _preferred(job)
    scorer = _scorer(name, job)
    factor = IMAGE_METRICS[name].factor
    prompts = dict(zip(job.ours.names, job.ours.prompts, strict=True))
    ours = _each(scorer, job.ours, job, factor)
    report = {**_mean(ours, prompts), "per_picture": ours, "provenance": scorer.provenance()}
    if job.theirs is not None:
        theirs = _each(scorer, _paired(job.theirs, job), job, factor)
        others = dict(zip(job.theirs.names, job.theirs.prompts, strict=True))
        report["baseline"] = {**_mean(theirs, others), "per_picture": theirs}
        report["against_baseline"] = against(ours, theirs, job.pairs, prompts)
        if name == "pickscore":
            report["against_baseline"]["preference"] = _preference(ours, theirs, job.pairs)
    return report


def _scorer(name: str, job: Job) -> Reward:
    if name in REWARDS:
        return REWARDS[name][1](job.sources)
    assert job.reference is not None
    pictures = (picture for path in find_pictures(job.reference) if (picture := job.open(path)) is not None)
    if name == "clip_i":
        from vbench_eval.images.clip_scores import load_clip_i

        return load_clip_i(job.sources, pictures)
    from vbench_eval.images.dino import load_dino

    return load_dino(job.sources, pictures)


def _paired(theirs: Gallery, job: Job) -> Gallery:
    """The baseline's pictures that have a pair, each with the prompt of that pair."""
    prompts = dict(zip(job.ours.names, job.ours.prompts, strict=True))
    of = {other: prompts[name] for name, other in job.pairs.items()}
    kept = [(path, name) for path, name in zip(theirs.paths, theirs.names, strict=True) if name in of]
    return Gallery(
        theirs.folder, tuple(p for p, _ in kept), tuple(n for _, n in kept), tuple(of[name] for _, name in kept)
    )


def _each(scorer: Reward, gallery: Gallery, job: Job, factor: float) -> dict[str, float]:
    """The score of each picture that can be read, by name."""
    found: dict[str, float] = {}
    done = 0
    for names, pictures, prompts in _batches(gallery, job):
        if pictures:
            for name, value in zip(names, scorer(pictures, prompts).tolist(), strict=True):
                found[name] = factor * value
        done = min(done + job.sources.batch, len(gallery.paths))
        job.told(scorer.name, done, len(gallery.paths))
    return found


def _batches(gallery: Gallery, job: Job) -> Iterator[tuple[list[str], list[Image.Image], list[str]]]:
    for start in range(0, len(gallery.paths), job.sources.batch):
        numbers = range(start, min(start + job.sources.batch, len(gallery.paths)))
        opened = [(number, job.open(gallery.paths[number])) for number in numbers]
        kept = [(number, picture) for number, picture in opened if picture is not None]
        yield (
            [gallery.names[number] for number, _ in kept],
            [picture for _, picture in kept],
            [gallery.prompts[number] or "" for number, _ in kept],
        )


def _preferred(job: Job) -> dict[str, Any]:
    """MPS: the mean probability that our picture of a pair is preferred, times 100."""
    from vbench_eval.images.mps import load_mps

    judge, factor = load_mps(job.plugins.get("mps"), job.sources), IMAGE_METRICS["mps"].factor
    assert job.theirs is not None
    ours = dict(zip(job.ours.names, zip(job.ours.paths, job.ours.prompts, strict=True), strict=True))
    theirs = dict(zip(job.theirs.names, job.theirs.paths, strict=True))
    found: dict[str, float] = {}
    pairs = list(job.pairs.items())
    for start in range(0, len(pairs), job.sources.batch):
        opened = [
            (name, job.open(ours[name][0]), job.open(theirs[other]))
            for name, other in pairs[start : start + job.sources.batch]
        ]
        kept = [(name, first, second) for name, first, second in opened if first is not None and second is not None]
        if kept:
            names, first, second = zip(*kept, strict=True)
            chances = judge(list(first), list(second), [ours[name][1] or "" for name in names]).tolist()
            found.update((name, factor * value) for name, value in zip(names, chances, strict=True))
        job.told("mps", min(start + job.sources.batch, len(pairs)), len(pairs))
    prompts = {name: ours[name][1] for name in found}
    return {**_mean(found, prompts), "per_picture": found, "provenance": judge.provenance()}


def _preference(ours: Mapping[str, float], theirs: Mapping[str, float], pairs: Mapping[str, str]) -> float | None:
    """The mean probability, by the softmax of two PickScores, that our picture of a pair is preferred."""
    import torch

    from vbench_eval.images.pickscore import preference

    both = [(ours[name], theirs[other]) for name, other in pairs.items() if name in ours and other in theirs]
    if not both:
        return None
    first, second = torch.tensor(both, dtype=torch.float64).T
    return float(preference(first, second).mean())


def _mean(scores: Mapping[str, float], prompts: Mapping[str, str | None]) -> dict[str, Any]:
    if not scores:
        return {"value": None, "low": None, "high": None, "pictures": 0, "reason": "no picture could be read"}
    interval = mean_interval(list(scores.values()), [prompts.get(name) or name for name in scores])
    return {**as_json(interval), "pictures": len(scores)}
