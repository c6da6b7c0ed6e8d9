"""Gaussian mixtures whose denoisers are known exactly, on both paths: ground truth for samplers and theory.

Everything is float64. The 1-D bed has modes at -4 and 4 of standard deviation 1; ideal weights are .5/.5, the strong
model's left weight is .25. The numbers asserted on it come from a study with the same bed and the same quantile start.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from w2sd_video.core import Denoiser, FlowPath, Level, NoisePath, Path

PATHS: dict[str, Path] = {"ddpm": NoisePath(), "sdxl": NoisePath(), "flow": FlowPath()}


@dataclass(frozen=True)
class Mixture:
    """Isotropic components of one standard deviation; latents are [..., D]."""

    means: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    std: float = 1.0

    def clean(self, x: Tensor, level: Level) -> Tensor:
        """E[x0 | x at level], in closed form."""
        means, logits, variance = self._logits(x, level)
        shrink = level.alpha * self.std**2 / variance
        return torch.add((1 - shrink * level.alpha) * (torch.softmax(logits, -1) @ means), x, alpha=shrink)

    def _logits(self, x: Tensor, level: Level) -> tuple[Tensor, Tensor, float]:
        """The means [K, D], log p(component, x) [..., K] up to what all components share, the variance of each."""
        means = torch.tensor(self.means, dtype=x.dtype)
        variance = (level.alpha * self.std) ** 2 + level.sigma**2
        offsets = torch.tensor(self.weights, dtype=x.dtype).log()
        offsets = offsets - means.square().sum(-1) * (level.alpha**2 / (2 * variance))
        return means, torch.add(offsets, x @ means.T, alpha=level.alpha / variance), variance

    def log_density(self, x: Tensor, level: Level) -> Tensor:
        """log p(x) at the level, [...] of latents [..., D]."""
        means, logits, variance = self._logits(x, level)
        shared = x.square().sum(-1) / (2 * variance) + means.shape[1] / 2 * math.log(2 * math.pi * variance)
        return torch.logsumexp(logits, -1) - shared

    def score(self, x: Tensor, level: Level) -> Tensor:
        """The gradient of the log density at a level with noise, [..., D]: Tweedie's formula."""
        return (level.alpha * self.clean(x, level) - x) / level.sigma**2

    def denoiser(self, path: Path) -> Denoiser:
        """The native prediction of ``path``; exact at any (x, level), also off its level."""
        if isinstance(path, NoisePath):
            return lambda x, level: (x - level.alpha * self.clean(x, level)) / level.sigma
        return lambda x, level: (x - self.clean(x, level)) / level.sigma

    def quantiles(self, n: int) -> Tensor:
        """The n mid-quantiles of a 1-D mixture, by bisection."""
        means, weights = torch.tensor(self.means, dtype=torch.float64)[:, 0], torch.tensor(self.weights).double()
        target = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        low, high = torch.full_like(target, -50.0), torch.full_like(target, 50.0)
        for _ in range(60):
            middle = (low + high) / 2
            below = (torch.special.ndtr((middle[:, None] - means) / self.std) * weights).sum(1) < target
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2


def two_modes(left: float) -> Mixture:
    return Mixture(means=((-4.0,), (4.0,)), weights=(left, 1.0 - left))


IDEAL, STRONG = two_modes(0.5), two_modes(0.25)


def ratio_weak(ratio: float, strong: Denoiser, ideal: Denoiser) -> Denoiser:
    """A weak model with exactly ``ratio`` times the strong one's bias everywhere (Theorem 2, epsilon |ratio - 2|)."""
    return lambda x, level: (1 - ratio) * ideal(x, level) + ratio * strong(x, level)


def logit_weak(ratio: float) -> Mixture:
    """A genuine mixture with weights proportional to ideal^(1 - ratio) * strong^ratio: left .1 for ratio 2."""
    left, right = 0.5 ** (1 - ratio) * 0.25**ratio, 0.5 ** (1 - ratio) * 0.75**ratio
    return two_modes(left / (left + right))


def schedule(name: str, num_steps: int) -> list[Level]:
    """T + 1 levels: "ddpm" (linear betas) and "sdxl" (scaled linear), leading spacing with offset 1; "flow" uniform."""
    if name == "flow":
        return [Level(1 - i / num_steps, i / num_steps, 1 - i / num_steps) for i in range(num_steps + 1)]
    if name == "ddpm":
        betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    else:
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    products = (1 - betas).cumprod(0).tolist()
    steps = [k * (1000 // num_steps) + 1 for k in reversed(range(num_steps))]
    grid = [(step, products[step]) for step in steps] + [(0, products[0])]
    return [Level(step, product**0.5, (1 - product) ** 0.5) for step, product in grid]


def continuous_level(name: str, t: float) -> Level:
    """The level at continuous time t in (0, 1): flow matching, or VP with beta from .1 to 20."""
    if name == "flow":
        return Level(t, 1 - t, t)
    product = torch.exp(torch.tensor(-0.1 * t - 0.5 * 19.9 * t * t, dtype=torch.float64)).item()
    return Level(t, product**0.5, (1 - product) ** 0.5)


def normal_quantiles(n: int = 1000) -> Tensor:
    """n mid-quantiles of N(0, 1) as latents [n, 1]: deterministic starting noise."""
    return torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)[:, None]


def left_mass(x: Tensor) -> float:
    return (x < 0).double().mean().item()


def wasserstein(x: Tensor, target: Mixture, power: int) -> float:
    """The 1-D Wasserstein distance of order ``power`` between the samples [n, 1] and ``target``."""
    gaps = x.flatten().sort().values - target.quantiles(x.shape[0])
    return gaps.abs().pow(power).mean().pow(1 / power).item()


def slope(function: Callable[[float], float], first: float, halvings: int) -> list[float]:
    """The measured orders log2(f(h) / f(h / 2)) for h = first, first / 2, ..."""
    values = [function(first / 2**k) for k in range(halvings + 1)]
    return [float(torch.tensor(a / b).log2()) for a, b in itertools.pairwise(values)]
