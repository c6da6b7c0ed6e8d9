"""The two gaps of the theorems, and the terms of their bounds, in closed form.

Delta_1 is the strong model's score less the weak one's, Delta_2 the ideal one's less the strong one's. All three are
mixtures of the same components, which differ in their weights (Theorem 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.theory.mixtures import Mixture
from w2sd_video.core import Level


@dataclass(frozen=True)
class Triple:
    """Three sets of weights [K] over the same components: means [K, D], one covariance [D, D] for all."""

    means: Tensor
    covariance: Tensor
    ideal: Tensor
    strong: Tensor
    weak: Tensor

    @classmethod
    def at(cls, level: Level, ideal: Mixture, strong: Mixture, weak: Mixture) -> Triple:
        """Three mixtures of the same components as they are at a level."""
        if not ideal.means == strong.means == weak.means or not ideal.std == strong.std == weak.std:
            raise ValueError("the three mixtures differ in more than their weights; Theorem 2 is of weights alone")
        means = level.alpha * torch.tensor(ideal.means, dtype=torch.float64)
        covariance = torch.eye(means.shape[1], dtype=torch.float64)
        covariance = covariance * ((level.alpha * ideal.std) ** 2 + level.sigma**2)
        weights = (torch.tensor(model.weights, dtype=torch.float64) for model in (ideal, strong, weak))
        return cls(means, covariance, *weights)


class Terms(NamedTuple):
    """For latents x [N, D]: both gaps [N, D]; epsilon, C(x) (Eq. 26) and the bound of Eq. 6, each [N]."""

    weak_to_strong: Tensor
    strong_to_ideal: Tensor
    epsilon: Tensor
    efficiency: Tensor
    bound: Tensor

    @property
    def error(self) -> Tensor:
        """|Delta_1 - Delta_2|, [N]."""
        return (self.weak_to_strong - self.strong_to_ideal).norm(dim=1)


def terms(triple: Triple, x: Tensor) -> Terms:
    """The terms of Theorem 2 at x [N, D].

    The score is -Sigma^-1 (x - E[mu | x]), so that Delta_2 is +Sigma^-1 (E_ideal[mu | x] - E_strong[mu | x]): the paper
    prints the other sign in Eq. 17 and 18, which the bound does not feel. Its last step also needs Sigma to be
    isotropic: the bound printed leaves out a factor of up to the condition number.
    """
    inverse = torch.linalg.inv(triple.covariance)
    offsets = x[:, None, :] - triple.means
    exponents = -0.5 * torch.einsum("nkd,de,nke->nk", offsets, inverse, offsets)

    def posterior(weights: Tensor) -> Tensor:
        return torch.softmax(weights.log() + exponents, dim=1)

    ideal, strong, weak = (posterior(weights) for weights in (triple.ideal, triple.strong, triple.weak))
    strong_bias, weak_bias = strong / ideal - 1, weak / ideal - 1  # B_s and B_w of Eq. 19, [N, K]
    epsilon = (weak_bias / strong_bias - 2).abs().amax(1)
    gap = (strong - weak) @ triple.means @ inverse
    missing = (ideal - strong) @ triple.means @ inverse
    signed = ((ideal * strong_bias) @ triple.means).norm(dim=1)
    efficiency = (ideal * strong_bias.abs() * triple.means.norm(dim=1)).sum(1) / signed
    return Terms(gap, missing, epsilon, efficiency, efficiency * epsilon * missing.norm(dim=1))


def exact_ratio_log_density(ideal: Tensor, strong: Tensor, ratio: float) -> Tensor:
    """The log density, up to a constant, of the weak model whose score is (1 - r) ideal + r strong, from theirs."""
    return (1 - ratio) * ideal + ratio * strong


def fisher_ratio(ideal: Mixture, strong: Mixture, weak: Mixture | float, level: Level) -> float:
    """J(ideal || W2SD) / J(ideal || strong) of Theorem 3 on a line; a number for `weak` is its exact bias ratio."""
    x = torch.linspace(-16.0, 16.0, 6401, dtype=torch.float64)[:, None]
    density = ideal.log_density(x, level).exp()
    best, good = ideal.score(x, level), strong.score(x, level)
    bad = (1 - weak) * best + weak * good if isinstance(weak, float) else weak.score(x, level)
    reflected = good + (good - bad)
    return (
        (density * (best - reflected).square().sum(1)).sum() / (density * (best - good).square().sum(1)).sum()
    ).item()
