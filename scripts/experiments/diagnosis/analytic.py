"""Pairs whose every answer is known exactly, healthy and failing, to measure the doctor's thresholds on.

A latent is 64 cells, each a draw of one Gaussian mixture in the plane; the mixture has unit variance, as latents have.
Strong and weak models are wrong about the weights of its modes, as in Theorem 2: the log-weights of the strong one are
off by b, those of the weak one by r b.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.theory.mixtures import PATHS, Mixture, schedule
from w2sd_video.core import OnReflect, w2sd
from w2sd_video.latents.schedules import Grid

CELLS, SAMPLES = 64, 4  # of a latent; latents of a diagnosis
LOST = 1e-9  # the weight of a mode that a model has lost
DIRECTIONS = 16  # of the sliced Wasserstein distance

Models = tuple[Mixture, Mixture, Mixture]
"""Ideal, strong and weak."""


@dataclass(frozen=True)
class Family:
    """A kind of pairs: `kind` is "healthy", "similar", "conflict" or "opposed", `about` says how they are made."""

    kind: str
    about: str
    make: Callable[[torch.Generator], Models]


@dataclass
class AnalyticPair:
    """Strong and weak mixtures on a schedule of `theory.mixtures`, from fixed noise [B, cells, 2]."""

    models: Models
    schedule: str
    num_steps: int
    noise: Tensor

    def sample(self, partner: str | None, mode: str, num_reflections: int | None, watch: OnReflect | None) -> Tensor:
        path, levels = PATHS[self.schedule], schedule(self.schedule, self.num_steps)
        strong = self.models[1].denoiser(path)
        weak = self.models[2].denoiser(path) if partner == "weak" else strong
        return w2sd(
            self.noise, levels, strong, weak, path, num_reflections=num_reflections, mode=mode, on_reflect=watch
        )

    def grid(self) -> Grid:
        return Grid(schedule(self.schedule, self.num_steps), PATHS[self.schedule])

    def distances(self, num_reflections: int, strength: float) -> tuple[float, float]:
        """The sliced Wasserstein distance to the ideal model's own samples, of the strong side alone and of W2SD
        in mode "fused": over all cells of all latents.
        """
        path, levels = PATHS[self.schedule], schedule(self.schedule, self.num_steps)
        ideal, strong, weak = (model.denoiser(path) for model in self.models)
        target = w2sd(self.noise, levels, ideal, ideal, path, num_reflections=0)
        alone = w2sd(self.noise, levels, strong, strong, path, num_reflections=0)
        moved = w2sd(
            self.noise,
            levels,
            strong,
            weak,
            path,
            num_reflections=num_reflections,
            mode="fused",
            strength=strength,
        )
        return _distance(alone, target), _distance(moved, target)


def pair_of(family: str, seed: int, name: str, num_steps: int) -> AnalyticPair:
    """Returns pair number `seed` of a family, with its noise."""
    made = torch.Generator().manual_seed(seed)
    models = FAMILIES[family].make(made)
    noise = torch.randn(SAMPLES, CELLS, 2, generator=made, dtype=torch.float64)
    return AnalyticPair(models, name, num_steps, noise)


@dataclass(frozen=True)
class _World:
    """Modes [K, 2] of unit overall variance, their standard deviation, ideal log-weights and the strong side's bias."""

    means: Tensor
    std: float
    weights: Tensor
    bias: Tensor

    def model(self, ratio: float, *, std: float = 1.0) -> Mixture:
        """The mixture whose log-weights are off by `ratio` times the strong side's bias."""
        return _mixture(self.means, torch.softmax(self.weights + ratio * self.bias, 0), self.std * std)


def _world(made: torch.Generator) -> _World:
    count = int(torch.randint(2, 6, (1,), generator=made))
    means = torch.randn(count, 2, generator=made, dtype=torch.float64)
    weights = 0.5 * torch.randn(count, generator=made, dtype=torch.float64)
    bias = torch.randn(count, generator=made, dtype=torch.float64)
    std = 0.15 + 0.25 * _uniform(made)
    share = torch.softmax(weights, 0)[:, None]
    centre = (share * means).sum(0)
    scale = ((share * (means - centre) ** 2).sum(0).mean() + std**2).sqrt()
    return _World((means - centre) / scale, std / float(scale), weights, bias - bias.mean())


def _mixture(means: Tensor, weights: Tensor, std: float) -> Mixture:
    return Mixture(tuple(map(tuple, means.tolist())), tuple(weights.tolist()), std)


def _uniform(made: torch.Generator) -> float:
    return float(torch.rand(1, generator=made))


def _biased(low: float, high: float) -> Callable[[torch.Generator], Models]:
    def make(made: torch.Generator) -> Models:
        world = _world(made)
        return world.model(0), world.model(1), world.model(low + (high - low) * _uniform(made))

    return make


def _blurred(made: torch.Generator) -> Models:
    world = _world(made)
    return world.model(0), world.model(1), world.model(2, std=1 + 0.5 * _uniform(made))


def _lost(made: torch.Generator) -> Models:
    world = _world(made)
    strong = world.model(1)
    weights = torch.tensor(strong.weights, dtype=torch.float64)
    weights[weights.argmax()] = LOST
    return world.model(0), strong, _mixture(world.means, weights / weights.sum(), world.std)


def _exclusive(made: torch.Generator) -> Models:
    world = _world(made)
    others = torch.randn(world.means.shape, generator=made, dtype=torch.float64)
    weights = torch.tensor(world.model(1).weights, dtype=torch.float64)
    return world.model(0), world.model(1), _mixture(others - others.mean(0), weights, world.std)


def _unrelated(made: torch.Generator) -> Models:
    world, other = _world(made), _world(made)
    return world.model(0), world.model(1), other.model(1)


FAMILIES: Mapping[str, Family] = {
    "ratio": Family("healthy", "the weak side has 1.5 to 3 times the strong side's bias", _biased(1.5, 3)),
    "blurred": Family("healthy", "twice its bias, and modes up to half as wide again", _blurred),
    "near": Family("similar", "1 to 1.05 times the strong side's bias", _biased(1, 1.05)),
    "lost": Family("conflict", "the weak side has lost the strong side's largest mode", _lost),
    "exclusive": Family("conflict", "modes that exclude each other: as many, elsewhere", _exclusive),
    "unrelated": Family("conflict", "a model of other data", _unrelated),
    "opposed": Family("opposed", "the opposite bias, -0.5 to -1.5 times the strong side's", _biased(-0.5, -1.5)),
}


def _distance(x: Tensor, y: Tensor) -> float:
    angles = torch.arange(DIRECTIONS, dtype=torch.float64) * math.pi / DIRECTIONS
    lines = torch.stack([angles.cos(), angles.sin()])
    ours, theirs = ((points.reshape(-1, 2) @ lines).sort(0).values for points in (x, y))
    return float((ours - theirs).square().mean().sqrt())
