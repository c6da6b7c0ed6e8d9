"""Pairing, paired differences and warnings of comparisons, on reports made for the purpose."""

import json
import random
from statistics import fmean

import pytest

from tests.support.vbench_reports import measured, report, video
from vbench_eval.comparing import compare
from vbench_eval.errors import UserError
from vbench_eval.results import VideoRecord, write_results
from vbench_eval.statistics import holm, mcnemar, wilson


def suite(count=200, *, dynamic=0.45, consistency=0.914, spread=0.02, seed=0, **others):
    """A report of `count` prompts: exactly round(dynamic * count) dynamic videos, consistencies around a mean."""
    generator, videos = random.Random(seed), []
    for n in range(count):
        level = random.Random(n).gauss(0, spread)  # the same for every method: prompts differ, methods share them
        values = {
            "subject_consistency": consistency + level + generator.gauss(0, spread / 2),
            "dynamic_degree": n < round(dynamic * count),
            **{name: value + generator.gauss(0, 0.01) for name, value in others.items()},
        }
        videos.append(video(f"prompt {n}", **values))
    return report(videos)


def kinds(comparison):
    return [one.kind for one in comparison.warnings]


def row(comparison, name):
    return next(row for row in comparison.rows if row.name == name)


# pairing


def test_only_videos_that_every_method_has_are_compared_and_the_others_are_counted():
    a = report(video(p, n, imaging_quality=v) for p, n, v in (("x", 0, 0.5), ("x", 1, 0.9), ("y", 0, 0.1)))
    b = report(video(p, n, imaging_quality=v) for p, n, v in (("y", 0, 0.3), ("x", 0, 0.6), ("z", 0, 1.0)))
    found = row(compare({"a": a, "b": b}), "imaging_quality")
    assert found.keys == (("x", 0), ("y", 0))
    assert found.left_out == {"a": (("x", 1),), "b": (("z", 0),)}
    assert found.own["a"] == (pytest.approx(0.5), 3) and found.own["b"] == (pytest.approx(1.9 / 3), 3)
    assert found.means["a"].value == pytest.approx(0.3)
    assert found.differences["b"].interval.value == pytest.approx((0.6 + 0.3 - 0.5 - 0.1) / 2)


def test_a_video_without_a_value_in_one_dimension_still_counts_in_the_others():
    a = report(video(p, imaging_quality=0.5, aesthetic_quality=0.5) for p in "xy")
    b = report(
        video(p, imaging_quality=0.6, aesthetic_quality=v) for p, v in (("x", measured(0.6)), ("y", measured(None)))
    )
    found = compare({"a": a, "b": b})
    assert len(row(found, "imaging_quality").keys) == 2
    assert row(found, "aesthetic_quality").keys == (("x", 0),)
    assert row(found, "aesthetic_quality").left_out == {"a": (("y", 0),), "b": ()}


def test_the_papers_missing_video_is_noticed_and_the_shares_are_over_the_199_in_common():
    strong = report(video(str(n), dynamic_degree=n < 26) for n in range(199))
    w2sd = report(video(str(n), dynamic_degree=n >= 184) for n in range(200))
    found = row(compare({"strong": strong, "w2sd": w2sd}), "dynamic_degree")
    assert found.own == {"strong": (26 / 199, 199), "w2sd": (16 / 200, 200)}
    assert found.left_out["w2sd"] == (("199", 0),)
    assert found.means["w2sd"] == wilson(15, 199)
    assert found.differences["w2sd"].test.p == mcnemar(26, 15)


def test_decomposed_and_composed_prompts_are_the_same_prompt():
    a, b = (report([video(f"fa{c}ades", imaging_quality=0.5)]) for c in ("\u00e7", "c\u0327"))
    assert compare({"a": a, "b": b}).rows[0].keys == (("fa\u00e7ades", 0),)


def test_prompt_and_index_come_from_the_file_name_where_the_report_does_not_know_them():
    unknown = {**video("x", 3, path="clips/a fox-3.mp4", imaging_quality=0.5), "prompt": None, "index": None}
    found = compare({"a": report([unknown]), "b": report([video("a fox", 3, imaging_quality=0.6)])})
    assert found.rows[0].keys == (("a fox", 3),)


# differences


def test_the_first_label_is_the_baseline_and_every_other_is_measured_against_it():
    means = {"c": 0.3, "a": 0.5, "b": 0.2}
    found = compare(
        {k: report(video(str(n), imaging_quality=m + n / 100) for n in range(12)) for k, m in means.items()}
    )
    assert found.baseline == "c"
    gains = row(found, "imaging_quality").differences
    assert list(gains) == ["a", "b"]
    assert [gains[k].interval.value for k in "ab"] == pytest.approx([0.2, -0.1])
    assert gains["a"].test.p == pytest.approx(2 / 2**12)  # all twelve differ in one direction
    assert (gains["a"].wins.wins, gains["b"].wins.losses) == (12, 12)


def test_dynamic_degree_is_tested_by_mcnemar_on_the_pairs_that_disagree():
    a = report(video(str(n), dynamic_degree=n < 12) for n in range(50))
    b = report(video(str(n), dynamic_degree=n in range(2, 4) or n in (20, 21, 22)) for n in range(50))
    found = row(compare({"a": a, "b": b}), "dynamic_degree")
    assert found.yes_or_no
    assert (found.differences["b"].test.name, found.differences["b"].test.pairs) == ("McNemar", 13)
    assert found.differences["b"].test.p == mcnemar(10, 3)
    assert found.differences["b"].interval.value == pytest.approx((5 - 12) / 50)


def test_consistencies_weigh_videos_by_their_pairs_of_frames_where_the_report_says_so():
    def sides(rule):
        dimensions = {"subject_consistency": {"rule": rule}}
        one = video("x", subject_consistency=measured(0.9, weight=15), imaging_quality=measured(0.9, weight=15))
        two = video("y", subject_consistency=measured(0.5, weight=5), imaging_quality=measured(0.5, weight=5))
        return {k: report([one, two], dimensions=dimensions) for k in "ab"}

    weighted = compare(sides("mean over pairs of frames"))
    assert row(weighted, "subject_consistency").means["a"].value == pytest.approx((15 * 0.9 + 5 * 0.5) / 20)
    assert row(weighted, "imaging_quality").means["a"].value == pytest.approx(0.7)
    plain = compare(sides("mean over videos"))
    assert row(plain, "subject_consistency").means["a"].value == pytest.approx(0.7)


def test_several_samples_of_a_prompt_widen_the_interval_and_are_tested_by_prompt():
    generator = random.Random(1)
    gains = [generator.gauss(0.01, 0.05) for _ in range(30)]

    def sides(samples):
        base = report(video(str(n), i, imaging_quality=0.5) for n in range(30) for i in range(samples))
        ours = report(video(str(n), i, imaging_quality=0.5 + g) for n, g in enumerate(gains) for i in range(samples))
        return row(compare({"a": base, "b": ours}), "imaging_quality").differences["b"]

    one, five = sides(1), sides(5)
    assert (five.interval.low, five.interval.high) == pytest.approx((one.interval.low, one.interval.high))
    assert five.test.p == pytest.approx(one.test.p)
    assert (one.test.name, five.test.name) == ("Wilcoxon", "Wilcoxon, by prompt")


def test_holm_corrects_over_the_dimensions_of_one_method_and_proxies_apart():
    base, ours, third = (
        suite(40, seed=s, aesthetic_quality=0.5 + g, flow_dynamic=0.5 + g, contrast=0.2)
        for s, g in ((1, 0.0), (2, 0.004), (3, 0.0))
    )
    found = compare({"a": base, "b": ours, "c": third})
    for rows, count in ((found.official, 3), (found.proxies, 2)):
        assert len(rows) == count
        for label in "bc":
            raw = [each.differences[label].test.p for each in rows]
            assert [each.differences[label].p_holm for each in rows] == holm(raw)


def test_where_lower_is_better_the_lower_wins_and_where_neither_is_nobody_does():
    a, b = (report(video(str(n), warp_error=e, contrast=e) for n in range(4)) for e in (0.2, 0.1))
    found = compare({"a": a, "b": b})
    assert row(found, "warp_error").differences["b"].wins.rate.value == 1.0
    assert row(found, "contrast").differences["b"].wins is None


def test_comparing_twice_gives_the_same_numbers():
    sides = {"a": suite(30), "b": suite(30, consistency=0.93, seed=1)}
    assert compare(sides, seed=3).to_json() == compare(sides, seed=3).to_json() != compare(sides, seed=4).to_json()


# proxies


def test_a_proxy_under_an_official_name_comes_back_under_its_own():
    stand_in = [video(str(n), dynamic_degree=measured(True, backbone="proxy:flow_dynamic")) for n in range(3)]
    whole = {"dynamic_degree": {"backbone": "proxy:flow_dynamic"}}
    unmarked = report([video(str(n), dynamic_degree=False) for n in range(3)], dimensions=whole)
    found = compare({"a": report(stand_in), "b": unmarked})
    assert not found.official
    assert [each.name for each in found.proxies] == ["flow_dynamic"]
    assert set(found.to_json()["dimensions"]) == set() and set(found.to_json()["proxies"]) == {"flow_dynamic"}


def test_a_proxy_is_never_compared_with_the_official_dimension_it_stood_in_for():
    a = report([video("x", dynamic_degree=True, imaging_quality=0.5)])
    b = report([video("x", dynamic_degree=measured(True, backbone="proxy:flow_dynamic"), imaging_quality=0.5)])
    found = compare({"a": a, "b": b})
    assert set(row(found, "dynamic_degree").means) == {"a"} and not row(found, "dynamic_degree").differences
    assert set(row(found, "flow_dynamic").means) == {"b"}


def test_a_proxy_flow_in_the_place_of_raft_is_no_official_dimension_and_no_other_proxy():
    facts = {
        name: {"backbone": {"id": "proxy:horn-schunck"}} for name in ("dynamic_degree", "warp_error", "flow_dynamic")
    }
    side = report([video("x", dynamic_degree=True, warp_error=0.1, flow_dynamic=True)], dimensions=facts)
    found = compare({"a": side, "b": side})
    assert not found.official
    assert {each.name for each in found.proxies} == {"horn-schunck_for_dynamic_degree", "warp_error", "flow_dynamic"}


def test_dimensions_measured_by_different_backbones_are_left_out_and_by_other_files_pointed_out():
    def side(name, sha):
        facts = {"imaging_quality": {"backbone": {"id": name, "sha256": sha, "mode": "longer"}}}
        return report([video("x", imaging_quality=0.5, aesthetic_quality=0.5)], dimensions=facts)

    one = side("musiq", "1" * 64)
    assert {"backbones", "weights"}.isdisjoint(kinds(compare({"a": one, "b": one})))
    files = compare({"a": one, "b": side("musiq", "2" * 64)})
    assert "weights" in kinds(files) and len(files.rows) == 2
    nets = compare({"a": one, "b": side("tiny", "1" * 64)})
    assert "backbones" in kinds(nets) and [each.name for each in nets.rows] == ["aesthetic_quality"]


# sources


def written(folder, name, *records):
    return write_results(folder, name, records, dimensions={}, stamp={"profile": "vbench"}, videos_path="videos")


def test_folders_and_files_of_a_scored_run_give_what_the_report_itself_gives(tmp_path):
    made = {}
    for label, gain in (("a", 0.0), ("b", 0.05)):
        values = [measured(50 + n + 100 * gain, score=0.5 + n / 100 + gain) for n in range(12)]
        records = [
            VideoRecord(f"p{n}-0.mp4", f"p{n}", 0, measured={"imaging_quality": v}) for n, v in enumerate(values)
        ]
        made[label] = written(tmp_path / label, label, *records)
    of_reports = compare({k: one.report for k, one in made.items()})
    found = row(of_reports, "imaging_quality").differences["b"]
    assert found.interval.value == pytest.approx(0.05)
    for sources in (
        {k: tmp_path / k for k in made},
        {k: str(one.report_file) for k, one in made.items()},
        {k: one.eval_results for k, one in made.items()},  # VBench's layout: values in 0..100
    ):
        again = row(compare(sources), "imaging_quality")
        assert again.differences["b"].interval.value == pytest.approx(found.interval.value)
        assert again.differences["b"].test == found.test


def test_vbenchs_own_files_give_prompts_that_file_names_cannot_hold(tmp_path):
    prompt = 'a sign that reads "1/2"'
    record = VideoRecord("short~1a2b3c4d-0.mp4", prompt, 0, measured={"imaging_quality": measured(50)})
    made = written(tmp_path, "theirs", record)
    found = compare({"a": made.eval_results, "b": report([video(prompt, imaging_quality=0.6)])})
    assert found.rows[0].keys == ((prompt, 0),)


ONE = report([video("x", imaging_quality=0.5)])
TWICE = report([video("x", imaging_quality=0.5), video("x", imaging_quality=0.5, path="x-0.gif")])


@pytest.mark.parametrize(
    ("sides", "said"),
    [
        ({"a": ONE}, "at least two"),
        ({"a": ONE, "b": "nowhere"}, r"b: nowhere does not exist"),
        ({"a": ONE, "b": report([])}, r"b: .*no scores of single videos"),
        ({"a": ONE, "b": "."}, "holds no"),
        ({"a": ONE, " ": ONE}, "label is empty"),
        ({"a": ONE, "b": TWICE}, r"b: x-0\.mp4 and x-0\.gif are both 'x', index 0"),
        ({"a": ONE, "b": report([video("y", imaging_quality=0.5)])}, r"no video in common.*a: 'x'; b: 'y'"),
        ({"a": ONE, "b": {**ONE, "profile": "fixed"}}, r"different profiles \(a: vbench, b: fixed\)"),
    ],
)
def test_sources_that_cannot_be_compared_are_refused_by_name(tmp_path, monkeypatch, sides, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        compare(sides)


def test_the_json_of_a_comparison_is_strict_and_complete():
    single = {k: report([video("x", imaging_quality=0.5, dynamic_degree=True)]) for k in "ab"}
    data = json.loads(json.dumps(compare(single).to_json(), allow_nan=False))  # one prompt: limits are null, not NaN
    assert data["dimensions"]["imaging_quality"]["means"]["a"] == {"value": 0.5, "low": None, "high": None}
    assert data["baseline"] == "a" and data["settings"] == {"level": 0.95, "draws": 10_000, "seed": 0}
    found = suite(20)
    mean = fmean(one["measured"]["subject_consistency"]["score"] for one in found["videos"])
    row = compare({"a": found, "b": found}).to_json()["dimensions"]["subject_consistency"]
    assert row["means"]["a"]["value"] == pytest.approx(mean)
    assert row["differences"]["b"]["interval"] == {"value": 0, "low": 0, "high": 0}


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
    a = report(video(str(n), seed=n, imaging_quality=0.5) for n in range(9))
    b = report(video(str(n), seed=n + 1, imaging_quality=0.5) for n in range(5))
    found = compare({"a": a, "b": b})
    assert kinds(found) == ["left-out", "few-prompts", "seeds"]
    assert "4 of 9 videos of a" in found.warnings[0].text
    assert "5 of 5 pairs" in found.warnings[2].text
