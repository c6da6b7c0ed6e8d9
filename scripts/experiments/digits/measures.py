"""What the judge's readings say of a set of samples: class accuracy, an Inception-style score, a Frechet distance.

Each measure takes how often every sample counts, for many resamples at once, so that a bootstrap copies nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.digits.judge import Reading

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


Measure = Callable[[Sample, Tensor], Tensor]
"""A number [D] for each resample of a sample of N pictures, in which picture n counts weights[d, n] times."""


def accuracy(sample: Sample, weights: Tensor) -> Tensor:
    """The share of pictures in which the judge sees the class asked for."""
    return weights @ sample.correct.double() / weights.sum(dim=1)


def inception_score(sample: Sample, weights: Tensor) -> Tensor:
    """exp(mean KL(p(y | x) || p(y))) with the judge's classes (Salimans et al. 2016); 1 to 10."""
    probabilities, shares = sample.reading.probabilities, weights / weights.sum(dim=1, keepdim=True)
    marginal = shares @ probabilities
    entropies = torch.xlogy(probabilities, probabilities).sum(dim=1)
    divergence = shares @ entropies - torch.xlogy(marginal, marginal).sum(dim=1)
    return divergence.exp()


def moments(features: Tensor) -> Moments:
    """Of features [N, D]; what a Frechet distance is measured against."""
    values, vectors = torch.linalg.eigh(features.T.cov())
    return Moments(features.mean(dim=0), (vectors * values.clamp_min(0).sqrt()) @ vectors.T)


def frechet_distance(reference: Moments) -> Measure:
    """The measure |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) of features' means and covariances (Heusel et al. 2017)."""
    trace = reference.root.square().sum()  # of C', as the root is symmetric

    def distance(sample: Sample, weights: Tensor) -> Tensor:
        features, total = sample.reading.features, weights.sum(dim=1, keepdim=True)
        count, size = features.shape
        origin = features.mean(dim=0)  # near every resample's mean, so that nothing cancels below
        offsets = features - origin
        mean = weights @ offsets / total
        squares = weights @ (offsets[:, :, None] * offsets[:, None, :]).view(count, -1)
        outer = total[..., None] * mean[:, :, None] * mean[:, None, :]
        covariance = (squares.view(-1, size, size) - outer) / (total[..., None] - 1)
        product = torch.linalg.eigvalsh(reference.root @ covariance @ reference.root)
        traces = covariance.diagonal(dim1=1, dim2=2).sum(dim=1)
        spread = traces + trace - 2 * product.clamp_min(0).sqrt().sum(dim=1)
        return (mean + origin - reference.mean).square().sum(dim=1) + spread

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
    everything = torch.cat([torch.ones_like(weights[:1]), weights])
    numbers = measure(sample, everything)
    if against is not None:
        numbers = numbers - measure(against, everything)
    value, draws = numbers[0].item(), numbers[1:]
    low, high = draws.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    bias = 0.0 if measure is accuracy else draws.mean().item() - value
    return Interval(value - bias, 2 * value - high, 2 * value - low)
