"""The result files are VBench's, key by key, and those of any origin are read for what they say."""

import json
import math
import os
import random
from datetime import datetime

import numpy as np
import pytest

from vbench_eval.comparing import read_side
from vbench_eval.dimensions import Measured
from vbench_eval.errors import UserError
from vbench_eval.files import cleaned, write_json, write_text
from vbench_eval.manifest import sample
from vbench_eval.results import (
    VideoRecord,
    check_name,
    default_name,
    find_results,
    read_report,
    read_results,
    write_results,
)
from vbench_eval.suite import read_suite

STAMP = {"profile": {"name": "vbench", "antialias": False}, "versions": {"torch": "2.13"}}
CUT = ("subject_consistency", "background_consistency", "dynamic_degree", "imaging_quality")


def measured(pairs=15, mean=0.9, moves=True, quality=64.0):
    return {
        "subject_consistency": Measured(mean, mean, pairs, {"acc_min_sim": 0.1}).as_json(),
        "background_consistency": Measured(
            mean, mean, pairs, {"video_sim": mean * pairs, "cnt_per_video": pairs}
        ).as_json(),
        "dynamic_degree": Measured(moves, float(moves), extras={"max_flow": [1.0]}).as_json(),
        "imaging_quality": Measured(quality, quality / 100).as_json(),
        "frozen_frames": Measured(0.25, 0.25).as_json(),
    }


def records():
    return [
        VideoRecord("b-0.mp4", "b", 0, {"fps": 8.0}, measured(3, 0.5, False, 40.0)),
        VideoRecord("a-0.mp4", "a", 0, {"fps": 8.0}, measured()),
    ]


def write(folder, given=None, **changes):
    arguments = {"dimensions": {key: {} for key in CUT}, "stamp": STAMP, "videos_path": "videos/w2sd", **changes}
    return write_results(folder, "run", records() if given is None else given, **arguments)


def load(path):
    def refuse(name):
        raise AssertionError(f"{name} in {path}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_eval_results_hold_vbenchs_keys_and_no_others(tmp_path):
    found = load(write(tmp_path).eval_results)
    a, b = (os.path.join("videos/w2sd", name) for name in ("a-0.mp4", "b-0.mp4"))
    mean = pytest.approx((15 * 0.9 + 3 * 0.5) / 18)
    first = {"video_path": a, "video_results": 0.9, "video_sim": pytest.approx(13.5), "cnt_per_video": 15}
    second = {"video_path": b, "video_results": 0.5, "video_sim": 1.5, "cnt_per_video": 3}
    assert found == {
        "subject_consistency": [mean, [video(a, 0.9), video(b, 0.5)]],
        "background_consistency": [mean, [first, second]],
        "dynamic_degree": [0.5, [video(a, True), video(b, False)]],
        "imaging_quality": [pytest.approx(0.52), [video(a, 64.0), video(b, 40.0)]],
    }
    assert [type(entry["video_results"]) for entry in found["dynamic_degree"][1]] == [bool, bool]
    assert list(found["background_consistency"][1][0]) == list(first)


def test_the_files_are_named_and_laid_out_as_by_vbench(tmp_path):
    written = write(tmp_path, [VideoRecord("façade-0.mp4", "façade", 0, {}, measured())])
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "run_eval_results.json",
        "run_full_info.json",
        "run_report.json",
    ]
    for path in (written.eval_results, written.full_info):
        text = path.read_bytes().decode("ascii")  # its names are escaped
        assert text == json.dumps(json.loads(text), indent=4)
        assert "fa\\u00e7ade" in text
    assert "façade" in written.report_file.read_text(encoding="utf-8")  # ours is for people


def test_full_info_of_custom_videos_names_prompt_dimensions_and_one_path_each(tmp_path):
    nameless = VideoRecord("c d-7.mp4", None, None, {}, {}, "empty file")
    names = {"a": "a-0.mp4", "b": "b-0.mp4", "c d": "c d-7.mp4"}
    assert load(write(tmp_path, [*records(), nameless]).full_info) == [
        {"prompt_en": prompt, "dimension": list(CUT), "video_list": [os.path.join("videos/w2sd", name)]}
        for prompt, name in names.items()
    ]


def test_full_info_of_the_standard_suite_is_its_entries_with_the_videos_found(tmp_path):
    suite = read_suite("sample")
    manifest = sample(suite, ["scene", "imaging_quality"])
    given = [
        VideoRecord(f"{prompt}-{index}.mp4", prompt, index, {}, measured())
        for prompt in ("a yellow square moving right", "a cyan ring moving up", "a red ring moving left")
        for index in (10, 1, 0)
    ]
    found = load(
        write(tmp_path, given, mode="vbench_standard", manifest=manifest, dimensions={"imaging_quality": {}}).full_info
    )
    with_video_list = [
        {**entry, "video_list": [f"videos/w2sd/{entry['prompt_en']}-{index}.mp4" for index in indices]}
        for prompt in suite.prompts
        if "imaging_quality" in prompt.dimensions
        for entry in prompt.entries
        for indices in [(0, 1) if entry["prompt_en"] == "a cyan ring moving up" else ()]
    ]
    # the scene's prompts are in it because background_consistency was measured
    scene = [entry for entry in found if "scene" in entry["dimension"]]
    assert [entry for entry in found if entry not in scene] == with_video_list
    assert scene[0]["video_list"] == [f"videos/w2sd/a yellow square moving right-{index}.mp4" for index in (0, 1)]
    assert scene[0]["auxiliary_info"] == {"scene": {"scene": {"scene": "dark ground"}}}


def test_the_video_list_of_an_entry_is_in_the_order_of_the_indices(tmp_path):
    manifest = sample(read_suite("sample"), ["imaging_quality"])
    prompt = manifest.prompts[0].prompt
    given = [VideoRecord(name, prompt, index, {}, measured()) for name, index in (("b.mp4", 0), ("a.mp4", 1))]
    found = load(write(tmp_path, given, mode="vbench_standard", manifest=manifest).full_info)
    assert found[0]["video_list"] == [os.path.join("videos/w2sd", name) for name in ("b.mp4", "a.mp4")]


def test_in_standard_mode_a_video_counts_for_its_own_dimensions_and_the_first_five_indices(tmp_path):
    cyan, red = "a cyan ring moving up", "a red ring moving left"
    qualities = {(cyan, 0): 80.0, (cyan, 5): 10.0, (red, 0): 20.0, ("surplus", 0): 30.0}
    given = [VideoRecord(f"{p}-{i}.mp4", p, i, {}, measured(quality=quality)) for (p, i), quality in qualities.items()]
    written = write(tmp_path, given, mode="vbench_standard", manifest=sample(read_suite("sample")))
    found = load(written.eval_results)
    assert found["imaging_quality"] == [0.8, [video(os.path.join("videos/w2sd", f"{cyan}-0.mp4"), 80.0)]]
    assert [one["video_path"] for one in found["dynamic_degree"][1]] == [f"videos/w2sd/{red}-0.mp4"]
    assert "background_consistency" not in found and len(load(written.report_file)["videos"]) == 4


def test_the_files_do_not_depend_on_the_order_in_which_videos_were_finished(tmp_path):
    given = [
        VideoRecord(f"{n}.mp4", str(n), 0, {}, measured(n + 1, 0.7 / (n + 1), n % 2 == 0, 10 / 3 * n)) for n in range(9)
    ]
    first = write(tmp_path / "first", given)
    random.Random(0).shuffle(given)
    second = write(tmp_path / "second", given)
    for name in ("eval_results", "full_info", "report_file"):
        assert getattr(first, name).read_bytes() == getattr(second, name).read_bytes()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_a_number_that_is_none_becomes_null_with_a_reason(tmp_path, number):
    broken = {**measured(), "imaging_quality": Measured(number, number).as_json()}
    given = [VideoRecord("a-0.mp4", "a", 0, {"fps": number, "colour": {"x": [number]}}, broken), records()[0]]
    written = write(tmp_path, given, stamp={**STAMP, "seconds": number})
    aggregate, entries = load(written.eval_results)["imaging_quality"]
    assert aggregate == pytest.approx(0.4)  # of the other video alone
    assert [entry["video_results"] for entry in entries] == [None, 40.0]
    report = load(written.report_file)
    assert report["videos"][0]["measured"]["imaging_quality"]["reason"].startswith("imaging_quality.value was ")
    assert report["videos"][0]["info"] == {"fps": None, "colour": {"x": [None]}}
    assert report["dimensions"]["imaging_quality"]["videos"] == 1
    assert report["not_finite"] == [f"stamp.seconds was {float(number)}"]


def test_a_dimension_without_any_value_is_in_the_report_with_its_reason_and_nowhere_else(tmp_path):
    one_frame = Measured(None, None, reason="it has one frame").as_json()
    given = [VideoRecord("a-0.mp4", "a", 0, {}, {"subject_consistency": one_frame})]
    lacking = {"status": "unavailable", "reason": "amt-s.pth is missing", "backbone": None}
    written = write(tmp_path, given, dimensions={"subject_consistency": {}, "motion_smoothness": lacking})
    assert load(written.eval_results) == {}
    report = load(written.report_file)
    assert report["dimensions"]["motion_smoothness"] == {
        **lacking,
        "aggregate": None,
        "rule": "mean over videos",
        "videos": 0,
    }
    assert report["dimensions"]["subject_consistency"]["aggregate"] is None
    assert report["videos"][0]["measured"]["subject_consistency"]["reason"] == "it has one frame"


def test_proxies_stay_out_of_eval_results_unless_they_stand_in_and_then_say_so(tmp_path):
    proxy = Measured(0.97, 0.97, extras={"backbone": "proxy:interp_smoothness_linear", "note": 1}).as_json()
    given = [VideoRecord("a-0.mp4", "a", 0, {}, {**measured(), "motion_smoothness": proxy})]
    written = write(tmp_path, given)
    found, report = load(written.eval_results), load(written.report_file)
    marked = video("videos/w2sd/a-0.mp4", 0.97, backbone="proxy:interp_smoothness_linear")
    assert "frozen_frames" not in found and found["motion_smoothness"][1] == [marked]
    assert report["dimensions"]["frozen_frames"]["aggregate"] == 0.25
    assert "motion_smoothness" in report["scores"]["quality"]["missing"]
    assert "motion_smoothness" not in report["scores"]["normalised"]


def test_videos_that_could_not_be_read_are_listed_with_their_reason_and_change_no_number(tmp_path):
    bad = VideoRecord("0 bad-0.mp4", "0 bad", 0, {}, {}, "it holds no frame")
    with_bad = load(write(tmp_path / "with", [*records(), bad]).eval_results)
    assert with_bad == load(write(tmp_path / "without").eval_results)
    report = load(tmp_path / "with" / "run_report.json")
    assert report["skipped"] == [{"path": "0 bad-0.mp4", "reason": "it holds no frame"}]


def test_the_report_says_what_the_numbers_depend_on_and_labels_partial_scores(tmp_path):
    written = write(tmp_path, dimensions={"imaging_quality": {"status": "measured", "backbone": {"sha256": "abc"}}})
    report = load(written.report_file)
    assert (report["profile"], report["folder"], report["mode"]) == ("vbench", "videos/w2sd", "custom_input")
    assert report["stamp"] == STAMP
    assert report["dimensions"]["imaging_quality"]["backbone"] == {"sha256": "abc"}
    assert report["dimensions"]["subject_consistency"]["rule"] == "mean over pairs of frames"
    quality = report["scores"]["quality"]
    consistency = (15 * 0.9 + 3 * 0.5) / 18
    by_hand = ((consistency - 0.1462) / 0.8538 + (consistency - 0.2615) / 0.7385 + 0.5 * 0.5 + 0.52) / 3.5
    assert quality["value"] == pytest.approx(by_hand) and quality["label"] == "quality score over 4 of 7 (partial)"
    assert report["scores"]["total"]["value"] is None
    assert report == read_report(tmp_path) == written.report


@pytest.mark.parametrize("name", ["", "a/b", "results_2026-01-01-10:00:00", ".hidden", "a\nb", " a", "a\\b"])
def test_a_name_that_cannot_begin_a_file_name_is_refused_and_vbenchs_has_no_colons(name):
    with pytest.raises(UserError, match="the run's name"):
        check_name(name)
    own = default_name(datetime(2026, 3, 4, 5, 6, 7))
    assert check_name(own) == own == "results_2026-03-04-05-06-07"


def test_standard_mode_needs_to_know_the_prompts_and_every_run_its_profile(tmp_path):
    with pytest.raises(UserError, match="vbench_standard with a prompt suite or manifest"):
        write(tmp_path, mode="vbench_standard")
    with pytest.raises(UserError, match="mode is 'long'"):
        write(tmp_path, mode="long")
    with pytest.raises(UserError, match="names no profile"):
        write(tmp_path, stamp={})
    with pytest.raises(UserError, match="profile is 'exact'"):
        write(tmp_path, stamp={"profile": "exact"})
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1} and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"new": math.nan})
    assert json.loads(path.read_text()) == {"old": 1} and list(tmp_path.iterdir()) == [path]
    write_text(path, "ü\n")
    assert path.read_bytes() == b"\xc3\xbc\n"


def test_cleaning_keeps_json_as_it_is_and_names_the_place_of_what_is_not():
    plain = {"a": [1, 2.5, True, None, "x", {"b": []}]}
    assert cleaned(plain) == (plain, [])
    assert cleaned({"a": (np.float32(0.5), np.int64(3), np.bool_(True), math.nan)}) == (
        {"a": [0.5, 3, True, None]},
        ["a[3] was nan"],
    )
    assert type(cleaned(np.bool_(True))[0]) is bool
    with pytest.raises(TypeError, match=r"a\.b is set"):
        cleaned({"a": {"b": {1}}})


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


def test_a_sum_over_an_unknown_number_of_pairs_is_refused_as_ambiguous(tmp_path):
    for key in ("v/a-0.mp4", "a-0.mp4"):
        found = read_results(foreign(tmp_path, old_file()), pairs={key: 15})
        assert found["subject_consistency"][1] == {"v/a-0.mp4": pytest.approx(0.732)}
    with pytest.raises(UserError, match=r"10\.98, a sum over pairs of frames.*does not say over how many"):
        read_results(foreign(tmp_path, old_file()))
    with pytest.raises(UserError, match="which no 10 pairs of frames can give"):
        read_results(foreign(tmp_path, old_file()), pairs={"a-0.mp4": 10})


def test_one_sum_makes_every_value_of_its_list_a_sum_and_a_mean_lifted_above_1_stays_a_mean(tmp_path):
    # 0.8 over 2 pairs is a mean of 0.4: small, but no mean of its own beside a sum
    videos = [video("a-0.mp4", 10.98, cnt_per_video=15), video("b-0.mp4", 0.8, cnt_per_video=2)]
    found = read_results(foreign(tmp_path, {"subject_consistency": [0.7, videos]}))["subject_consistency"][1]
    assert found == {"a-0.mp4": pytest.approx(0.732), "b-0.mp4": pytest.approx(0.4)}
    rounded = {"subject_consistency": [1.0000002, [video("a-0.mp4", 1.0000002)]]}
    assert read_results(foreign(tmp_path, rounded))["subject_consistency"][1] == {"a-0.mp4": 1.0000002}


def test_score_tables_with_spaces_and_without_videos_are_read(tmp_path):
    path = foreign(tmp_path, {"subject consistency": [0.9], "scene": 0.5, "color": [0.25, []]})
    assert read_results(path) == {"subject_consistency": (0.9, {}), "scene": (0.5, {}), "color": (0.25, {})}


def test_nan_and_infinity_in_foreign_files_are_no_numbers(tmp_path):
    one = '"%s": [%s, [{"video_path": "a-0.mp4", "video_results": %s}]]'
    text = "{" + ", ".join((one % ("color", "NaN", "Infinity"), one % ("scene", "1e999", "-Infinity"))) + "}"
    path = foreign(tmp_path, text)
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
