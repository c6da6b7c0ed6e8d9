"""FID and IS of a run's pictures, computed by vbench_eval; statistics are kept as .npz."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vbench_eval.errors
from vbench_eval.images import frechet
from vbench_eval.images.sources import find_pictures
from w2sd_video.commands.checks import one_of
from w2sd_video.errors import UserError
from w2sd_video.runs.progress import Progress
from w2sd_video.runs.runs import RunPlan
from w2sd_video.runs.video_io import write_bytes

if TYPE_CHECKING:
    from vbench_eval.images.inception import Inception

METRICS = ("fid", "is")
SCORES = "metrics.json"


def check_scores(names: Sequence[str] | None, inception: str | None, reference: str | None) -> tuple[str, ...]:
    """Returns the metrics asked for; refuses what they cannot be computed from (imports no torch).

    Raises:
        UserError: unknown metrics, weights or references that are missing, or no torchmetrics.
    """
    if names is None:
        if inception is not None or reference is not None:
            raise UserError("--inception and --reference are for --metrics; give that too, such as --metrics fid,is")
        return ()
    chosen = tuple(one_of(name, METRICS, "metric") for name in dict.fromkeys(names))
    if not chosen:
        raise UserError(f"no metric is given; choose from {', '.join(METRICS)}")
    if inception is None or not Path(inception).is_file():
        raise UserError(
            f"--inception is {inception}; --metrics needs the file of the Inception weights "
            "(pytorch-fid's release fid_weights: pt_inception-2015-12-05-6726825d.pth)"
        )
    if "fid" in chosen:
        _check_reference(reference)
    with _as_ours():
        frechet.check_torchmetrics()
    return chosen


def _check_reference(reference: str | None) -> None:
    if reference is None:
        raise UserError("the metric fid needs --reference: statistics (.npz with mu, sigma) or a folder of pictures")
    path = Path(reference)
    with _as_ours():
        if not path.is_dir():
            frechet.read_statistics(path)
        elif len(find_pictures(path)) < 2:
            raise UserError(f"the reference {path} holds fewer than 2 pictures; a covariance needs more")


def write_scores(
    plan: RunPlan, names: Sequence[str], inception: str, reference: str | None, *, progress: Progress
) -> str:
    """Scores each method's finished pictures and writes metrics.json; returns its path.

    Statistics (mu, sigma, count) stand in statistics-METHOD.npz, which another run may take as its --reference, and in
    reference.npz for a folder of pictures; neither is made again while the pictures and the weights are the same.
    """
    from vbench_eval.images.inception import load_inception

    weights = hashlib.sha256(Path(inception).read_bytes()).hexdigest()[:16]
    networks: list[Inception] = []

    def network() -> Inception:
        if not networks:
            networks.append(load_inception(Path(inception)).to(plan.record["device"]))
        return networks[0]

    def read(paths: Sequence[Path], kept: str) -> dict[str, Any]:
        return frechet.gather(paths, network, weights=weights, kept=plan.output / kept)

    ideal: dict[str, Any] = {}
    scores: dict[str, dict[str, float | None]] = {}
    with _as_ours():
        if "fid" in names:
            assert reference is not None
            path = Path(reference)
            ideal = read(find_pictures(path), "reference.npz") if path.is_dir() else frechet.read_statistics(path)
        for position, method in enumerate(plan.record["methods"]):
            paths = [path for group in plan.groups if (path := plan.output / group[position].path).exists()]
            if len(paths) < 2:
                progress.note(f"{method} has {len(paths)} pictures, too few for {', '.join(names)}")
                continue
            found = read(paths, f"statistics-{method}.npz")
            scores[method] = {"pictures": len(paths)}
            if "fid" in names:
                scores[method]["fid"] = frechet.frechet_distance(found, ideal)
            if "is" in names:
                scores[method]["is"], scores[method]["is_std"] = frechet.inception_score(found)
    if "fid" in names and min((score["pictures"] or 0 for score in scores.values()), default=frechet.FEW) < frechet.FEW:
        progress.note(f"FID of fewer than {frechet.FEW} pictures is far too high, and comparable at equal numbers only")
    path = plan.output / SCORES
    facts = {"inception": weights, "reference": reference, "methods": scores}
    write_bytes(path, (json.dumps(facts, indent=2) + "\n").encode())
    return str(path)


@contextmanager
def _as_ours() -> Iterator[None]:
    """What a user can act on is said in this command's words."""
    try:
        yield
    except vbench_eval.errors.UserError as error:
        raise UserError(str(error)) from error
