"""Tests of paired differences: McNemar's exact test, Wilcoxon's signed ranks, and Holm's correction for several."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vbench_eval.statistics import clusters

EXACT_UP_TO = 50  # pairs; above, the normal approximation of the signed ranks is good to three digits


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
    if first_only < 0 or second_only < 0:
        raise ValueError(f"counts of pairs cannot be negative, got {first_only} and {second_only}")
    throws, fewer = first_only + second_only, min(first_only, second_only)
    ways = tail = 1  # of throws with 0 heads; whole numbers, so that no count is too large
    for heads in range(1, fewer + 1):
        ways = ways * (throws - heads + 1) // heads
        tail += ways
    return min(1.0, 2 * tail / 2**throws)


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
