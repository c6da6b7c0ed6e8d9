"""Result files of any origin are read for what they say."""

import json
import os

import pytest

from tests.support.written_results import write
from vbench_eval.comparing import read_side
from vbench_eval.errors import UserError
from vbench_eval.results import (
    VideoRecord,
    find_results,
    read_report,
    read_results,
)


def foreign(tmp_path, content, name="x_eval_results.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def video(path, value, **extras):
    return {"video_path": path, "video_results": value, **extras}


def test_our_eval_results_are_read_back_value_by_value(tmp_path):
    found = read_results(write(tmp_path).eval_results)
    a, b = os.path.join("videos/w2sd", "a-0.mp4"), os.path.join("videos/w2sd", "b-0.mp4")
    assert found["dynamic_degree"] == (0.5, {a: True, b: False})
    assert found["imaging_quality"][1] == {a: 64.0, b: 40.0}


def test_vbenchs_own_file_becomes_a_report_with_scores_from_0_to_1(tmp_path):
    path = foreign(
        tmp_path,
        {
            "imaging_quality": [0.65, [video("v/a cat-0.mp4", 60.0), video("v\\a cat-1.mp4", 70.0)]],
            "dynamic_degree": [0.5, [video("v/a cat-0.mp4", True), video("v\\a cat-1.mp4", False)]],
            "background_consistency": [0.9, [video("v/a cat-0.mp4", 0.9, video_sim=13.5, cnt_per_video=15)]],
        },
    )
    report = read_report(path)
    assert report["profile"] is None and report["dimensions"]["imaging_quality"]["aggregate"] == 0.65
    first, second = report["videos"]
    assert [(one["prompt"], one["index"]) for one in (first, second)] == [("a cat", 0), ("a cat", 1)]
    assert first["measured"]["imaging_quality"]["score"] == 0.6 and first["measured"]["imaging_quality"]["value"] == 60
    assert second["measured"]["dynamic_degree"] == {
        "value": False,
        "score": 0.0,
        "weight": 1.0,
        "extras": {},
        "reason": None,
    }
    assert first["measured"]["background_consistency"]["weight"] == 15
    assert first["measured"]["background_consistency"]["extras"] == {"video_sim": 13.5, "cnt_per_video": 15}
    assert all(VideoRecord.from_json(one).to_json() == one for one in report["videos"])


def test_imaging_quality_that_a_file_already_has_in_0_to_1_is_not_divided_again(tmp_path):
    report = read_report(foreign(tmp_path, {"imaging_quality": [0.65, [video("a-0.mp4", 0.65)]]}))
    assert report["videos"][0]["measured"]["imaging_quality"]["score"] == 0.65


def old_file(**more):
    return {"subject_consistency": [0.732, [video("v/a-0.mp4", 10.98)]], **more}


def test_the_sums_of_early_versions_are_divided_by_the_pairs_that_the_file_tells(tmp_path):
    background = {"background_consistency": [0.9, [video("v/a-0.mp4", 0.9, video_sim=13.5, cnt_per_video=15)]]}
    assert read_results(foreign(tmp_path, old_file(**background)))["subject_consistency"] == (
        0.732,
        {"v/a-0.mp4": pytest.approx(0.732)},
    )
    own = {"subject_consistency": [0.732, [video("v/a-0.mp4", 10.98, cnt_per_video=15)]]}
    assert read_results(foreign(tmp_path, own))["subject_consistency"][1] == {"v/a-0.mp4": pytest.approx(0.732)}
    report = read_report(foreign(tmp_path, own))
    assert report["videos"][0]["measured"]["subject_consistency"]["score"] == pytest.approx(0.732)


@pytest.mark.parametrize("key", ["v/a-0.mp4", "a-0.mp4"])
def test_the_pairs_of_a_sum_can_be_given(tmp_path, key):
    found = read_results(foreign(tmp_path, old_file()), pairs={key: 15})
    assert found["subject_consistency"][1] == {"v/a-0.mp4": pytest.approx(0.732)}


def test_a_sum_over_an_unknown_number_of_pairs_is_refused_as_ambiguous(tmp_path):
    with pytest.raises(UserError, match=r"10\.98, a sum over pairs of frames.*does not say over how many"):
        read_results(foreign(tmp_path, old_file()))
    with pytest.raises(UserError, match="which no 10 pairs of frames can give"):
        read_results(foreign(tmp_path, old_file()), pairs={"a-0.mp4": 10})


def test_one_sum_makes_every_value_of_its_list_a_sum(tmp_path):
    # 0.8 over 2 pairs is a mean of 0.4: small, but no mean of its own beside a sum
    content = {
        "subject_consistency": [
            0.7,
            [video("a-0.mp4", 10.98, cnt_per_video=15), video("b-0.mp4", 0.8, cnt_per_video=2)],
        ]
    }
    assert read_results(foreign(tmp_path, content))["subject_consistency"][1] == {
        "a-0.mp4": pytest.approx(0.732),
        "b-0.mp4": pytest.approx(0.4),
    }


def test_a_mean_that_rounding_lifted_above_1_stays_a_mean(tmp_path):
    content = {"subject_consistency": [1.0000002, [video("a-0.mp4", 1.0000002)]]}
    assert read_results(foreign(tmp_path, content))["subject_consistency"][1] == {"a-0.mp4": 1.0000002}


def test_score_tables_with_spaces_and_without_videos_are_read(tmp_path):
    path = foreign(tmp_path, {"subject consistency": [0.9], "scene": 0.5, "color": [0.25, []]})
    assert read_results(path) == {"subject_consistency": (0.9, {}), "scene": (0.5, {}), "color": (0.25, {})}


def test_nan_and_infinity_in_foreign_files_are_no_numbers(tmp_path):
    path = foreign(
        tmp_path,
        '{"color": [NaN, [{"video_path": "a-0.mp4", "video_results": Infinity}]], '
        '"scene": [1e999, [{"video_path": "a-0.mp4", "video_results": -Infinity}]]}',
    )
    assert read_results(path) == {"color": (None, {"a-0.mp4": None}), "scene": (None, {"a-0.mp4": None})}
    assert read_report(path)["videos"][0]["measured"]["color"]["reason"] == "the file holds no number"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], "full_info"),
        ({"color": "high"}, "a number and a list of videos"),
        ({"color": [0.5, {"a": 1}]}, "a number and a list of videos"),
        ({"color": [0.5, [{"video_results": 1}]]}, "video 1: no video_path"),
        ({"color": [0.5, [{"video_path": "a", "video_results": "good"}]]}, "'good', not a number"),
        ("{", "not JSON"),
    ],
)
def test_files_of_another_layout_are_refused_with_the_place(tmp_path, content, says):
    with pytest.raises(UserError, match=says):
        read_results(foreign(tmp_path, content))
    with pytest.raises(UserError, match=says):
        read_report(foreign(tmp_path, content))


def test_a_report_of_a_later_version_is_refused(tmp_path):
    with pytest.raises(UserError, match="schema 2; this version reads 1"):
        read_report(foreign(tmp_path, {"schema": 2, "videos": []}, "x_report.json"))


def test_a_folder_is_read_for_its_one_report_and_else_its_one_result_file(tmp_path):
    with pytest.raises(UserError, match=r"holds no \*_report\.json"):
        find_results(tmp_path)
    path = foreign(tmp_path, {"color": [0.5, []]})
    assert find_results(tmp_path) == path
    written = write(tmp_path)
    assert find_results(tmp_path) == written.report_file
    foreign(tmp_path, {}, "other_report.json")
    with pytest.raises(UserError, match="2 files"):
        find_results(tmp_path)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("videos",), {}, "videos is {}, not a list"),
        (("videos", 0), "a", r"videos\[0\] is 'a', not an object"),
        (("videos", 0, "path"), 3, r"videos\[0\].path is 3, not text"),
        (("videos", 0, "prompt"), ["x"], r"prompt is \['x'\], not text"),
        (("videos", 0, "index"), "0", "index is '0', not a whole number"),
        (("videos", 0, "info"), "x", "info is 'x', not an object"),
        (("videos", 0, "info"), {"fps": "8"}, "info.fps is '8', not a number"),
        (("videos", 0, "measured"), [1], r"measured is \[1\], not an object"),
        (("videos", 0, "measured", "dynamic_degree"), 1, "measured.dynamic_degree is 1, not an object"),
        (("videos", 0, "measured", "dynamic_degree", "score"), "1", "score is '1', not a number"),
        (("videos", 0, "measured", "dynamic_degree", "weight"), {}, "weight is {}, not a number"),
        (("dimensions",), [1], r"dimensions is \[1\], not an object"),
        (("dimensions", "dynamic_degree"), "x", "dimensions.dynamic_degree is 'x', not an object"),
        (("dimensions", "dynamic_degree", "backbone"), 3, "backbone is 3, not an object or a name"),
        (("skipped",), [3], r"skipped\[0\] is 3, not an object"),
        (("profile",), 1, "profile is 1, not a name"),
        (("schema",), 99, "has schema 99"),
    ],
)
def test_a_report_of_another_shape_is_refused_at_its_place(tmp_path, place, value, said):
    path = write(tmp_path).report_file
    report = json.loads(path.read_text(encoding="utf-8"))
    inside = report
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    path.write_text(json.dumps(report))
    with pytest.raises(UserError, match=said):
        read_side("a", path)
