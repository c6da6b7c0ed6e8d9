"""Videos become VBench's aggregates, and those its quality, semantic and total scores."""

import math
from fractions import Fraction
from itertools import permutations

import pytest

from vbench_eval.aggregation import (
    QUALITY,
    SEMANTIC,
    aggregate,
    normalise,
    normalised,
    quality_score,
    semantic_score,
    total_score,
)
from vbench_eval.dimensions import OFFICIAL, Measured
from vbench_eval.errors import UserError

TABLE_12 = {  # the paper's values in %, and the quality score over its six dimensions
    "AnimateDiff (SDXL)": ((91.4152, 95.8491, 94.1647, 45.0, 55.3108, 58.4293), "72.98"),
    "AnimateDiff (Juggernaut-XL)": ((96.0820, 97.5463, 96.8834, 13.0653, 57.7097, 64.1674), "74.67"),
    "W2SD": ((97.1398, 97.9386, 96.8706, 8.0, 59.3736, 64.6987), "74.92"),
}
SIX = OFFICIAL[:6]
BOUNDS = {  # min and max of VBench's score script, its spaces as underscores
    "subject_consistency": (0.1462, 1),
    "background_consistency": (0.2615, 1),
    "temporal_flickering": (0.6293, 1),
    "motion_smoothness": (0.706, 0.9975),
    "dynamic_degree": (0, 1),
    "aesthetic_quality": (0, 1),
    "imaging_quality": (0, 1),
    "object_class": (0, 1),
    "multiple_objects": (0, 1),
    "human_action": (0, 1),
    "color": (0, 1),
    "spatial_relationship": (0, 1),
    "scene": (0, 0.8222),
    "appearance_style": (0.0009, 0.2855),
    "temporal_style": (0, 0.364),
    "overall_consistency": (0, 0.364),
}


def scored(*scores, weights=None):
    return [
        Measured(score, score, weight) for score, weight in zip(scores, weights or [1.0] * len(scores), strict=True)
    ]


@pytest.mark.parametrize("row", TABLE_12)
def test_the_rows_of_table_12_give_their_quality_scores_over_six_of_seven(row):
    values, expected = TABLE_12[row]
    score = quality_score({name: value / 100 for name, value in zip(SIX, values, strict=True)})
    assert f"{100 * score.value:.2f}" == expected
    assert score.missing == ("temporal_flickering",) and not score.complete
    assert score.label == "quality score over 6 of 7 (partial)"


def test_the_six_dimension_score_is_the_weighted_mean_written_out():
    s, b, m, d, a, i = (value / 100 for value in TABLE_12["W2SD"][0])
    by_hand = ((s - 0.1462) / 0.8538 + (b - 0.2615) / 0.7385 + (m - 0.706) / 0.2915 + 0.5 * d + a + i) / 5.5
    assert quality_score(dict(zip(SIX, (s, b, m, d, a, i), strict=True))).value == pytest.approx(by_hand, rel=1e-14)


@pytest.mark.parametrize("name", BOUNDS)
def test_a_dimensions_bounds_become_0_and_1_and_nothing_is_clamped(name):
    low, high = BOUNDS[name]
    assert normalise(name, low) == 0 and normalise(name, high) == 1
    assert normalise(name, high + (high - low)) == pytest.approx(2, rel=1e-12)
    assert normalise(name, low - (high - low)) == pytest.approx(-1, rel=1e-12)


def test_seven_quality_and_nine_semantic_dimensions_weigh_1_but_dynamic_degree_a_half():
    assert len(QUALITY) == 7 and len(SEMANTIC) == 9 and {**QUALITY, **SEMANTIC}.keys() == BOUNDS.keys()
    floor = {name: BOUNDS[name][0] for name in QUALITY}
    for name in QUALITY:
        share = quality_score({**floor, name: BOUNDS[name][1]}).value
        assert share == pytest.approx((0.5 if name == "dynamic_degree" else 1) / 6.5, rel=1e-12)
    floor = {name: BOUNDS[name][0] for name in SEMANTIC}
    for name in SEMANTIC:
        assert semantic_score({**floor, name: BOUNDS[name][1]}).value == pytest.approx(1 / 9, rel=1e-12)


def test_the_total_is_four_parts_quality_and_one_part_semantic():
    best_quality = {name: BOUNDS[name][name in QUALITY] for name in BOUNDS}
    assert quality_score(best_quality).value == 1 and semantic_score(best_quality).value == 0
    total = total_score(best_quality)
    assert total.value == pytest.approx(0.8, rel=1e-15)
    assert total.complete and total.label == "total score"


def test_a_missing_dimension_is_left_out_and_never_taken_for_0():
    full = {name: high for name, (_, high) in BOUNDS.items()}
    for name in QUALITY:
        rest = {key: value for key, value in full.items() if key != name}
        for lacking in (rest, {**rest, name: None}, {**rest, name: math.nan}):
            score = quality_score(lacking)
            assert score.value == pytest.approx(1, rel=1e-15) and score.missing == (name,)
            assert "6 of 7" in score.label and "15 of 16" in total_score(lacking).label
            assert name not in normalised(lacking)


def test_a_score_over_nothing_has_no_value():
    assert quality_score({}).value is None and "0 of 7" in quality_score({}).label
    only_quality = total_score({"imaging_quality": 0.5})
    assert only_quality.value is None and only_quality.present == ("imaging_quality",)
    assert semantic_score({"imaging_quality": 0.5}).to_json()["value"] is None


def test_names_that_are_not_vbenchs_do_not_touch_the_scores():
    with pytest.raises(UserError, match="no dimension 'sharpness'"):
        normalise("sharpness", 0.5)
    assert quality_score({"sharpness": 0.5, "imaging_quality": 0.25}).value == 0.25


@pytest.mark.parametrize("name", ["subject_consistency", "background_consistency"])
def test_consistency_is_averaged_over_pairs_as_by_vbench_and_over_videos_in_fixed(name):
    # 2 pairs of 0.5 and 6 pairs of 1: 7 / 8 of all pairs; the mean of the two videos is 3 / 4
    measured = scored(0.5, 1.0, weights=[2.0, 6.0])
    assert aggregate(name, measured, "vbench") == 0.875
    assert aggregate(name, measured, "fixed") == 0.75


@pytest.mark.parametrize("name", [*OFFICIAL[2:], "sharpness"])
@pytest.mark.parametrize("profile", ["vbench", "fixed"])
def test_all_else_is_the_mean_over_videos(name, profile):
    assert aggregate(name, scored(0.5, 1.0, weights=[2.0, 6.0]), profile) == 0.75


def test_imaging_quality_is_averaged_on_the_scale_of_0_to_1():
    measured = [Measured(60.0, 0.6), Measured(70.0, 0.7)]
    assert aggregate("imaging_quality", measured, "vbench") == pytest.approx(0.65, rel=1e-15)


def test_videos_without_a_value_are_left_out():
    measured = [*scored(0.25, 0.75, weights=[1.0, 3.0]), Measured(None, None, 5.0, reason="one frame")]
    assert aggregate("subject_consistency", measured, "vbench") == 0.625
    assert aggregate("subject_consistency", measured, "fixed") == 0.5
    assert aggregate("subject_consistency", measured[2:], "vbench") is None
    assert aggregate("subject_consistency", [], "vbench") is None
    assert aggregate("imaging_quality", [Measured(math.inf, math.inf), *scored(0.5)], "vbench") == 0.5


def test_the_order_of_videos_does_not_change_the_last_bit():
    measured = scored(0.1, 0.7, 1e-17, 0.3, 1 / 3, weights=[3.0, 15.0, 7.0, 1.0, 48.0])
    for name in ("subject_consistency", "imaging_quality"):
        assert len({aggregate(name, order, "vbench") for order in permutations(measured)}) == 1


def test_the_aggregate_is_the_exact_quotient_rounded():
    scores = [Fraction(1, 8), Fraction(3, 8), Fraction(7, 16)]
    exact = sum(scores) / 3
    assert aggregate("aesthetic_quality", scored(*map(float, scores)), "vbench") == float(exact)
