"""A folder of pictures scored by several metrics, one network at a time, beside a baseline if there is one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vbench_eval.errors import UserError
from vbench_eval.images import IMAGE_METRICS
from vbench_eval.images.measuring import Job, Progress, measure
from vbench_eval.images.sources import Gallery, Sources, read_gallery
from vbench_eval.images.win_rate import pairs_of

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
        weights or {},
        device=device,
        dtype=dtype,
        batch=batch,
        offline=offline,
        allow_pickle=allow_pickle,
        cache=cache,
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
