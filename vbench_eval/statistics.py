"""Intervals of means, of paired differences, of shares and of win rates, when videos of one prompt resemble each other.

The videos of one prompt are not independent: five samples of an easy prompt are all easy. Every interval here
therefore treats the prompt as the unit. Means and differences resample whole prompts (a cluster bootstrap), shares of
yes and no use Wilson's interval with the number of videos reduced to what they are worth.

Numbers arrive as float64 arrays with a value per video; `prompts` says which videos belong together (None: each is a
prompt of its own).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vbench_eval.errors import UserError

LEVEL = 0.95
DRAWS = 10_000
_BLOCK = 1 << 22  # resampled prompts held at a time: 32 MiB of indices

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence limits; the limits are None where one prompt is all there is."""

    value: float
    low: float | None = None
    high: float | None = None


def clusters(prompts: Sequence[Hashable] | None, count: int) -> NDArray[np.int64]:
    """The number 0..K-1 of each video's prompt, in order of first appearance."""
    if prompts is None:
        return np.arange(count)
    if len(prompts) != count:
        raise ValueError(f"{count} values but {len(prompts)} prompts")
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(prompt, len(numbers)) for prompt in prompts], dtype=np.int64)


class Resampled:
    """The weighted means of S methods over the same N videos, and what they are in resamples of the prompts.

    `values` and `weights` are [N] or [N, S]. Every method sees the same resamples, so that differences are paired.
    """

    def __init__(
        self,
        values: ArrayLike,
        prompts: Sequence[Hashable] | None = None,
        *,
        weights: ArrayLike | None = None,
        level: float = LEVEL,
        draws: int = DRAWS,
        seed: int = 0,
    ) -> None:
        table = _table(values)
        check_settings(level, draws)
        factors = np.ones_like(table) if weights is None else _table(weights)
        if factors.shape != table.shape:
            raise ValueError(f"values of shape {table.shape} but weights of shape {factors.shape}")
        if (factors < 0).any() or (factors.sum(axis=0) <= 0).any():
            raise ValueError("weights must be 0 or more, and not all 0")
        groups = clusters(prompts, len(table))
        self.num_prompts = int(groups.max()) + 1
        self._level, self._methods = level, table.shape[1]
        sums = np.zeros((self.num_prompts, 2 * self._methods))
        np.add.at(sums, groups, np.concatenate([table * factors, factors], axis=1))
        self.means: Array = self._ratio(sums.sum(axis=0, keepdims=True))[0]
        self._draws: Array = self._ratio(_resampled_sums(sums, draws, seed))

    def _ratio(self, sums: Array) -> Array:
        above, below = sums[:, : self._methods], sums[:, self._methods :]
        return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)

    def mean(self, method: int = 0) -> Interval:
        """The mean of one method."""
        return self._interval(float(self.means[method]), self._draws[:, method])

    def difference(self, method: int, baseline: int) -> Interval:
        """The mean of `method` minus that of `baseline`."""
        value = float(self.means[method] - self.means[baseline])
        return self._interval(value, self._draws[:, method] - self._draws[:, baseline])

    def _interval(self, value: float, draws: Array) -> Interval:
        draws = draws[~np.isnan(draws)]  # a resample may hold only prompts of weight 0
        if self.num_prompts < 2 or not len(draws):
            return Interval(value)
        tail = _expanded_tail(self.num_prompts, self._level)
        low, high = np.quantile(draws, [tail, 1 - tail])
        return Interval(value, float(low), float(high))


def mean_interval(
    values: ArrayLike,
    prompts: Sequence[Hashable] | None = None,
    *,
    weights: ArrayLike | None = None,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """The bootstrap interval of the mean of `values` [N], resampled by prompt."""
    return Resampled(values, prompts, weights=weights, level=level, draws=draws, seed=seed).mean()


def difference_interval(
    values: ArrayLike,
    baseline: ArrayLike,
    prompts: Sequence[Hashable] | None = None,
    *,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """The bootstrap interval of mean(values) - mean(baseline), pair i being values[i] and baseline[i]."""
    pairs = np.concatenate([_table(values), _table(baseline)], axis=1)
    return Resampled(pairs, prompts, level=level, draws=draws, seed=seed).difference(0, 1)


def wilson(successes: float, trials: float, level: float = LEVEL) -> Interval:
    """Wilson's score interval of a share; `successes` may be fractional (a tie is half a win)."""
    if trials <= 0 or not 0 <= successes <= trials:
        raise ValueError(f"needs 0 <= successes <= trials and trials > 0, got {successes} of {trials}")
    share, z = successes / trials, normal_quantile(1 - (1 - level) / 2)
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    # at a share of 0 or 1 a limit is the share itself, which rounding would miss
    return Interval(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))


def share_interval(values: ArrayLike, prompts: Sequence[Hashable] | None = None, *, level: float = LEVEL) -> Interval:
    """Wilson's interval of the mean of `values` [N] in 0..1 (0, 1, or 0.5 for a tie), of videos that share prompts.

    The number of videos is divided by the design effect (Kish): how much larger the variance of the mean is when whole
    prompts vary than when videos do. One video per prompt gives the plain Wilson interval.
    """
    flat = _table(values)[:, 0]
    if ((flat < 0) | (flat > 1)).any():
        raise ValueError("shares are means of values in 0..1")
    count = effective_count(flat, clusters(prompts, len(flat)))
    return wilson(float(flat.mean()) * count, count, level)


def effective_count(values: Array, groups: NDArray[np.int64]) -> float:
    """How many independent videos the N `values` in 0..1 are worth: N / design effect.

    Between what perfectly alike videos of a prompt are worth, N^2 / sum of squared group sizes, and N.
    """
    count = len(values)
    sizes = np.bincount(groups).astype(np.float64)
    fewest, share = count**2 / float((sizes**2).sum()), float(values.mean())
    within = np.bincount(groups, weights=values - share)
    variance = float((within**2).sum()) / count**2
    if len(sizes) < count and len(sizes) > 1:
        variance *= len(sizes) / (len(sizes) - 1)
    if variance == 0:  # all yes or all no: nothing says how alike the videos of a prompt are
        return fewest
    return min(float(count), max(fewest, share * (1 - share) / variance))


def share_difference_interval(
    values: ArrayLike, baseline: ArrayLike, prompts: Sequence[Hashable] | None = None, *, level: float = LEVEL
) -> Interval:
    """The interval of a difference of two paired shares of yes (values in {0, 1}).

    Newcombe's square-and-add method (1998, paired data, method 10) on the limits of `share_interval`. A bootstrap would
    say +-0 where no pair differs, which is never known that well.
    """
    ours, theirs = _table(values)[:, 0], _table(baseline)[:, 0]
    one, two = share_interval(ours, prompts, level=level), share_interval(theirs, prompts, level=level)
    both, neither = float((ours * theirs).sum()), float(((1 - ours) * (1 - theirs)).sum())
    only, other = float((ours * (1 - theirs)).sum()), float(((1 - ours) * theirs).sum())
    margins = (both + only) * (other + neither) * (both + other) * (only + neither)
    excess = both * neither - only * other
    if excess > 0:
        excess = max(0.0, excess - len(ours) / 2)
    correlation = excess / math.sqrt(margins) if margins else 0.0
    (one_low, one_high), (two_low, two_high) = _limits(one), _limits(two)
    down = _root(one.value - one_low, two_high - two.value, correlation)
    up = _root(one_high - one.value, two.value - two_low, correlation)
    value = one.value - two.value
    return Interval(value, max(-1.0, value - down), min(1.0, value + up))


@dataclass(frozen=True)
class WinRate:
    """How often one side is better in a pair; `rate` counts a tie as half a win."""

    rate: Interval
    wins: int
    ties: int
    losses: int


def win_rate(
    values: ArrayLike,
    baseline: ArrayLike,
    prompts: Sequence[Hashable] | None = None,
    *,
    lower_is_better: bool = False,
    level: float = LEVEL,
) -> WinRate:
    """The share of pairs in which `values` beat `baseline`, ties half, with an interval as of `share_interval`."""
    gains = _table(values)[:, 0] - _table(baseline)[:, 0]
    if lower_is_better:
        gains = -gains
    rate = share_interval(0.5 + 0.5 * np.sign(gains), prompts, level=level)
    return WinRate(rate, int((gains > 0).sum()), int((gains == 0).sum()), int((gains < 0).sum()))


def normal_quantile(share: float) -> float:
    """The standard normal quantile."""
    return NormalDist().inv_cdf(share)


def student_quantile(share: float, degrees: int) -> float:
    """Student's t quantile, by Abramowitz and Stegun 26.7.5: 0.1 percent off at 3 degrees of freedom, less above."""
    z = normal_quantile(share)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees ** (n + 1) for n, term in enumerate(terms))


def check_settings(level: float, draws: int) -> None:
    """Raises UserError for a confidence level or a number of resamples that mean nothing."""
    if not 0 < level < 1:
        raise UserError(f"the confidence level is {level}; it must lie between 0 and 1, such as 0.95")
    if draws < 100:
        raise UserError(f"{draws} bootstrap draws; limits need at least 100, the default is {DRAWS}")


def _expanded_tail(count: int, level: float) -> float:
    """The share to cut at each end of the draws.

    Percentiles of the draws themselves are too narrow by sqrt((K - 1) / K) and know nothing of Student's t; cutting
    less makes the interval of K prompts as wide as t's (Hesterberg 2015, "expanded percentile").
    """
    widened = math.sqrt(count / (count - 1)) * student_quantile(1 - (1 - level) / 2, count - 1)
    return NormalDist().cdf(-widened)


def _resampled_sums(sums: Array, draws: int, seed: int) -> Array:
    """The sums [draws, C] of K rows drawn with replacement from `sums` [K, C]."""
    generator, count = np.random.default_rng(seed), len(sums)
    block, parts = max(1, _BLOCK // count), []
    for start in range(0, draws, block):
        size = min(block, draws - start)
        drawn = generator.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        parts.append(times.astype(np.float64) @ sums)
    return np.concatenate(parts)


def _table(values: ArrayLike) -> Array:
    table = np.asarray(values, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or not len(table):
        raise ValueError(f"needs at least one value per method, got an array of shape {np.shape(values)}")
    if not np.isfinite(table).all():
        raise ValueError("a value is not finite")
    return table


def _limits(interval: Interval) -> tuple[float, float]:
    assert interval.low is not None and interval.high is not None  # a share always has limits
    return interval.low, interval.high


def _root(first: float, second: float, correlation: float) -> float:
    return math.sqrt(max(0.0, first**2 - 2 * correlation * first * second + second**2))
