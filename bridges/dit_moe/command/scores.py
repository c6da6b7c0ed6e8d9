"""FID and IS of a run's pictures, by torchmetrics on our own features; statistics are kept as .npz."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from w2sd_video.checked_values import one_of
from w2sd_video.errors import UserError
from w2sd_video.picture_io import read_picture
from w2sd_video.progress import Progress
from w2sd_video.runs import RunPlan
from w2sd_video.video_io import write_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from bridges.dit_moe.command.inception import Inception

METRICS = ("fid", "is")
SCORES = "metrics.json"
SPLITS, SHUFFLE = 10, 2020  # of IS, as torch-fidelity
FEATURES = 2048
FEW = 2048  # below, the covariance of the features is singular
BATCH = 32
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


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
    if importlib.util.find_spec("torchmetrics") is None:
        raise UserError('--metrics needs torchmetrics, which is not installed: pip install "w2sd-video[metrics]"')
    return chosen


def _check_reference(reference: str | None) -> None:
    if reference is None:
        raise UserError("the metric fid needs --reference: statistics (.npz with mu, sigma) or a folder of pictures")
    path = Path(reference)
    if path.is_dir():
        if len(_pictures(path)) < 2:
            raise UserError(f"the reference {path} holds fewer than 2 pictures; a covariance needs more")
    else:
        read_statistics(path)


def write_scores(
    plan: RunPlan, names: Sequence[str], inception: str, reference: str | None, *, progress: Progress
) -> str:
    """Scores each method's finished pictures and writes metrics.json; returns its path.

    Statistics (mu, sigma, count) stand in statistics-METHOD.npz, which another run may take as its --reference, and in
    reference.npz for a folder of pictures; neither is made again while the pictures are as many and the weights the
    same.
    """
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore

    from bridges.dit_moe.command.inception import load_inception

    class Given(torch.nn.Module):
        """Takes features for pictures, so that one pass of the network serves both metrics."""

        num_features = FEATURES

        def forward(self, features: Tensor) -> Tensor:
            return features

    weights = hashlib.sha256(Path(inception).read_bytes()).hexdigest()[:16]
    networks: list[Inception] = []

    def read(paths: Sequence[Path], kept: Path) -> dict[str, Any]:
        made_of = f"{weights} {len(paths)}"
        if kept.is_file() and (found := read_statistics(kept)).get("made_of") == made_of:
            return found
        if not networks:
            networks.append(load_inception(Path(inception)).to(plan.record["device"]))
        distance, score = FrechetInceptionDistance(Given()), InceptionScore(Given(), splits=SPLITS)
        for features, logits in _read(networks[0], paths):
            distance.update(features.double(), real=False)
            score.update(logits)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SHUFFLE)
            mean, deviation = score.compute()
        found = {**_moments(distance), "is": float(mean), "is_std": float(deviation), "made_of": made_of}
        _write_statistics(kept, found)
        return found

    ideal: dict[str, Any] = {}
    if "fid" in names:
        assert reference is not None
        path = Path(reference)
        ideal = read(_pictures(path), plan.output / "reference.npz") if path.is_dir() else read_statistics(path)
    scores: dict[str, dict[str, float | None]] = {}
    for position, method in enumerate(plan.record["methods"]):
        paths = [path for group in plan.groups if (path := plan.output / group[position].path).exists()]
        if len(paths) < 2:
            progress.note(f"{method} has {len(paths)} pictures, too few for {', '.join(names)}")
            continue
        found = read(paths, plan.output / f"statistics-{method}.npz")
        scores[method] = {"pictures": len(paths)}
        if "fid" in names:
            distance = FrechetInceptionDistance(Given())
            distance.update(torch.zeros(0, FEATURES, dtype=torch.float64), real=False)  # its results are of this kind
            _set_moments(distance, "real", ideal)
            _set_moments(distance, "fake", found)
            scores[method]["fid"] = float(distance.compute())
        if "is" in names:
            spread = found["is_std"] if math.isfinite(found["is_std"]) else None  # of one split
            scores[method] |= {"is": found["is"], "is_std": spread}
    if "fid" in names and min((score["pictures"] or 0 for score in scores.values()), default=FEW) < FEW:
        progress.note(f"FID of fewer than {FEW} pictures is far too high, and comparable at equal numbers only")
    path = plan.output / SCORES
    facts = {"inception": weights, "reference": reference, "methods": scores}
    write_bytes(path, (json.dumps(facts, indent=2) + "\n").encode())
    return str(path)


def read_statistics(path: Path) -> dict[str, Any]:
    """The statistics in an .npz: "mu" [2048], "sigma" [2048, 2048] (as pytorch-fid and ADM write them) and the rest.

    Raises:
        UserError: it is not there, or holds others.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {
                name: file[name] for name in file.files if name in ("mu", "sigma", "count", "is", "is_std", "made_of")
            }
    except (OSError, ValueError) as error:
        raise UserError(f"the statistics {path} cannot be read: {error}; give an .npz with mu and sigma") from error
    shapes = tuple(found[name].shape if name in found else None for name in ("mu", "sigma"))
    if shapes != ((FEATURES,), (FEATURES, FEATURES)):
        raise UserError(
            f"{path} has mu and sigma of shapes {shapes}; they must be ({FEATURES},) and ({FEATURES}, {FEATURES})"
        )
    return {name: value if value.ndim else value.item() for name, value in found.items()}


def _write_statistics(path: Path, found: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **found)
    write_bytes(path, buffer.getvalue())


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def _read(network: Inception, paths: Sequence[Path]) -> Iterator[tuple[Tensor, Tensor]]:
    """Features and logits of pictures of any sizes, on the CPU."""
    import torch

    device = next(network.parameters()).device
    for start in range(0, len(paths), BATCH):
        pixels = [read_picture(path).pixels for path in paths[start : start + BATCH]]
        for size in dict.fromkeys(picture.shape for picture in pixels):  # order does not matter to either metric
            same = np.stack([picture for picture in pixels if picture.shape == size])
            batch = torch.from_numpy(same).to(device).permute(0, 3, 1, 2).float() / 255
            with torch.inference_mode():
                features, logits = network(batch)
            yield features.cpu(), logits.cpu()


def _moments(distance: Any) -> dict[str, Any]:
    """Mean and covariance of what a FrechetInceptionDistance has seen as fake."""
    count = int(distance.fake_features_num_samples)
    total, products = distance.fake_features_sum.numpy(), distance.fake_features_cov_sum.numpy()
    mean = total / count
    return {"mu": mean, "sigma": (products - count * np.outer(mean, mean)) / (count - 1), "count": count}


def _set_moments(distance: Any, side: str, found: dict[str, Any]) -> None:
    """The states that have this mean and covariance; the count cancels."""
    import torch

    count = max(2, int(found.get("count", 2)))
    mean = np.asarray(found["mu"], np.float64)
    products = (count - 1) * np.asarray(found["sigma"], np.float64) + count * np.outer(mean, mean)
    setattr(distance, f"{side}_features_sum", torch.from_numpy(count * mean))
    setattr(distance, f"{side}_features_cov_sum", torch.from_numpy(products))
    setattr(distance, f"{side}_features_num_samples", torch.tensor(count))
