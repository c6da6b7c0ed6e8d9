"""Intervals and tests against closed forms, printed tables, simulations and enumeration."""

import itertools
import math

import numpy as np
import pytest

from vbench_eval.errors import UserError
from vbench_eval.statistics import (
    Resampled,
    changes,
    corrected_interval,
    difference_interval,
    effective_count,
    holm,
    mcnemar,
    mean_interval,
    paired_share_interval,
    per_prompt,
    percentile_interval,
    resamples,
    share_difference_interval,
    share_interval,
    signed_rank_test,
    student_quantile,
    wilcoxon,
    wilson,
    win_rate,
    yes_or_no_test,
)


def width(interval):
    return interval.high - interval.low


# Wilson and Newcombe


@pytest.mark.parametrize(
    ("yes", "of", "low", "high"), [(90, 200, 38.3, 51.9), (26, 199, 9.1, 18.5), (16, 200, 5.0, 12.6)]
)
def test_wilson_intervals_of_the_papers_dynamic_degrees(yes, of, low, high):
    found = wilson(yes, of)
    assert (100 * found.low, 100 * found.high) == (pytest.approx(low, abs=0.05), pytest.approx(high, abs=0.05))


def test_wilson_limits_solve_the_score_equation():
    found = wilson(3, 11, level=0.9)
    for limit in (found.low, found.high):
        assert (3 / 11 - limit) ** 2 == pytest.approx(1.6448536269514722**2 * limit * (1 - limit) / 11, rel=1e-9)


def test_wilson_of_none_and_of_all_stays_in_range_and_is_not_a_point():
    none, every = wilson(0, 20), wilson(20, 20)
    assert none.low == 0.0 < none.high == pytest.approx(1 - every.low)
    assert every.high == 1.0
    assert none.high == pytest.approx(3.841458820694124 / 23.841458820694124, rel=1e-9)  # z^2 / (n + z^2)


def test_shares_of_one_video_per_prompt_have_the_plain_wilson_interval():
    values = [1] * 26 + [0] * 173
    assert share_interval(values, range(199)) == share_interval(values) == wilson(26, 199)


def test_alike_samples_of_a_prompt_are_worth_one_video():
    values, prompts = np.repeat([1.0] * 4 + [0.0] * 36, 5), np.repeat(np.arange(40), 5)
    assert effective_count(values, prompts) == pytest.approx(40)  # 39 by the corrected variance, but at least 40
    assert share_interval(values, prompts).high == pytest.approx(wilson(4, 40).high)
    assert effective_count(np.ones(200), prompts) == 40, "nothing shows that they are independent"


def test_independent_samples_of_a_prompt_are_worth_nearly_all_of_them():
    generator = np.random.default_rng(3)
    counts = [effective_count(generator.random(200) < 0.3, np.repeat(np.arange(40), 5)) for _ in range(200)]
    assert 160 < np.mean(counts) <= 200


def test_the_interval_of_a_paired_difference_of_shares_holds_the_truth_as_often_as_it_says():
    generator, inside, runs = np.random.default_rng(5), 0, 1000
    for _ in range(runs):  # dynamic in 13 percent and 8 percent of prompts, alike in most
        shared = generator.random(100)
        found = share_difference_interval(
            shared < 0.08, np.where(shared < 0.06, 1, generator.random(100) < 0.07 / 0.94)
        )
        inside += found.low <= -0.05 <= found.high
    assert inside / runs > 0.95 - 3 * math.sqrt(0.95 * 0.05 / runs)  # three deviations of a binomial share


def test_equal_answers_everywhere_do_not_make_a_difference_of_exactly_zero():
    found = share_difference_interval([0] * 30, [0] * 30)
    assert found.value == 0 and found.high == -found.low == pytest.approx(wilson(0, 30).high)


# bootstrap


def test_student_quantiles_agree_with_the_printed_table():
    table = {1: 12.706, 2: 4.303, 3: 3.182, 5: 2.571, 10: 2.228, 30: 2.042, 120: 1.980}
    for degrees, printed in table.items():
        assert student_quantile(0.975, degrees) == pytest.approx(printed, abs=5e-4)


@pytest.mark.parametrize("count", [8, 30])
def test_bootstrap_intervals_hold_the_known_mean_as_often_as_they_say(count):
    generator, inside, runs = np.random.default_rng(count), 0, 500
    for run in range(runs):
        found = mean_interval(generator.normal(3.0, 2.0, count), draws=1000, seed=run)
        inside += found.low <= 3.0 <= found.high
    assert inside / runs == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / runs))


def test_only_the_cluster_bootstrap_holds_the_mean_of_prompts_with_several_samples_as_often_as_it_says():
    generator, runs = np.random.default_rng(6), 300
    prompts, inside = np.repeat(np.arange(12), 5), {"clustered": 0, "naive": 0}
    for run in range(runs):
        values = np.repeat(generator.normal(0, 1, 12), 5) + generator.normal(0, 0.5, 60)
        for name, groups in (("clustered", prompts), ("naive", None)):
            found = mean_interval(values, groups, draws=500, seed=run)
            inside[name] += found.low <= 0 <= found.high
    deviation = math.sqrt(0.95 * 0.05 / runs)
    assert inside["clustered"] / runs == pytest.approx(0.95, abs=3 * deviation)
    assert inside["naive"] / runs < 0.95 - 3 * deviation


def test_bootstrap_width_of_many_prompts_is_the_normal_one():
    values = np.random.default_rng(1).normal(0, 1, 400)
    found = mean_interval(values)
    # one limit of 10,000 draws is off by 1.4 percent (root of 0.025 * 0.975 / 10,000 over the normal density at 1.96,
    # over 1.96), the width of two by 1.0; three times that, and 0.5 for Student's t with 399 degrees
    assert width(found) == pytest.approx(2 * 1.96 * values.std(ddof=1) / 20, rel=0.035)


def test_the_cluster_bootstrap_is_wider_than_the_naive_one_by_the_root_of_the_samples():
    each = np.random.default_rng(2).normal(0, 1, 100)
    values, prompts = np.repeat(each, 5), np.repeat(np.arange(100), 5)
    clustered, naive = mean_interval(values, prompts), mean_interval(values)
    assert clustered.value == pytest.approx(naive.value)
    assert width(clustered) / width(naive) == pytest.approx(math.sqrt(5), rel=0.05)
    assert width(clustered) == pytest.approx(width(mean_interval(each)), rel=1e-12), "as wide as of one sample each"


def test_clusters_need_not_lie_together_nor_be_numbers():
    values, prompts = np.arange(12.0), [f"prompt {n % 4}" for n in range(12)]
    order = np.argsort([n % 4 for n in range(12)], kind="stable")
    assert mean_interval(values, prompts) == mean_interval(values[order], [prompts[n] for n in order])


def test_differences_are_paired_so_that_prompts_which_differ_much_do_not_widen_them():
    generator = np.random.default_rng(4)
    base = generator.normal(0, 10, 50)
    ours = base + 1 + generator.normal(0, 0.1, 50)
    found = difference_interval(ours, base)
    assert found.value == pytest.approx((ours - base).mean())
    assert width(found) < 0.1 < 1 < width(mean_interval(base))
    backward = difference_interval(base, ours)
    assert (backward.low, backward.high) == pytest.approx((-found.high, -found.low))


def test_weighted_means_weigh_long_videos_as_their_frames():
    resampled = Resampled([[1.0], [0.0], [0.5]], weights=[[30.0], [10.0], [0.0]])
    assert resampled.mean().value == pytest.approx(0.75)


def test_bootstraps_repeat_with_the_seed_and_change_with_it():
    values = np.random.default_rng(0).normal(0, 1, 40)
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1) != mean_interval(values, seed=2)


def test_a_single_prompt_has_no_interval_and_equal_values_one_that_is_the_value():
    found = mean_interval([0.4, 0.6], ["a", "a"])
    assert (found.value, found.low, found.high) == (0.5, None, None)
    found = mean_interval([0.25] * 9)
    assert (found.low, found.value, found.high) == (0.25, 0.25, 0.25)


# win rate


def test_win_rates_count_a_tie_as_half_a_win_and_winning_always_is_not_known_for_certain():
    found = win_rate([3, 2, 1, 5], [1, 2, 2, 4])
    assert (found.wins, found.ties, found.losses, found.rate.value) == (2, 1, 1, 0.625)
    assert found.rate.low < 0.625 < found.rate.high
    assert found.rate == wilson(2.5, 4)
    found = win_rate([1, 1, 1], [2, 2, 0], lower_is_better=True)
    assert (found.wins, found.losses) == (2, 1)
    always = win_rate([1.0] * 10, [0.0] * 10).rate
    assert always.value == always.high == 1.0 > always.low == pytest.approx(10 / (10 + 3.8414588), rel=1e-6)


# refusals


def test_numbers_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="finite"):
        mean_interval([0.5, math.nan])
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])
    with pytest.raises(ValueError, match="2 values but 1 prompts"):
        mean_interval([1, 2], ["a"])
    with pytest.raises(UserError, match=r"confidence level is 95"):
        mean_interval([1, 2], level=95)
    with pytest.raises(UserError, match="at least 100"):
        mean_interval([1, 2], draws=3)


def with_ranks(positive, count):
    """Differences of `count` distinct sizes 1..count, positive where the rank is in `positive`."""
    return [rank if rank in positive else -rank for rank in range(1, count + 1)]


# McNemar


def test_mcnemar_of_ten_against_two_is_the_binomial_tail():
    tail = sum(math.factorial(12) // (math.factorial(k) * math.factorial(12 - k)) for k in (0, 1, 2))
    assert mcnemar(10, 2) == mcnemar(2, 10) == pytest.approx(2 * tail / 4096, rel=1e-14)
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


# independent samples


def test_the_experiments_printed_intervals_repeat():
    """Recorded from the functions that printed the documentation's numbers: seed 0, torch's generator."""
    values = np.sin(np.arange(40.0))
    assert percentile_interval(values).text(6) == "0.028827 [-0.187366, 0.258758]"
    assert percentile_interval(values, draws=10_000).text(6) == "0.028827 [-0.188969, 0.252871]"
    one, other = np.arange(60) % 3 == 0, np.arange(60) % 4 == 0
    assert changes(one, other) == (15, 10)
    assert paired_share_interval(one, other).text(6) == "0.083333 [-0.066667, 0.233333]"


def test_a_biased_statistic_is_corrected_by_what_its_resamples_are_off():
    import torch

    values = torch.linspace(0, 1, 30, dtype=torch.float64)
    weights = resamples(30, 4000)
    assert weights.sum(dim=1).unique().tolist() == [30.0]
    means = weights @ values / 30
    spreads = (weights @ values.square()) / 30 - means.square()  # biased by (N - 1) / N
    found = corrected_interval(values.var(correction=0).item(), spreads)
    assert found.value == pytest.approx(values.var().item(), rel=2e-3) and found.low < found.value < found.high
    assert corrected_interval(0.5, means, biased=False).value == 0.5
