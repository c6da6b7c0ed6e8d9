"""Samples of a method and what the judge reads in them, kept in a file, so that no method is run twice."""

from __future__ import annotations

import hashlib
import os
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from experiments.dataset_gap.export import JUDGE
from experiments.dataset_gap.judge import MAJORITY, MINORITY, NEITHER, Judge, Reading, load_judge
from experiments.dataset_gap.methods import Method, make
from experiments.dataset_gap.networks import denoiser, load_network, sampling_levels, sampling_path
from experiments.dataset_gap.recipe import SIDES
from w2sd_video.core import Denoiser
from w2sd_video.errors import UserError

FIRST_SEED = 500_000


@dataclass(frozen=True)
class World:
    """What methods are compared in: the three sides of one path, and who reads their pictures."""

    path: str
    sides: Mapping[str, Denoiser]
    judge: Judge
    shape: tuple[int, int, int]  # of a picture: channels, height, width
    device: str = "cpu"


@dataclass(frozen=True)
class Score:
    """Pictures [N, C, H, W] as uint8, what the judge reads in them, and what a sample cost."""

    pictures: Tensor
    reading: Reading
    num_evaluations: int
    gap: float
    seconds: float

    def of_class(self, number: int) -> Tensor:
        """Whether the judge sees this class, [N] booleans."""
        return self.reading.classes == number

    @property
    def minority(self) -> Tensor:
        return self.of_class(MINORITY)

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many pictures show the majority, the minority and neither."""
        majority, minority, neither = (int(self.of_class(n).sum()) for n in (MAJORITY, MINORITY, NEITHER))
        return majority, minority, neither


def load_world(weights: Path, path: str, device: str = "cpu") -> World:
    """The world of a folder that `scripts/train_dataset_gap.py` wrote.

    Raises:
        UserError: something is missing or damaged, or the networks and the judge do not belong together.
    """
    judge = load_judge(weights / JUDGE)
    networks = {side: load_network(weights / path / side) for side in SIDES}
    shape = (judge.shape["channels"], judge.shape["size"], judge.shape["size"])
    for side, network in networks.items():
        own = (network.config.in_channels, network.config.sample_size, network.config.sample_size)
        if own != shape:
            raise UserError(f"{weights / path / side} makes pictures {own}, and the judge there reads {shape}")
    return World(path, {side: denoiser(n.to(device)) for side, n in networks.items()}, judge.to(device), shape, device)


def noises(first: int, count: int, shape: tuple[int, int, int]) -> Tensor:
    """The noises [count, *shape] that samples `first`, `first + 1`, ... of every method start from."""
    return torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(FIRST_SEED + first + i)) for i in range(count)]
    )


def score(
    world: World, method: Method, count: int, batch: int, progress: Callable[[int], object] = lambda finished: None
) -> Score:
    """`count` samples of a method, `batch` at a time, rounded to 8 bits as a file would hold them, and read."""
    made: list[Tensor] = []
    gaps: list[float] = []
    evaluations, start = 0, time.perf_counter()
    for first in range(0, count, batch):
        noise = noises(first, min(batch, count - first), world.shape).to(world.device)
        found = make(
            method, noise, world.sides, sampling_path(world.path), lambda steps: sampling_levels(world.path, steps)
        )
        made.append(((found.pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu())
        gaps.append(found.gap)
        evaluations = found.num_evaluations
        progress(len(noise))
    seconds = (time.perf_counter() - start) / count
    pictures = torch.cat(made)
    reading = world.judge.read(pictures.to(world.device))
    return Score(pictures, reading, evaluations, sum(gaps) / len(gaps), seconds)


def save_score(score: Score, file: Path, settings: str) -> None:
    """Write a score, whole or not at all, with what it was made by."""
    record = {
        "settings": settings,
        "pictures": score.pictures,
        "features": score.reading.features,
        "classes": score.reading.classes,
        "num_evaluations": score.num_evaluations,
        "gap": score.gap,
        "seconds": score.seconds,
    }
    torch.save(record, file.with_suffix(".part"))
    os.replace(file.with_suffix(".part"), file)


def load_score(file: Path, settings: str) -> Score | None:
    """The score in a file, or None where there is none, a damaged one, or one made by other settings."""
    try:
        record = torch.load(file, weights_only=True)
        if record["settings"] != settings:
            return None
        reading = Reading(record["features"], record["classes"])
        return Score(record["pictures"], reading, record["num_evaluations"], record["gap"], record["seconds"])
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError):
        return None


def fingerprint(weights: Path, path: str) -> str:
    """A hash of a path's networks and of the judge, so that scores of other weights are not taken for these."""
    digest = hashlib.sha256()
    for folder in (*(weights / path / side for side in SIDES), weights / JUDGE):
        for file in sorted(folder.glob("*.safetensors")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
