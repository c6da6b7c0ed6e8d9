"""What models with exact densities would do under the same samplers: each class a Gaussian of its pictures.

The sides then differ by the weights of the two classes alone, as the theory assumes and trained networks only approach.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.dataset_gap.networks import sampling_levels, sampling_path
from experiments.dataset_gap.pictures import Pictures, augmented
from experiments.dataset_gap.recipe import SIDES, STRIDES, Augmentation
from experiments.dataset_gap.scoring import Method, make
from w2sd_video.core import Denoiser, Level, NoisePath, Path

FLOOR = 1e-4  # variance added to each direction: pixels of the border never vary


@dataclass(frozen=True)
class Gaussian:
    """A class as mean [D] and covariance, as its eigenvectors [D, D] and eigenvalues [D]; float64."""

    mean: Tensor
    vectors: Tensor
    values: Tensor

    def at(self, x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """Log density [N] of latents [N, D] at a level, but for a constant, and its gradient [N, D]."""
        spread = level.alpha**2 * self.values + level.sigma**2
        inner = (x - level.alpha * self.mean) @ self.vectors
        log_density = -0.5 * (inner.square() / spread + spread.log()).sum(dim=1)
        return log_density, -(inner / spread) @ self.vectors.T


@dataclass(frozen=True)
class ExactSide:
    """A mixture of the majority's and the minority's Gaussian, as a model with exact scores."""

    classes: tuple[Gaussian, Gaussian]
    share: float  # of the minority
    path: Path

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        flat = x.flatten(1).double()
        logs, gradients = zip(*(gaussian.at(flat, level) for gaussian in self.classes), strict=True)
        prior = torch.tensor([math.log(1 - self.share), math.log(self.share)], dtype=torch.float64)
        weights = (torch.stack(logs, dim=1) + prior).softmax(dim=1)
        score = sum(weights[:, n, None] * gradient for n, gradient in enumerate(gradients))
        noise = -level.sigma * score
        if not isinstance(self.path, NoisePath):
            # v = noise - x0 and x = alpha x0 + sigma noise; from pure noise x0 is the mean of all pictures.
            if level.alpha == 0:
                clean = sum(weights[:, n, None] * gaussian.mean for n, gaussian in enumerate(self.classes))
            else:
                clean = (flat - level.sigma * noise) / level.alpha
            noise = noise - clean
        return noise.view_as(x).to(x.dtype)


def fit(pictures: Tensor, how: Augmentation, copies: int = 20) -> Gaussian:
    """The Gaussian of pictures [N, C, H, W] as training moves them."""
    generator = torch.Generator().manual_seed(0)
    moved = torch.cat([augmented(pictures, how, generator) for _ in range(copies)]).flatten(1).double()
    values, vectors = torch.linalg.eigh(moved.T.cov())
    return Gaussian(moved.mean(dim=0), vectors, values.clamp_min(0) + FLOOR)


def exact_sides(seen: Pictures, how: Augmentation, path: Path) -> dict[str, Denoiser]:
    """The three sides with the classes' Gaussians in the shares of their training sets: 1/11, 1/3 and 1/2."""
    classes = (fit(seen.majority, how), fit(seen.minority, how))
    return {side: ExactSide(classes, 1 / (1 + STRIDES[side]), path) for side in SIDES}


def minority_share(sides: Mapping[str, Denoiser], method: Method, noise: Tensor, path: str) -> float:
    """The share of samples that lie in the minority's Gaussian, by the higher of the two densities."""
    made = make(method, noise.double(), sides, sampling_path(path), lambda steps: sampling_levels(path, steps))
    side = sides["strong"]
    assert isinstance(side, ExactSide)
    flat, clean = made.pictures.flatten(1), Level(0, 1.0, 0.0)
    densities = [gaussian.at(flat, clean)[0] for gaussian in side.classes]
    return (densities[1] > densities[0]).double().mean().item()


def static_share(strong: float, weak: float, strength: float = 1.0) -> float:
    """The share that the density p_strong^(1 + strength) / p_weak^strength would give, for classes far apart.

    The odds of the sides' shares are raised and divided. Sampling with (1 + strength) eps_s - strength eps_w does not
    sample this density: at no noise level is its score that combination, which weighs the classes at each x.
    """
    log_odds = (1 + strength) * _logit(strong) - strength * _logit(weak)
    return 1 / (1 + math.exp(-log_odds))


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def expected_shares(
    seen: Pictures, how: Augmentation, path: str, methods: Mapping[str, Method], noise: Tensor
) -> dict[str, float]:
    """`minority_share` of each method, all from the same noises."""
    sides = exact_sides(seen, how, sampling_path(path))
    return {name: minority_share(sides, method, noise, path) for name, method in methods.items()}
