"""A testbed: an ideal, a strong and a weak model of one path, and runs of every method on it, counted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from experiments.theory.mixtures import IDEAL, PATHS, STRONG, Mixture, logit_weak, ratio_weak, schedule
from w2sd_video.core import (
    W2SD,
    CachedDenoiser,
    Denoiser,
    Level,
    Observed,
    Path,
    Reflection,
    ReflectionConfig,
    Resample,
    autoguidance,
    sample,
)

SCHEDULES = ("ddpm", "sdxl", "flow")
BOTH = ("ddpm", "flow")  # one of each path, where a third adds nothing
SAMPLED = ("weak", "strong", "ideal")
METHODS = (*SAMPLED, "w2sd", "swapped", "autoguided", "resample", "resample-aligned", "resample-opposed")


@dataclass(frozen=True)
class Testbed:
    """Three models on one schedule; `target` is the ideal one as a mixture."""

    schedule: str
    target: Mixture
    ideal: Denoiser
    strong: Denoiser
    weak: Denoiser

    @property
    def path(self) -> Path:
        return PATHS[self.schedule]

    def levels(self, num_steps: int) -> list[Level]:
        return schedule(self.schedule, num_steps)


def mixtures_testbed(name: str, ideal: Mixture, strong: Mixture, weak: Mixture) -> Testbed:
    """A testbed whose three models are mixtures."""
    path = PATHS[name]
    return Testbed(name, ideal, ideal.denoiser(path), strong.denoiser(path), weak.denoiser(path))


def ratio_testbed(name: str, ratio: float = 2.0, ideal: Mixture = IDEAL, strong: Mixture = STRONG) -> Testbed:
    """A testbed whose weak model has exactly `ratio` times the strong one's bias everywhere (epsilon |ratio - 2|)."""
    testbed = mixtures_testbed(name, ideal, strong, strong)
    return replace(testbed, weak=ratio_weak(ratio, testbed.strong, testbed.ideal))


def logit_testbed(name: str, ratio: float = 2.0) -> Testbed:
    """A testbed whose weak model is a genuine mixture of the same modes: ideal^(1 - ratio) * strong^ratio."""
    return mixtures_testbed(name, IDEAL, STRONG, logit_weak(ratio))


@dataclass(frozen=True)
class Run:
    """What a method did: latents [T + 1, N, D], the latent and its reflection per reflected step, evaluations."""

    latents: Tensor
    moves: dict[int, tuple[Tensor, Tensor]]
    evaluations: int

    @property
    def final(self) -> Tensor:
        return self.latents[-1]


FUSED = ReflectionConfig(mode="fused")


def options(mode: str = "fused", **settings: Any) -> ReflectionConfig:
    """The settings of a reflection; here fused unless said otherwise."""
    return ReflectionConfig(mode=mode, **settings)


def run(
    testbed: Testbed, method: str, x: Tensor, num_steps: int, taken: ReflectionConfig = FUSED, seed: int = 0
) -> Run:
    """Samples from x [N, D] by a method of `METHODS`, with the settings `taken` that it has; `seed` is of its noise."""
    levels, path, calls = testbed.levels(num_steps), testbed.path, 0
    latents: list[Tensor] = [x]
    moves: dict[int, tuple[Tensor, Tensor]] = {}

    def counted(model: Denoiser) -> Denoiser:
        def asked(x: Tensor, level: Level) -> Tensor:
            nonlocal calls
            calls += 1
            return model(x, level)

        return asked

    def kept(_: int, x: Tensor) -> None:
        latents.append(x)

    def moved(i: int, x: Tensor, tilde: Tensor) -> None:
        moves[i] = (x, tilde)

    ideal, strong, weak = counted(testbed.ideal), counted(testbed.strong), counted(testbed.weak)
    sampled, noise_sampler = strong, drawing(seed)
    reflection: Reflection | None = None
    if method in SAMPLED:
        sampled = {"ideal": ideal, "strong": strong, "weak": weak}[method]
    elif method == "autoguided":
        sampled = autoguidance(strong, weak, taken.strength)
    elif method in ("w2sd", "swapped"):
        cached = CachedDenoiser(strong)
        inner, other = (strong, weak) if method == "w2sd" else (weak, strong)
        if taken.lag:
            sampled, inner = cached, cached.recall
        reflection = W2SD(levels, inner, other, path, taken, noise_sampler=noise_sampler)
    elif method in METHODS:
        other_side = None if method == "resample" else weak
        own, opposed = taken.for_method(method), method == "resample-opposed"
        reflection = Resample(levels, strong, path, own, weak=other_side, opposed=opposed, noise_sampler=noise_sampler)
    else:
        raise ValueError(f"unknown method {method!r}; it must be one of {', '.join(METHODS)}")
    sample(x, levels, sampled, path, reflect=reflection and Observed(reflection, moved), callback=kept)
    return Run(torch.stack(latents), moves, calls)


def drawing(seed: int) -> Callable[[Tensor], Tensor]:
    """Standard normal noise of a latent's shape, the same sequence for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype)


def noise(count: int, dimensions: int, seed: int = 0) -> Tensor:
    """Starting noise [count, dimensions], float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimensions, generator=generator, dtype=torch.float64)


def mode_shares(x: Tensor, means: tuple[tuple[float, ...], ...]) -> list[float]:
    """The share of samples [N, D] nearest to each mean."""
    nearest = torch.cdist(x, torch.tensor(means, dtype=x.dtype)).argmin(1)
    return (torch.bincount(nearest, minlength=len(means)).double() / len(x)).tolist()


def divergence(shares: list[float], target: tuple[float, ...]) -> float:
    """The Kullback-Leibler divergence of the shares from the target's, in nats."""
    return sum(p * math.log(p / q) for p, q in zip(shares, target, strict=True) if p > 0)


def in_mode_std(x: Tensor, means: tuple[tuple[float, ...], ...]) -> float:
    """The standard deviation of samples [N, D] about the average of their own mode, pooled over modes and axes."""
    nearest = torch.cdist(x, torch.tensor(means, dtype=x.dtype)).argmin(1)
    rests = [x[nearest == k] - x[nearest == k].mean(0) for k in range(len(means)) if bool((nearest == k).any())]
    return torch.cat(rests).square().mean().sqrt().item()
