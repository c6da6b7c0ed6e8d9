"""Intervals and tests: means, paired differences, shares, win rates; Wilson, McNemar, Wilcoxon, Holm, bootstraps.

The videos of one prompt are not independent: five samples of an easy prompt are all easy. Where `prompts` says which
values belong together (None: each is a prompt of its own), the prompt is the unit: means and differences resample whole
prompts (a cluster bootstrap), shares of yes and no use Wilson's interval with the number of videos reduced to what they
are worth, and tests of pairs take one number per prompt.

Values arrive as float64 arrays with a value per video. Experiments whose samples are independent and whose printed
numbers were made with torch's generator have `percentile_interval`, `paired_share_interval` and `corrected_interval`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vbench_eval.errors import UserError

LEVEL = 0.95
DRAWS = 10_000
EXACT_UP_TO = 50  # differences in Wilcoxon's test; above, the normal approximation is good to three digits
_BLOCK = 1 << 22  # resampled prompts held at a time: 32 MiB of indices

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence limits; the limits are None where one prompt is all there is."""

    value: float
    low: float | None = None
    high: float | None = None

    def text(self, digits: int = 3, *, signed: bool = False) -> str:
        """`+0.12 [+0.10, +0.14]`."""
        sign = "+" if signed else ""
        limits = [f"{end:{sign}.{digits}f}" for end in (self.low, self.high) if end is not None]
        return f"{self.value:{sign}.{digits}f}" + (f" [{', '.join(limits)}]" if limits else "")


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
    from scipy.special import ndtri

    return float(ndtri(share))


def student_quantile(share: float, degrees: int) -> float:
    """Student's t quantile."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, share))


def check_settings(level: float, draws: int) -> None:
    """Raises UserError for a confidence level or a number of resamples that mean nothing."""
    if not 0 < level < 1:
        raise UserError(f"the confidence level is {level}; it must lie between 0 and 1, such as 0.95")
    if draws < 100:
        raise UserError(f"{draws} bootstrap draws; limits need at least 100, the default is {DRAWS}")


# tests of paired differences


@dataclass(frozen=True)
class Tested:
    """What a two-sided test found: its name, how many pairs decided it, and its p."""

    name: str
    pairs: int
    p: float


def per_prompt(differences: ArrayLike, prompts: Sequence[Hashable] | None = None) -> NDArray[np.float64]:
    """The mean difference of each prompt [K].

    Tests of pairs take pairs to be independent, which several samples of a prompt are not: they test prompts. With one
    video per prompt nothing changes.
    """
    flat = np.asarray(differences, dtype=np.float64)
    groups = clusters(prompts, len(flat))
    return np.bincount(groups, weights=flat) / np.bincount(groups)


def mcnemar(first_only: int, second_only: int) -> float:
    """McNemar's exact p, two-sided: of n = first_only + second_only discordant pairs, each way is a fair coin's.

    Twice the tail of the binomial with n throws, at most 1; 1 when no pair disagrees.
    """
    from scipy.special import bdtr

    if first_only < 0 or second_only < 0:
        raise ValueError(f"counts of pairs cannot be negative, got {first_only} and {second_only}")
    return min(1.0, 2 * float(bdtr(min(first_only, second_only), first_only + second_only, 0.5)))


def yes_or_no_test(differences: ArrayLike, prompts: Sequence[Hashable] | None = None) -> Tested:
    """McNemar's test of differences in {-1, 0, 1}; of prompts' net differences where prompts have several samples."""
    means = per_prompt(differences, prompts)
    up, down = int((means > 0).sum()), int((means < 0).sum())
    grouped = len(means) < np.size(np.asarray(differences))
    return Tested("McNemar, by prompt" if grouped else "McNemar", up + down, mcnemar(down, up))


def signed_rank_test(differences: ArrayLike, prompts: Sequence[Hashable] | None = None) -> Tested:
    """Wilcoxon's signed-rank test of differences, of their means by prompt where prompts have several samples."""
    means = per_prompt(differences, prompts)
    grouped = len(means) < np.size(np.asarray(differences))
    return Tested("Wilcoxon, by prompt" if grouped else "Wilcoxon", int((means != 0).sum()), wilcoxon(means))


def wilcoxon(differences: ArrayLike) -> float:
    """Wilcoxon's signed-rank p, two-sided, of N differences; those of 0 are left out, as Wilcoxon did.

    Exact up to EXACT_UP_TO differences, also with ties: given the ranks, each sign is a fair coin's. Above, the normal
    approximation with the ties' correction of the variance and a continuity correction of half a rank.
    """
    flat = np.asarray(differences, dtype=np.float64)
    if not np.isfinite(flat).all():
        raise ValueError("a difference is not finite")
    flat = flat[flat != 0]
    if not len(flat):
        return 1.0
    doubled, ties = _doubled_ranks(np.abs(flat))
    positive, total = int(doubled[flat > 0].sum()), int(doubled.sum())
    if len(flat) <= EXACT_UP_TO:
        ways = _ways(doubled)
        return min(1.0, 2 * int(ways[: min(positive, total - positive) + 1].sum()) / 2 ** len(flat))
    return _approximate(positive / 2, len(flat), ties)


def holm(ps: Sequence[float]) -> list[float]:
    """The p of each test corrected for their number: step-down Bonferroni (Holm 1979), in the order given."""
    corrected, largest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = largest
    return corrected


# independent samples, torch's generator


def percentile_interval(values: Any, *, draws: int = 2000, seed: int = 0, level: float = LEVEL) -> Interval:
    """The mean of values [N] with its percentile bootstrap interval; the values are resampled one by one.

    For a paired interval pass the differences.
    """
    import torch

    flat = torch.as_tensor(values, dtype=torch.float64)
    picks = torch.randint(len(flat), (draws, len(flat)), generator=torch.Generator().manual_seed(seed))
    return _percentiles(float(flat.mean()), flat[picks].mean(dim=1), level)


def paired_share_interval(one: Any, other: Any, *, draws: int = 2000, seed: int = 0, level: float = LEVEL) -> Interval:
    """The share of yes in `one` minus that in `other`, booleans [N] of paired samples, by a percentile bootstrap.

    Only how many samples differ, and which way, enters: those two counts are resampled, which is resampling samples.
    """
    import torch

    count, (gained, lost) = len(one), changes(one, other)
    kinds = torch.tensor([gained, lost, count - gained - lost], dtype=torch.float64) / count
    generator = torch.Generator().manual_seed(seed)
    picks = torch.multinomial(kinds, draws * count, replacement=True, generator=generator).view(draws, count)
    return _percentiles((gained - lost) / count, ((picks == 0).double() - (picks == 1).double()).mean(dim=1), level)


def changes(one: Any, other: Any) -> tuple[int, int]:
    """How many of paired booleans [N] are yes in `one` only, and in `other` only: what `mcnemar` takes."""
    ours, theirs = np.asarray(one, dtype=bool), np.asarray(other, dtype=bool)
    return int((ours & ~theirs).sum()), int((theirs & ~ours).sum())


def resamples(count: int, draws: int, seed: int = 0) -> Any:
    """Bootstrap weights, a float64 tensor [draws, count]: how often each of `count` samples is drawn, `count` times."""
    import torch

    picks = torch.randint(count, (draws, count), generator=torch.Generator().manual_seed(seed))
    ones = torch.ones(draws, count, dtype=torch.float64)
    return torch.zeros(draws, count, dtype=torch.float64).scatter_add_(1, picks, ones)


def corrected_interval(value: float, numbers: Any, *, biased: bool = True, level: float = LEVEL) -> Interval:
    """A statistic and its basic bootstrap interval from its values in resamples, a float64 tensor [draws].

    A statistic that is biased for finite samples (a Frechet distance) is biased in resamples by about as much again:
    the number (2 x - mean of resamples) and the interval (2 x - quantiles) take that back. Not the number of one that
    is not `biased`.
    """
    found = _percentiles(value, numbers, level)
    assert found.low is not None and found.high is not None
    bias = float(numbers.mean()) - value if biased else 0.0
    return Interval(value - bias, 2 * value - found.high, 2 * value - found.low)


def _percentiles(value: float, numbers: Any, level: float) -> Interval:
    tail = (1 - level) / 2
    low, high = numbers.quantile(numbers.new_tensor([tail, 1 - tail])).tolist()
    return Interval(value, low, high)


def _expanded_tail(count: int, level: float) -> float:
    """The share to cut at each end of the draws.

    Percentiles of the draws themselves are too narrow by sqrt((K - 1) / K) and know nothing of Student's t; cutting
    less makes the interval of K prompts as wide as t's (Hesterberg 2015, "expanded percentile").
    """
    from scipy.special import ndtr

    widened = math.sqrt(count / (count - 1)) * student_quantile(1 - (1 - level) / 2, count - 1)
    return float(ndtr(-widened))


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


def _doubled_ranks(sizes: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Twice the rank of each size, tied sizes sharing their mean rank (so that all are whole), and the ties' counts."""
    _, places, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (2 * last - counts + 1)[places], counts


def _ways(doubled: NDArray[np.int64]) -> NDArray[np.int64]:
    """In how many of the 2^n choices of signs the positive doubled ranks sum to 0, 1, 2, ... (at most 2^50: exact)."""
    ways = np.zeros(int(doubled.sum()) + 1, dtype=np.int64)
    ways[0] = 1
    for rank in doubled:
        ways[rank:] = ways[rank:] + ways[:-rank]
    return ways


def _approximate(positive: float, count: int, ties: NDArray[np.int64]) -> float:
    mean = count * (count + 1) / 4
    variance = count * (count + 1) * (2 * count + 1) / 24 - float((ties**3 - ties).sum()) / 48
    distance = max(0.0, abs(positive - mean) - 0.5)
    return math.erfc(distance / math.sqrt(2 * variance))
