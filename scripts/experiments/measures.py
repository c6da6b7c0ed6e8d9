"""What a judge's readings say of a set of samples: shares, an Inception-style score, a Frechet distance, and intervals.

Each measure takes how often every sample counts, for many resamples at once, so that a bootstrap copies nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vbench_eval import statistics
from vbench_eval.statistics import Interval

DRAWS = 1000  # of a bootstrap


Measure = Callable[[Tensor], Tensor]
"""A number [R] for each of R resamples, given as weights [R, N]: how often each of N samples counts."""


def measure_interval(
    measure: Measure, count: int, against: Measure | None = None, *, draws: int = DRAWS, biased: bool = True
) -> Interval:
    """A measure of `count` samples, or how far it lies above that `against`, made from the same noises.

    `biased` as for `corrected_interval`: the accuracy is not.
    """
    weights = torch.cat([torch.ones(1, count, dtype=torch.float64), statistics.resamples(count, draws)])
    numbers = measure(weights) if against is None else measure(weights) - against(weights)
    return statistics.corrected_interval(numbers[0].item(), numbers[1:], biased=biased)


def weighted_mean(values: Tensor) -> Measure:
    """The mean of values [N]."""
    return lambda weights: weights @ values.double() / weights.sum(dim=1)


def inception_score(probabilities: Tensor) -> Measure:
    """exp(mean KL(p(y | x) || p(y))) of classes' probabilities [N, K] (Salimans et al. 2016); 1 to K."""

    def score(weights: Tensor) -> Tensor:
        shares = weights / weights.sum(dim=1, keepdim=True)
        marginal = shares @ probabilities
        entropies = torch.xlogy(probabilities, probabilities).sum(dim=1)
        return (shares @ entropies - torch.xlogy(marginal, marginal).sum(dim=1)).exp()

    return score


def frechet_distance(features: Tensor, reference: Tensor) -> Measure:
    """|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) of features [N, D] and [M, D], float64 (Heusel et al. 2017)."""
    other = reference.T.cov()
    values, vectors = torch.linalg.eigh(other)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    origin = features.mean(dim=0)  # near every resample's mean, so that nothing cancels below
    offsets = features - origin
    products = (offsets[:, :, None] * offsets[:, None, :]).flatten(1)  # [N, D * D]

    def distance(weights: Tensor) -> Tensor:
        total = weights.sum(dim=1, keepdim=True)
        mean = weights @ offsets / total
        squares = (weights @ products).view(len(weights), *other.shape)
        covariance = (squares - total[..., None] * mean[:, :, None] * mean[:, None, :]) / (total[..., None] - 1)
        product = torch.linalg.eigvalsh(root @ covariance @ root).clamp_min(0).sqrt().sum(dim=1)
        traces = covariance.diagonal(dim1=1, dim2=2).sum(dim=1) + other.trace()
        return (mean + origin - reference.mean(dim=0)).square().sum(dim=1) + traces - 2 * product

    return distance
