"""The tests of paired differences against closed forms, printed tables and enumeration."""

import itertools
import math

import numpy as np
import pytest

from vbench_eval.significance import holm, mcnemar, per_prompt, signed_rank_test, wilcoxon, yes_or_no_test


def with_ranks(positive, count):
    """Differences of `count` distinct sizes 1..count, positive where the rank is in `positive`."""
    return [rank if rank in positive else -rank for rank in range(1, count + 1)]


# McNemar


def test_mcnemar_of_ten_against_two_is_the_binomial_tail():
    tail = sum(math.factorial(12) // (math.factorial(k) * math.factorial(12 - k)) for k in (0, 1, 2))
    assert mcnemar(10, 2) == mcnemar(2, 10) == pytest.approx(2 * tail / 4096, rel=1e-15)
    assert mcnemar(10, 2) == pytest.approx(0.0386, abs=5e-5)


@pytest.mark.parametrize("counts", [(0, 0), (1, 1), (7, 7), (1, 0)])
def test_mcnemar_of_balanced_or_absent_disagreement_is_one(counts):
    assert mcnemar(*counts) == 1.0


def test_mcnemar_does_not_overflow_with_thousands_of_pairs():
    assert 0.0 < mcnemar(1000, 1100) < 0.05 < mcnemar(1000, 1010) < 1.0


def test_yes_or_no_test_counts_only_pairs_that_disagree():
    differences = [1] * 2 + [-1] * 10 + [0] * 188
    found = yes_or_no_test(differences)
    assert (found.name, found.pairs, found.p) == ("McNemar", 12, mcnemar(10, 2))


def test_five_alike_samples_of_a_prompt_are_no_more_evidence_than_one():
    differences = np.array([1, 1, 1, 1, -1, 0])
    prompts = list("abcdef")
    five = yes_or_no_test(np.repeat(differences, 5), np.repeat(prompts, 5))
    assert five.name == "McNemar, by prompt"
    assert (five.pairs, five.p) == (5, yes_or_no_test(differences, prompts).p)
    ranked = signed_rank_test(np.repeat([0.3, 0.2, -0.1], 4), np.repeat(list("abc"), 4))
    assert ranked.p == wilcoxon([0.3, 0.2, -0.1])


def test_per_prompt_means_are_in_order_of_first_appearance():
    assert per_prompt([1.0, 5.0, 3.0], ["b", "a", "b"]).tolist() == [2.0, 5.0]


# Wilcoxon


@pytest.mark.parametrize(
    ("count", "positive", "p"),
    [  # published critical values of the two-sided test at 0.05: the smaller rank sum 0, 2, 3, 5, 8
        (6, set(), 2 / 2**6),
        (7, {2}, 6 / 2**7),
        (8, {3}, 10 / 2**8),
        (9, {5}, 20 / 2**9),
        (10, {8}, 50 / 2**10),
    ],
)
def test_wilcoxon_is_exact_at_the_published_critical_values(count, positive, p):
    differences = with_ranks(positive, count)
    assert wilcoxon(differences) == wilcoxon([-d for d in differences]) == p <= 0.05
    larger = with_ranks({max(positive, default=0) + 1}, count)
    assert wilcoxon(larger) > 0.05, "the next rank sum must be beyond the critical value"


@pytest.mark.parametrize("sizes", [[1, 2, 3, 4, 5], [1, 1, 2, 3, 3, 3], [2, 2, 2, 2]])
def test_wilcoxon_equals_the_count_over_all_signs_with_and_without_ties(sizes):
    ranks = [sum(other < size for other in sizes) + (sizes.count(size) + 1) / 2 for size in sizes]
    centre = sum(ranks) / 2
    all_signs = list(itertools.product((-1, 1), repeat=len(sizes)))
    sums = [sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign > 0) for signs in all_signs]
    for signs, found in zip(all_signs, sums, strict=True):
        as_far = sum(abs(other - centre) >= abs(found - centre) - 1e-9 for other in sums) / len(sums)
        assert wilcoxon([size * sign for size, sign in zip(sizes, signs, strict=True)]) == pytest.approx(as_far)


def test_wilcoxon_leaves_out_pairs_without_a_difference():
    assert wilcoxon([0.0, *with_ranks({8}, 10), 0.0]) == wilcoxon(with_ranks({8}, 10))
    assert wilcoxon([0.0, 0.0]) == wilcoxon([]) == 1.0


def test_wilcoxon_of_many_differences_uses_the_normal_approximation_corrected_for_ties():
    sizes = [1] * 20 + [2] * 30 + [3] * 10
    differences = [size if n % 3 else -size for n, size in enumerate(sizes)]
    rank = {1: 10.5, 2: 35.5, 3: 55.5}
    positive = sum(rank[size] for n, size in enumerate(sizes) if n % 3)
    variance = 60 * 61 * 121 / 24 - sum(t**3 - t for t in (20, 30, 10)) / 48
    z = (abs(positive - 60 * 61 / 4) - 0.5) / math.sqrt(variance)
    assert wilcoxon(differences) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1e-12)


def test_the_exact_and_the_approximate_wilcoxon_meet():
    generator = np.random.default_rng(0)
    for shift in (0.0, 0.2, 0.4):
        differences = generator.normal(shift, 1, 50)
        exact, near = wilcoxon(differences), wilcoxon([*differences, 1e-9])  # 51 differences, one of the lowest rank
        assert near == pytest.approx(exact, abs=0.02)  # rank 1 of 51 moves the sum by at most 25 of a deviation of 107


# Holm


def test_holm_multiplies_the_smallest_by_the_count_and_never_reverses_the_order():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
