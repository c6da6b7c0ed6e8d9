"""What the judge's readings say of a set of samples: class accuracy, an Inception-style score, a Frechet distance.

Each measure takes how often every sample counts, so that a bootstrap resamples without copying.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bridges.dit_moe.demo.judge import Reading

DRAWS = 1000  # of the bootstrap


class Interval(NamedTuple):
    """A number and its 95 percent interval."""

    value: float
    low: float
    high: float

    def text(self, digits: int, signed: bool = False) -> str:
        """`+1.23 [1.00, 1.50]`."""
        number = f"{self.value:+.{digits}f}" if signed else f"{self.value:.{digits}f}"
        return f"{number} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


class Moments(NamedTuple):
    """The mean [D] of features and a square root [D, D] of their covariance."""

    mean: Tensor
    root: Tensor


@dataclass(frozen=True)
class Sample:
    """What a method made: the judge's reading of N pictures, and whether each shows the class asked for, [N]."""

    reading: Reading
    correct: Tensor


Measure = Callable[[Sample, Tensor], float]
"""A number for a sample in which picture n counts weights[n] times."""


def accuracy(sample: Sample, weights: Tensor) -> float:
    """The share of pictures in which the judge sees the class asked for."""
    return ((sample.correct.double() @ weights) / weights.sum()).item()


def inception_score(sample: Sample, weights: Tensor) -> float:
    """exp(mean KL(p(y | x) || p(y))) with the judge's classes (Salimans et al. 2016); 1 to 10."""
    probabilities, shares = sample.reading.probabilities, weights / weights.sum()
    marginal = shares @ probabilities
    entropies = torch.xlogy(probabilities, probabilities).sum(dim=1)
    divergence = shares @ entropies - torch.xlogy(marginal, marginal).sum()
    return divergence.exp().item()


def moments(features: Tensor) -> Moments:
    """Of features [N, D]; what a Frechet distance is measured against."""
    values, vectors = torch.linalg.eigh(features.T.cov())
    return Moments(features.mean(dim=0), (vectors * values.clamp_min(0).sqrt()) @ vectors.T)


def frechet_distance(reference: Moments) -> Measure:
    """The measure |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) of features' means and covariances (Heusel et al. 2017)."""
    trace = reference.root.square().sum()  # of C', as the root is symmetric

    def distance(sample: Sample, weights: Tensor) -> float:
        features, total = sample.reading.features, weights.sum()
        mean = weights @ features / total
        centred = features - mean
        covariance = (centred * weights[:, None]).T @ centred / (total - 1)
        product = torch.linalg.eigvalsh(reference.root @ covariance @ reference.root)
        spread = covariance.trace() + trace - 2 * product.clamp_min(0).sqrt().sum()
        return ((mean - reference.mean).square().sum() + spread).item()

    return distance


def resamples(count: int, draws: int = DRAWS, seed: int = 0) -> Tensor:
    """Bootstrap weights [draws, count]: how often each of `count` pictures is drawn, `count` times with replacement."""
    picks = torch.randint(count, (draws, count), generator=torch.Generator().manual_seed(seed))
    return torch.zeros(draws, count, dtype=torch.float64).scatter_add_(
        1, picks, torch.ones(draws, count, dtype=torch.float64)
    )


def interval(measure: Measure, sample: Sample, weights: Tensor, against: Sample | None = None) -> Interval:
    """The measure of `sample`, or how far it lies above that of `against`, made from the same labels and noise.

    All measures but the accuracy are biased for finite samples, and their resamples by about as much again: so both the
    number (2 x - mean of the resamples) and the basic bootstrap's interval (2 x - quantiles) take that back.
    """

    def number(w: Tensor) -> float:
        return measure(sample, w) - (0.0 if against is None else measure(against, w))

    value = number(torch.ones(len(sample.correct), dtype=torch.float64))
    draws = torch.tensor([number(w) for w in weights], dtype=torch.float64)
    low, high = draws.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    bias = 0.0 if measure is accuracy else draws.mean().item() - value
    return Interval(value - bias, 2 * value - high, 2 * value - low)
