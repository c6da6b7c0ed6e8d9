"""What a comparison warns of, and of nothing else: still videos, lost videos, few prompts, other seeds."""

import pytest

from tests.support.scored_reports import kinds, measured, report, row, suite, video
from vbench_eval.comparing import compare
from vbench_eval.statistics import mcnemar


def test_the_pattern_of_table_12_is_called_what_it_may_be():
    weak = suite(200, dynamic=0.45, consistency=0.914, seed=1)
    ours = suite(200, dynamic=0.08, consistency=0.971, seed=2)
    found = compare({"AnimateDiff": weak, "W2SD": ours})
    assert kinds(found) == ["static"]
    text = found.warnings[0].text
    assert "W2SD" in text and "subject consistency" in text and "dynamic degree -37.00" in text


def test_a_fall_of_motion_that_is_not_significant_is_called_suspected():
    strong = suite(200, dynamic=0.13, consistency=0.961, seed=1)
    ours = suite(200, dynamic=0.13, consistency=0.971, seed=2)
    for n, one in enumerate(ours["videos"]):  # 13 stop moving and 6 start: p = 0.167
        one["measured"]["dynamic_degree"] = measured(n in range(13, 26) or n in range(100, 106))
    assert 0.05 < mcnemar(13, 6) < 0.3
    assert kinds(compare({"strong": strong, "w2sd": ours})) == ["static-suspected"]


def test_of_few_videos_three_that_stop_moving_are_pointed_out_and_two_are_not():
    strong = suite(12, dynamic=1.0, consistency=0.914, seed=1)
    for stopped, expected in ((2, []), (3, ["static-suspected"])):
        ours = suite(12, dynamic=1.0, consistency=0.971, seed=2)
        for one in ours["videos"][:stopped]:
            one["measured"]["dynamic_degree"] = measured(False)
        assert mcnemar(stopped, 0) == 2 * 0.5**stopped
        assert kinds(compare({"strong": strong, "w2sd": ours})) == expected


@pytest.mark.parametrize(
    ("dynamic", "consistency"),
    [(0.80, 0.971), (0.08, 0.880), (0.45, 0.971), (0.80, 0.880)],
    ids=["both rise", "both fall", "motion stays", "motion rises as consistency falls"],
)
def test_no_other_pattern_is_called_static(dynamic, consistency):
    base = suite(200, dynamic=0.45, consistency=0.914, seed=1)
    found = compare({"a": base, "b": suite(200, dynamic=dynamic, consistency=consistency, seed=2)})
    assert kinds(found) == []


def test_a_rise_of_consistency_within_noise_is_no_reason_for_the_warning():
    base = suite(30, dynamic=0.9, consistency=0.914, seed=1)
    same = {n: one["measured"]["subject_consistency"] for n, one in enumerate(base["videos"])}
    ours = suite(30, dynamic=0.1, seed=2)
    for n, one in enumerate(ours["videos"]):  # half a point up and half a point down in turn, up once more
        value = same[n]["value"] + (0.005 if n % 2 == 0 or n == 1 else -0.005)
        one["measured"]["subject_consistency"] = measured(value)
    found = compare({"a": base, "b": ours})
    assert row(found, "subject_consistency").differences["b"].interval.value > 0
    assert kinds(found) == []


@pytest.mark.parametrize(("proxy", "before", "after"), [("flow_dynamic", 0.8, 0.3), ("frozen_frames", 0.1, 0.6)])
def test_motion_proxies_warn_too_where_the_official_motion_is_missing(proxy, before, after):
    def side(consistency, motion, seed):
        made = suite(40, consistency=consistency, seed=seed, **{proxy: motion})
        for one in made["videos"]:
            del one["measured"]["dynamic_degree"]
        return made

    found = compare({"a": side(0.91, before, 1), "b": side(0.97, after, 2)})
    assert kinds(found) == ["static"]
    assert f"{proxy.replace('_', ' ')} (proxy)" in found.warnings[0].text
    assert kinds(compare({"a": side(0.91, after, 1), "b": side(0.97, before, 2)})) == []


def test_methods_that_lose_many_videos_few_prompts_and_other_seeds_are_pointed_out():
    a = report([video(str(n), seed=n, imaging_quality=0.5) for n in range(9)])
    b = report([video(str(n), seed=n + 1, imaging_quality=0.5) for n in range(5)])
    found = compare({"a": a, "b": b})
    assert kinds(found) == ["left-out", "few-prompts", "seeds"]
    assert "4 of 9 videos of a" in found.warnings[0].text
    assert "5 of 5 pairs" in found.warnings[2].text
