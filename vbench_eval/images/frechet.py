"""FID and IS by torchmetrics on our own Inception features, with the statistics of a set of pictures kept as .npz."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vbench_eval.errors import UserError
from vbench_eval.files import write_bytes
from vbench_eval.images.sources import PictureError, read_picture

if TYPE_CHECKING:
    from torch import Tensor

    from vbench_eval.images.inception import Inception

SPLITS, SHUFFLE = 10, 2020  # of IS, as torch-fidelity
FEATURES = 2048
FEW = 2048  # below, the covariance of the features is singular
BATCH = 32
_KEPT = ("mu", "sigma", "count", "is", "is_std", "made_of")


def check_torchmetrics() -> None:
    """Raises UserError if torchmetrics, which computes FID and IS, is not installed (imports nothing)."""
    if importlib.util.find_spec("torchmetrics") is None:
        raise UserError('FID and IS need torchmetrics, which is not installed: pip install "w2sd-video[metrics]"')


def made_of(weights: str, paths: Sequence[Path]) -> str:
    """What statistics are made of: the network (by a digest) and the pictures (by their names and sizes)."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
    return f"{weights} {len(paths)} {digest.hexdigest()[:16]}"


def gather(
    paths: Sequence[Path],
    network: Callable[[], Inception],
    *,
    weights: str,
    kept: Path | None = None,
    bad: Callable[[Path, PictureError], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """The statistics of pictures: "mu" [2048] and "sigma" [2048, 2048] of their features, "count", "is" and "is_std".

    They are read from `kept` if that was made of the same pictures with the same weights, else written there;
    `network` is called only if they must be made. "is_std" is NaN for one split. `bad` is told of each picture that
    cannot be read (default: it is raised), `progress` how many pictures have been seen.

    Raises:
        UserError: fewer than 2 pictures can be read.
        PictureError: one cannot be read and there is no `bad`.
    """
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore

    of = made_of(weights, paths)
    if kept is not None and kept.is_file() and (found := read_statistics(kept)).get("made_of") == of:
        return found
    damaged: list[Path] = []

    def tell(path: Path, error: PictureError) -> None:
        if bad is None:
            raise error
        damaged.append(path)
        bad(path, error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that logits are kept: 8 KB per picture
        distance, score, count = FrechetInceptionDistance(_given()), InceptionScore(_given(), splits=SPLITS), 0
    for features, logits in _read(network(), paths, tell):
        distance.update(features.double(), real=False)
        score.update(logits.double())  # in float32 a class that never shows may have a probability of 0: NaN
        count += len(features)
        if progress is not None:
            progress(count + len(damaged))
    if count < 2:
        raise UserError(f"{count} of {len(paths)} pictures can be read; FID and IS need at least 2")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that one split has no deviation
        torch.manual_seed(SHUFFLE)
        mean, deviation = score.compute()
    found = {**_moments(distance), "is": float(mean), "is_std": float(deviation), "made_of": of}
    if kept is not None and not damaged:  # what was damaged may be mended under the same name and size
        _write(kept, found)
    return found


def frechet_distance(found: dict[str, Any], ideal: dict[str, Any]) -> float:
    """|mu1 - mu2|^2 + Tr(S1 + S2 - 2 sqrt(S1 S2)) of two sets' statistics."""
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    distance = FrechetInceptionDistance(_given())
    distance.update(torch.zeros(0, FEATURES, dtype=torch.float64), real=False)  # its results are of this kind
    _set_moments(distance, "real", ideal)
    _set_moments(distance, "fake", found)
    return float(distance.compute())


def inception_score(found: dict[str, Any]) -> tuple[float, float | None]:
    """The mean and, of more splits than one, the deviation over splits."""
    return found["is"], found["is_std"] if math.isfinite(found["is_std"]) else None


def read_statistics(path: Path) -> dict[str, Any]:
    """The statistics in an .npz: "mu" [2048], "sigma" [2048, 2048] (as pytorch-fid and ADM write them) and the rest.

    Raises:
        UserError: it is not there, or holds others.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files if name in _KEPT}
    except (OSError, ValueError) as error:
        raise UserError(f"the statistics {path} cannot be read: {error}; give an .npz with mu and sigma") from error
    shapes = tuple(found[name].shape if name in found else None for name in ("mu", "sigma"))
    if shapes != ((FEATURES,), (FEATURES, FEATURES)):
        raise UserError(
            f"{path} has mu and sigma of shapes {shapes}; they must be ({FEATURES},) and ({FEATURES}, {FEATURES})"
        )
    return {name: value if value.ndim else value.item() for name, value in found.items()}


def _write(path: Path, found: dict[str, Any]) -> None:
    """Writes statistics so that the file is whole or absent, whatever happens."""
    buffer = io.BytesIO()
    np.savez(buffer, **found)
    write_bytes(path, buffer.getvalue(), contested=True)


def _given() -> Any:
    """A network that takes features for pictures, so that one pass of Inception serves both metrics."""
    from torch import nn

    network = nn.Identity()
    network.num_features = FEATURES  # type: ignore[assignment]
    return network


def _read(
    network: Inception, paths: Sequence[Path], bad: Callable[[Path, PictureError], None]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Features and logits of pictures of any sizes, on the CPU."""
    import torch

    device = next(network.parameters()).device
    for start in range(0, len(paths), BATCH):
        pixels = []
        for path in paths[start : start + BATCH]:
            try:
                pixels.append(np.asarray(read_picture(path)))
            except PictureError as error:
                bad(path, error)
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
