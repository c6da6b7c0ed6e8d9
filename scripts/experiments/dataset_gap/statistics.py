"""Intervals for counts, for paired counts and for the Frechet distance."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

DRAWS = 2000  # of a bootstrap
NORMAL_QUANTILE = 1.959963984540054  # 97.5 percent


class Interval(NamedTuple):
    """A number and its 95 percent interval."""

    value: float
    low: float
    high: float

    def text(self, digits: int = 3, signed: bool = False) -> str:
        """`+0.12 [+0.10, +0.14]`."""
        value, low, high = (f"{n:+.{digits}f}" if signed else f"{n:.{digits}f}" for n in self)
        return f"{value} [{low}, {high}]"


def wilson(successes: int, count: int) -> Interval:
    """A share with Wilson's score interval: all p with |share - p| <= z sqrt(p (1 - p) / n).

    Raises:
        ValueError: no trials.
    """
    if count < 1:
        raise ValueError("a share of nothing has no interval")
    share, square = successes / count, NORMAL_QUANTILE**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = NORMAL_QUANTILE * math.sqrt(share * (1 - share) / count + square / (4 * count**2)) / (1 + square / count)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def paired_difference(one: Tensor, other: Tensor, draws: int = DRAWS, seed: int = 0) -> Interval:
    """The share of `one` minus that of `other`, booleans [N] of samples from the same noises; percentile bootstrap.

    Only how many samples differ, and which way, enters: those two counts are resampled, which is resampling samples.
    """
    count = len(one)
    gained, lost = int((one & ~other).sum()), int((other & ~one).sum())
    kinds = torch.tensor([gained, lost, count - gained - lost], dtype=torch.float64) / count
    generator = torch.Generator().manual_seed(seed)
    picks = torch.multinomial(kinds, draws * count, replacement=True, generator=generator).view(draws, count)
    means = ((picks == 0).double() - (picks == 1).double()).mean(dim=1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval((gained - lost) / count, low, high)


def mcnemar(one: Tensor, other: Tensor) -> float:
    """The two-sided probability, were both alike, of samples [N] changing sides as unevenly as these do (exact)."""
    gained, lost = int((one & ~other).sum()), int((other & ~one).sum())
    total, fewer = gained + lost, min(gained, lost)
    if total == 0:
        return 1.0
    logs = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - total * math.log(2)
        for k in range(fewer + 1)
    ]
    return min(1.0, 2 * math.fsum(math.exp(log) for log in logs))


def mean_interval(values: Tensor, draws: int = DRAWS, seed: int = 0) -> Interval:
    """The mean of values [N], with its percentile bootstrap interval."""
    values = values.double()
    picks = torch.randint(len(values), (draws, len(values)), generator=torch.Generator().manual_seed(seed))
    low, high = values[picks].mean(dim=1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(values.mean().item(), low, high)


def frechet(features: Tensor, reference: Tensor, weights: Tensor | None = None) -> Tensor:
    """|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) of features [N, D] and [M, D], float64 (Heusel et al. 2017).

    `weights` [R, N] say how often each sample counts in each of R resamples; the result is [R], [1] without them.
    """
    weights = torch.ones(1, len(features), dtype=torch.float64) if weights is None else weights
    total = weights.sum(dim=1, keepdim=True)
    origin = features.mean(dim=0)  # near every resample's mean, so that nothing cancels below
    offsets = features - origin
    mean = weights @ offsets / total
    squares = (weights @ (offsets[:, :, None] * offsets[:, None, :]).flatten(1)).view(
        len(weights), *offsets.shape[1:] * 2
    )
    covariance = (squares - total[..., None] * mean[:, :, None] * mean[:, None, :]) / (total[..., None] - 1)
    other = reference.T.cov()
    values, vectors = torch.linalg.eigh(other)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    product = torch.linalg.eigvalsh(root @ covariance @ root).clamp_min(0).sqrt().sum(dim=1)
    traces = covariance.diagonal(dim1=1, dim2=2).sum(dim=1) + other.trace()
    return (mean + origin - reference.mean(dim=0)).square().sum(dim=1) + traces - 2 * product


def resamples(count: int, draws: int, seed: int = 0) -> Tensor:
    """Bootstrap weights [draws, count]: how often each of `count` samples is drawn in `count` draws."""
    picks = torch.randint(count, (draws, count), generator=torch.Generator().manual_seed(seed))
    ones = torch.ones(draws, count, dtype=torch.float64)
    return torch.zeros(draws, count, dtype=torch.float64).scatter_add_(1, picks, ones)


def frechet_interval(features: Tensor, reference: Tensor, against: Tensor | None = None, draws: int = 500) -> Interval:
    """The Frechet distance, or how far it lies above that of `against`, from the same noises; basic bootstrap.

    The distance of finite samples is biased upwards, and that of resamples by about as much again: the number
    (2 x - mean of resamples) and the interval (2 x - quantiles) take that back. The reference is not resampled.
    """
    weights = resamples(len(features), draws)
    value, numbers = frechet(features, reference), frechet(features, reference, weights)
    if against is not None:
        value, numbers = value - frechet(against, reference), numbers - frechet(against, reference, weights)
    low, high = numbers.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    x = value.item()
    return Interval(2 * x - numbers.mean().item(), 2 * x - high, 2 * x - low)
