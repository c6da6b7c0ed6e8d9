"""FID and IS of a folder, and of the baseline's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbench_eval.errors import UserError
from vbench_eval.images import frechet
from vbench_eval.images.pictures import find_pictures

if TYPE_CHECKING:
    from vbench_eval.images.inception import Inception
    from vbench_eval.images.measuring import Job


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
