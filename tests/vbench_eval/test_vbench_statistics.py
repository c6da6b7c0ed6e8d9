"""The intervals of means, shares and differences against closed forms, printed tables and simulations."""

import math

import numpy as np
import pytest

from vbench_eval.errors import UserError
from vbench_eval.statistics import (
    Resampled,
    difference_interval,
    effective_count,
    mean_interval,
    share_difference_interval,
    share_interval,
    student_quantile,
    wilson,
    win_rate,
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
    table = {3: 3.182, 5: 2.571, 10: 2.228, 30: 2.042, 120: 1.980}
    for degrees, printed in table.items():
        assert student_quantile(0.975, degrees) == pytest.approx(printed, rel=1.5e-3)


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


def test_a_single_prompt_has_no_interval():
    found = mean_interval([0.4, 0.6], ["a", "a"])
    assert (found.value, found.low, found.high) == (0.5, None, None)


def test_equal_values_give_an_interval_that_is_the_value():
    found = mean_interval([0.25] * 9)
    assert (found.low, found.value, found.high) == (0.25, 0.25, 0.25)


# win rate


def test_win_rates_count_a_tie_as_half_a_win():
    found = win_rate([3, 2, 1, 5], [1, 2, 2, 4])
    assert (found.wins, found.ties, found.losses, found.rate.value) == (2, 1, 1, 0.625)
    assert found.rate.low < 0.625 < found.rate.high
    assert found.rate == wilson(2.5, 4)


def test_where_lower_is_better_the_lower_wins():
    found = win_rate([1, 1, 1], [2, 2, 0], lower_is_better=True)
    assert (found.wins, found.losses) == (2, 1)


def test_winning_always_is_not_known_for_certain():
    found = win_rate([1.0] * 10, [0.0] * 10)
    assert found.rate.value == found.rate.high == 1.0 > found.rate.low == pytest.approx(10 / (10 + 3.8414588), rel=1e-6)


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
