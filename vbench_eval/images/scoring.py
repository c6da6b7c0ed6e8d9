"""A folder of pictures scored by several metrics, one network at a time, beside a baseline if there is one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbench_eval.errors import UserError
from vbench_eval.images import IMAGE_METRICS, QUESTIONS, frechet
from vbench_eval.images.rewards import REWARDS
from vbench_eval.images.sources import Gallery, PictureError, Sources, find_pictures, read_gallery, read_picture
from vbench_eval.statistics import Interval, difference_interval, mean_interval, win_rate

if TYPE_CHECKING:
    from PIL import Image

    from vbench_eval.images.inception import Inception
    from vbench_eval.images.rewards import Reward


def pairs_of(ours: Gallery, theirs: Gallery) -> dict[str, str]:
    """The names in `theirs` by those in `ours`: of the same name, their endings aside.

    Raises:
        UserError: no picture has its pair, or a pair is of two prompts.
    """
    by_stem = {_stem(name): name for name in theirs.names}
    found = {name: by_stem[_stem(name)] for name in ours.names if _stem(name) in by_stem}
    if not found:
        raise UserError(
            f"no picture of {ours.folder} has one of its name in {theirs.folder}; "
            "the pictures of a pair must be called alike"
        )
    prompts, others = (dict(zip(side.names, side.prompts, strict=True)) for side in (ours, theirs))
    for name, other in found.items():
        if prompts[name] != others[other] and None not in (prompts[name], others[other]):
            raise UserError(
                f"{name} is of {prompts[name]!r} in {ours.folder} and of {others[other]!r} in {theirs.folder}; "
                "the pictures of a pair must show one prompt"
            )
    return found


def against(
    ours: Mapping[str, float], theirs: Mapping[str, float], pairs: Mapping[str, str], prompts: Mapping[str, str | None]
) -> dict[str, Any]:
    """The share of pairs in which ours scores higher (a tie is half a win) and the mean difference, as JSON.

    `ours` and `theirs` are scores by name; pairs of which one has none are left out. Intervals treat the prompt as the
    unit.
    """
    names = [name for name in pairs if name in ours and pairs[name] in theirs]
    if not names:
        return {"pairs": 0}
    first, second = [ours[name] for name in names], [theirs[pairs[name]] for name in names]
    units = [prompts.get(name) or name for name in names]
    found = win_rate(first, second, units)
    return {
        "pairs": len(names),
        "win_rate": as_json(found.rate),
        "wins": found.wins,
        "ties": found.ties,
        "losses": found.losses,
        "difference": as_json(difference_interval(first, second, units)),
    }


def as_json(interval: Interval) -> dict[str, float | None]:
    """An interval as {"value", "low", "high"}."""
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _stem(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return folder + slash + (last.rpartition(".")[0] or last)


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
        return measure_set(name, job)
    if name == "mps":
        return _preferred(job)
    scorer = _scorer(name, job)
    factor = IMAGE_METRICS[name].factor
    prompts = dict(zip(job.ours.names, job.ours.prompts, strict=True))
    ours = _each(scorer, job.ours, job, factor)
    report = {**_mean(ours, prompts), "per_picture": ours, **_benchmark(scorer), "provenance": scorer.provenance()}
    if job.theirs is not None:
        theirs = _each(scorer, _paired(job.theirs, job), job, factor)
        others = dict(zip(job.theirs.names, job.theirs.prompts, strict=True))
        report["baseline"] = {**_mean(theirs, others), "per_picture": theirs, **_benchmark(scorer)}
        report["against_baseline"] = against(ours, theirs, job.pairs, prompts)
        if name == "pickscore":
            report["against_baseline"]["preference"] = _preference(ours, theirs, job.pairs)
    return report


def _benchmark(scorer: Reward) -> dict[str, Any]:
    """A benchmark's own numbers, of the pictures since they were last asked for; nothing for other metrics."""
    summary = getattr(scorer, "summary", None)
    return {} if summary is None else {"benchmark": summary()}


def _scorer(name: str, job: Job) -> Reward:
    if name in REWARDS:
        return REWARDS[name][1](job.sources)
    if name in QUESTIONS:
        from vbench_eval.images.questions import load_questioner

        return load_questioner(name, job.sources, job.plugins.get(name))
    assert job.reference is not None
    pictures = (picture for path in find_pictures(job.reference) if (picture := job.open(path)) is not None)
    if name == "clip_i":
        from vbench_eval.images.rewards import load_clip_i

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

    from vbench_eval.images.rewards import preference

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


def measure_set(name: str, job: Job) -> dict[str, Any]:
    """What the report says of "fid" or "is"; a set of fewer than 2 readable pictures has no value but a reason."""
    from vbench_eval.backbones.finding import content_sha256
    from vbench_eval.backbones.loading import usable_device
    from vbench_eval.backbones.weights import named
    from vbench_eval.images.inception import load_inception

    path = job.sources.find("inception")
    digest = content_sha256(path, cache=job.sources.cache)
    device = usable_device(job.sources.device)
    networks: list[Inception] = []

    def network() -> Inception:
        if not networks:
            networks.append(load_inception(path).to(device))
        return networks[0]

    def gathered(paths: Sequence[Path], kept: str) -> dict[str, Any]:
        if kept not in job.gathered:
            job.gathered[kept] = frechet.gather(
                paths,
                network,
                weights=digest[:16],
                kept=None if job.statistics is None else job.statistics / f"statistics-{kept}.npz",
                bad=job.skip,
                progress=lambda done: job.told(f"{name} ({kept})", done, len(paths)),
            )
        return job.gathered[kept]

    ideal: dict[str, Any] = {}
    if name == "fid":
        assert job.reference is not None
        given = job.reference
        ideal = gathered(find_pictures(given), "reference") if given.is_dir() else frechet.read_statistics(given)

    def value(paths: Sequence[Path], kept: str) -> dict[str, Any]:
        try:
            found = gathered(paths, kept)
        except UserError as error:
            return {"value": None, "pictures": 0, "reason": str(error)}
        facts: dict[str, Any] = {"pictures": found["count"]}
        if name == "fid":
            few = "far too high with fewer than 2048 pictures; compare at equal numbers only"
            note = {"note": few} if found["count"] < frechet.FEW else {}
            return {"value": frechet.frechet_distance(found, ideal), **facts, **note}
        mean, deviation = frechet.inception_score(found)
        return {"value": mean, "deviation": deviation, **facts}

    weights = named("inception")
    told = {"id": weights.name, "file": str(path), "sha256": digest, "device": str(device), "licence": weights.licence}
    report = {**value(job.ours.paths, "pictures"), "provenance": told}
    if job.theirs is not None:
        report["baseline"] = value(job.theirs.paths, "baseline")
    return report


DEFAULT = ("pickscore", "hps_v2.1", "aes")


def score_images(
    folder: str | Path,
    prompts: Any = None,
    metrics: Sequence[str] = DEFAULT,
    *,
    reference: str | Path | None = None,
    baseline: str | Path | None = None,
    weights: Mapping[str, str] | None = None,
    plugins: Mapping[str, str] | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    batch: int = 16,
    offline: bool = True,
    allow_pickle: bool = False,
    cache: str | os.PathLike[str] | None = None,
    statistics: str | Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Scores a folder of pictures and returns the report, ready for JSON.

    Args:
        folder: pictures of any sizes, or the output folder of a generator with one method.
        prompts: see `sources.read_gallery`.
        metrics: names of `IMAGE_METRICS`.
        reference: a folder of pictures (clip_i, dino, fid) or an .npz of statistics (fid).
        baseline: pictures of the same names by another method: each metric of single pictures adds the share of pairs
            in which ours scores higher, and mps compares with them.
        weights: by name of the weights, a path or hub id to take instead of looking.
        plugins: {"mps": "package.module:function" or a TorchScript file}.
        statistics: where FID's and IS's statistics are kept (None: nowhere).

    Of each metric the report has "value" (in `unit`; None with "unavailable" where its weights are missing) and, of
    metrics of single pictures, the interval of the mean and "per_picture". Pictures that cannot be read are in
    "skipped" with the reason.

    Raises:
        UserError: unknown metrics, missing prompts, reference or baseline, or unusable weights.
        Unavailable: none of the metrics has its weights on this machine.
    """
    from vbench_eval.backbones.finding import Unavailable

    chosen = _chosen(metrics)
    ours = read_gallery(folder, prompts)
    theirs = None
    if baseline is not None:
        known = [prompt for prompt in ours.prompts if prompt is not None]
        theirs = read_gallery(baseline, known=known if prompts is None else None)
    sources = Sources(
        weights or {}, device=device, dtype=dtype, batch=batch, offline=offline, allow_pickle=allow_pickle, cache=cache
    )
    job = Job(
        ours,
        theirs,
        pairs_of(ours, theirs) if theirs else {},
        None if reference is None else Path(reference),
        sources,
        plugins or {},
        None if statistics is None else Path(statistics),
        progress,
    )
    _check_needs(chosen, job)
    found: dict[str, dict[str, Any]] = {}
    missing: list[str] = []
    for name in chosen:
        facts = {"unit": IMAGE_METRICS[name].unit, "better": IMAGE_METRICS[name].better}
        try:
            found[name] = {**facts, **measure(name, job)}
        except Unavailable as error:
            missing.append(str(error))
            found[name] = {**facts, "value": None, "unavailable": str(error)}
    if len(missing) == len(chosen):
        raise Unavailable("; ".join(dict.fromkeys(missing)))
    return {
        "schema": 1,
        "folder": str(ours.folder),
        "pictures": len(ours.paths),
        "baseline": None if theirs is None else str(theirs.folder),
        "pairs": len(job.pairs),
        "reference": None if reference is None else str(reference),
        "skipped": [{"path": path, "reason": reason} for path, reason in sorted(job.skipped.items())],
        "metrics": found,
    }


def _chosen(metrics: Sequence[str]) -> tuple[str, ...]:
    words = [metrics] if isinstance(metrics, str) else metrics
    names = [name.strip().lower() for word in words for name in word.split(",") if name.strip()]
    if strangers := [name for name in names if name not in IMAGE_METRICS]:
        raise UserError(f"no image metric is called {strangers[0]!r}; choose from {', '.join(IMAGE_METRICS)}")
    if not names:
        raise UserError(f"no metric is given; choose from {', '.join(IMAGE_METRICS)}")
    return tuple(dict.fromkeys(names))


def _check_needs(chosen: Sequence[str], job: Job) -> None:
    """Refuses, before anything is loaded, what the metrics cannot be computed from."""
    for name in chosen:
        needs = IMAGE_METRICS[name].needs
        if "prompts" in needs:
            _check_prompts(name, job.ours)
        if "baseline" in needs and job.theirs is None:
            raise UserError(f"{name} compares pairs of pictures: give the other method's folder as the baseline")
        if "reference" in needs and job.reference is None:
            raise UserError(f"{name} needs a reference: a folder of pictures{', or an .npz' if name == 'fid' else ''}")
        if "reference" in needs and name != "fid" and not (job.reference and job.reference.is_dir()):
            raise UserError(f"{name} needs pictures as its reference; {job.reference} is no folder")
        if name in ("fid", "is"):
            from vbench_eval.images.frechet import check_torchmetrics, read_statistics

            check_torchmetrics()
            if name == "fid" and job.reference is not None and not job.reference.is_dir():
                read_statistics(job.reference)


def _check_prompts(metric: str, gallery: Gallery) -> None:
    unknown = [name for name, prompt in zip(gallery.names, gallery.prompts, strict=True) if prompt is None]
    if unknown:
        raise UserError(
            f"{metric} needs prompts, and nobody says that of {len(unknown)} of {len(gallery.names)} pictures, such as "
            f"{unknown[0]}; give a JSON file {{name: prompt}}, a text file with a prompt per picture in the order of "
            'names, or name the pictures "<prompt>-<index>.png"'
        )
