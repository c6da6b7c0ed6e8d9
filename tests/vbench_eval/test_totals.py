"""The total score from result files, against VBench's formula written out."""

import json
import random
import re
import zipfile

import pytest

from tests.vbench_eval.test_aggregation import BOUNDS
from vbench_eval.aggregation import QUALITY
from vbench_eval.commands import main
from vbench_eval.errors import UserError
from vbench_eval.totals import read_total, write_total


def made_up(seed):
    draw = random.Random(seed)
    return {name: draw.uniform(*BOUNDS[name]) for name in BOUNDS}


def by_formula(values):
    def norm(name):
        low, high = BOUNDS[name]
        return (values[name] - low) / (high - low)

    quality = sum((0.5 if name == "dynamic_degree" else 1) * norm(name) for name in QUALITY) / 6.5
    semantic = sum(norm(name) for name in BOUNDS if name not in QUALITY) / 9
    return quality, semantic, (4 * quality + semantic) / 5


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(
            {name: [value, [{"video_path": "a-0.mp4", "video_results": value}]] for name, value in values.items()}
        )
    )
    return path


@pytest.mark.parametrize("seed", range(5))
def test_five_made_up_result_sets_in_several_files_give_the_formulas_total(tmp_path, seed):
    values = made_up(seed)
    names = list(BOUNDS)
    ours = write(tmp_path / "ours/a_eval_results.json", {name: values[name] for name in names[:9]})
    theirs = write(
        tmp_path / "theirs/r_eval_results.json", {name.replace("_", " "): values[name] for name in names[9:]}
    )
    total = read_total([ours, theirs.parent])
    found = total.to_json()
    assert total.official and total.verdict.startswith("official")
    for name, expected in zip(("quality", "semantic", "total"), by_formula(values), strict=True):
        assert found[name]["value"] == pytest.approx(expected, rel=0, abs=1e-12)
    _, archive = write_total(total, tmp_path, "merged")
    assert read_total([archive]).to_json()["total"] == found["total"]
    with zipfile.ZipFile(archive) as packed:  # as cal_final_score.py reads it: the first of every list
        (member,) = packed.namelist()
        assert {key: value[0] for key, value in json.loads(packed.read(member)).items()} == values


def test_what_is_missing_makes_it_partial_and_is_named(tmp_path, capsys):
    values = made_up(0)
    for name in ("object_class", "color"):
        del values[name]
    path = write(tmp_path / "r_eval_results.json", {**values, "sharpness": 3.0})
    assert main(["total", str(path), "--format", "json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "partial: over 14 of 16; missing object_class, color" and not found["official"]
    assert found["total"]["label"] == "total score over 14 of 16 (partial)" and found["status"] == "incomplete"
    assert main(["total", str(path), "--output", str(tmp_path / "merged")]) == 1
    said = capsys.readouterr().out
    assert "object_class" in said and "missing" in said and str(tmp_path / "merged" / "total.zip") in said


@pytest.mark.parametrize(
    ("report", "entry", "said"),
    [
        ({"profile": "fixed", "mode": "vbench_standard"}, {}, "with the profile fixed"),
        ({"profile": "vbench", "mode": "custom_input"}, {}, "in mode custom_input"),
        ({"profile": "vbench", "completeness": {"missing": ["x"], "expected": 5}}, {}, "lacks 1 of 5 videos"),
        ({}, {"backbone": "proxy:flow_dynamic"}, "color of .* is a proxy's"),
        ({"profile": "vbench", "stamp": {"long": "clips"}}, {}, r"over clips \(--long\)"),
    ],
)
def test_numbers_that_are_not_vbenchs_never_make_it_official(tmp_path, report, entry, said):
    path = write(tmp_path / "r_eval_results.json", made_up(1))
    data = json.loads(path.read_text())
    data["color"][1][0] |= entry
    path.write_text(json.dumps(data))
    (tmp_path / "r_report.json").write_text(json.dumps(report))
    total = read_total([path])
    assert not total.official and total.score.complete
    assert re.search(f"not official: .*{said}", total.verdict)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"imaging_quality": [61.2, []]}, "imaging_quality is 61.2, not a number of VBench's from 0 to 1"),
        ({"color": [None, []]}, "color is None"),
        ({"sharpness": [1, []]}, "none of VBench's dimensions"),
        ([1], "is a list"),
        ({"schema": 1, "videos": []}, "is a report or manifest"),
    ],
)
def test_files_that_hold_no_results_are_refused(tmp_path, content, said):
    path = tmp_path / "r_eval_results.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=said):
        read_total([path])


def test_two_numbers_for_one_dimension_are_refused_and_equal_ones_are_one(tmp_path):
    one, same = (write(tmp_path / f"{name}_eval_results.json", {"color": 0.5}) for name in "ab")
    assert read_total([one, same]).aggregates["color"] == 0.5
    other = write(tmp_path / "c_eval_results.json", {"color": 0.25})
    with pytest.raises(UserError, match=r"color is 0.5 in .* and 0.25 in .*give one"):
        read_total([one, other])
    with pytest.raises(UserError, match="holds no"):
        read_total([write(tmp_path / "empty/other.json", {}).parent])
    (tmp_path / "bad.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match="zip file"):
        read_total([tmp_path / "bad.zip"])


VBENCH_2 = {  # by category, as VBench-2.0's script lists them
    "creativity": "Composition Diversity",
    "commonsense": "Instance_Preservation Motion_Rationality",
    "controllability": "Camera_Motion Complex_Landscape Complex_Plot Dynamic_Attribute Dynamic_Spatial_Relationship "
    "Human_Interaction Motion_Order_Understanding",
    "human fidelity": "Human_Anatomy Human_Clothes Human_Identity",
    "physics": "Material Mechanics Multi-View_Consistency Thermotics",
}


def test_vbench_2s_total_is_the_mean_of_its_categories_and_says_what_is_missing(tmp_path, capsys):
    draw = random.Random(4)
    values = {name: draw.random() for names in VBENCH_2.values() for name in names.split()}
    path = write(tmp_path / "a_eval_results.json", {name.replace("_", " "): value for name, value in values.items()})
    assert main(["total", "--suite", "vbench-2.0", str(path), "--format", "json"]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    means = {kind: sum(values[n] for n in names.split()) / len(names.split()) for kind, names in VBENCH_2.items()}
    for kind, mean in means.items():
        assert scores[kind]["value"] == pytest.approx(mean, abs=1e-12) and scores[kind]["complete"]
    assert scores["total"]["value"] == pytest.approx(sum(means.values()) / 5, abs=1e-12)
    part = write(tmp_path / "part" / "b_eval_results.json", {"Diversity": 0.25, "color": 0.5})
    assert main(["total", "--suite", "vbench-2.0", str(part)]) == 1
    said = capsys.readouterr().out
    assert "creativity score over 1 of 2 (partial): 25.00" in said and "missing: Composition, Instance" in said
    for content in ({"color": 0.5}, {"Diversity": 25.0}):
        bad = write(tmp_path / "bad" / "c_eval_results.json", content)
        assert main(["total", "--suite", "vbench-2.0", str(bad)]) == 2
        assert "VBench-2.0" in capsys.readouterr().err
