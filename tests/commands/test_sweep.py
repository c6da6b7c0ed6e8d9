"""Sweeps of one setting: the values, what is made for each, the scores, the curve, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import disk_pairs, tiny_loras
from tests.support.family_programs import image_request, planned
from vbench_eval.statistics import difference_interval, mean_interval
from w2sd_video.commands import making
from w2sd_video.commands.lora_flags import LoraFlag
from w2sd_video.commands.sweep.program import main as sweep
from w2sd_video.commands.sweep.scoring import find_scorer, oracle_score, proxy
from w2sd_video.commands.sweep.settings import read_axis
from w2sd_video.errors import UserError
from w2sd_video.runs.picture_io import read_picture, write_picture

SCORER = "def brightness(frames, prompt):\n    'Mean of the pixels.'\n    return frames.mean() + len(prompt)\n"
QUICK = ["--steps", "3", "--reflections", "2", "--height", "16", "--width", "16", "--device", "cpu", "--guidance", "3"]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sweep")
    pipe = disk_pairs.sdxl(1)
    pipe.save_pretrained(root / "sdxl")
    modules = [name for name, _ in pipe.unet.named_modules() if name.endswith(("to_q", "to_v"))]
    tiny_loras.kohya_file(root / "lora.safetensors", pipe.unet, modules, alpha=40.0)
    (root / "bright.py").write_text(SCORER)
    return root


def run(disk: Path, output: Path, own: list[str], *inner: str, code: int = 0) -> dict[str, Any]:
    """The report of a sweep of two prompts, read back from its folder."""
    scorer = ["--scorer", f"{disk / 'bright.py'}:brightness", "--quiet", "--output", str(output)]
    words = [*QUICK, "--strong", str(disk / "sdxl"), "--prompt", "a cat", "--prompt", "a dog!"]
    assert sweep([*own, *scorer, "--", *words, *inner]) == code
    return json.loads((output / "sweep.json").read_text())


@pytest.mark.parametrize(("inner", "said"), ((["--reflections", "3"], True), (["--steps", "4"], False)))
def test_a_value_of_the_swept_setting_is_said_to_be_unused(
    inner: list[str], said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(["--setting", "lambda", "--values", "0,1", "--dry-run", "--", *inner]) == 0
    assert ("lambda is swept, so the 3 that stands after the -- is not used" in capsys.readouterr().err) == said


def means(report: dict[str, Any], method: str) -> list[float]:
    return [row["mean"]["value"] for row in report["methods"][method]]


def test_a_sweep_has_a_run_for_each_value_and_one_for_what_the_setting_does_not_change(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Any] = []
    load = making.load_pair
    monkeypatch.setattr(making, "load_pair", lambda *args, **told: loads.append(args) or load(*args, **told))
    report = run(disk, tmp_path / "out", ["--setting", "weak-guidance", "--values=-10,0,3"])
    assert len(loads) == 1, "all runs have one pair in memory"
    alone = run(disk, tmp_path / "alone", ["--setting", "weak-guidance", "--values=0"])
    assert means(alone, "w2sd") == means(report, "w2sd")[1:2]
    assert [row["value"] for row in report["methods"]["w2sd"]] == [-10, 0, 3]
    assert [row["value"] for row in report["methods"]["strong"]] == [None]
    for method, rows in report["methods"].items():
        for row in rows:
            folder = tmp_path / "out" / report["folders"][str(row["value"])]
            made = "zero-gap" if (method, row["value"]) == ("w2sd", 3) else method
            scores = [
                read_picture(folder / made / f"{prompt}-0.png").pixels.mean() + len(prompt)
                for prompt in ("a cat", "a dog!")
            ]
            assert row["mean"]["value"] == pytest.approx(np.mean(scores)) and row["count"] == 2
            assert row["mean"]["low"] <= row["mean"]["value"] <= row["mean"]["high"]
    (strong,) = means(report, "strong")
    differences = [row["over_strong"]["value"] for row in report["methods"]["w2sd"]]
    assert differences == pytest.approx([value - strong for value in means(report, "w2sd")])
    assert len(set(means(report, "w2sd"))) == 3
    page = (tmp_path / "out" / "index.html").read_text()
    assert "curve.png" in page and "weak-guidance%20-10/index.html" in page
    assert Image.open(tmp_path / "out" / "curve.png").size[0] > 300


def test_plans_that_need_other_models_are_told_apart_from_those_that_call_them_otherwise() -> None:
    one = planned(image_request())
    other = planned(
        image_request(strength=2.0, steps=9, guidance=3.0, weak_guidance=0.5, seed=4, prompts=("a red ring",))
    )
    assert one != other and one.as_loaded() == other.as_loaded()
    for change in ({"negative_prompt": "blue"}, {"dtype": "bfloat16"}, {"weak_skip_layers": ("3",)}):
        assert planned(image_request(**change)).as_loaded() != one.as_loaded(), change


@pytest.mark.slow  # runs that are killed go on in tests/runs; the next test reuses values
def test_a_stopped_sweep_goes_on_and_values_may_be_added(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ["--setting", "lambda", "--values", "0,2"]
    first = run(disk, tmp_path / "out", own, "--weak-guidance", "0")
    assert means(first, "w2sd")[0] == means(first, "strong")[0], "without reflections W2SD is the strong side"
    calls: list[str] = []
    make = making.LoadedSides.make
    monkeypatch.setattr(
        making.LoadedSides, "make", lambda self, task, say: calls.append(task[0].path) or make(self, task, say)
    )
    assert run(disk, tmp_path / "out", own, "--weak-guidance", "0")["methods"] == first["methods"] and calls == []
    more = run(disk, tmp_path / "out", ["--setting", "lambda", "--values", "0,1,2"], "--weak-guidance", "0")
    assert len(calls) == 2 and [means(more, "w2sd")[k] for k in (0, 2)] == means(first, "w2sd")


def test_a_file_that_was_replaced_is_made_again_and_a_torn_line_is_no_score(disk: Path, tmp_path: Path) -> None:
    own = ["--setting", "strength", "--values", "1"]
    first = run(disk, tmp_path / "out", own, "--weak-guidance", "0")
    folder = tmp_path / "out" / "strength 1"
    write_picture(folder / "w2sd" / "a cat-0.png", np.zeros((16, 16, 3), np.uint8))
    with (folder / "scores.jsonl").open("a") as file:
        file.write('{"scorer": "or')
    assert run(disk, tmp_path / "out", own, "--weak-guidance", "0")["methods"] == first["methods"]


def test_a_sweep_of_steps_samples_the_strong_side_anew(disk: Path, tmp_path: Path) -> None:
    inner = ("--weak-guidance", "0", "--reflections", "1")
    report = run(disk, tmp_path / "out", ["--setting", "T", "--values", "2,3"], *inner)
    assert len(set(means(report, "w2sd"))) == len(report["methods"]["strong"]) == 2


@pytest.mark.parametrize(
    ("setting", "values", "found"),
    [
        ("mode", "paper,fused", [{"mode": "paper"}, {"mode": "fused"}]),
        ("strength", "0.5:1.5:0.5", [{"strength": 0.5}, {"strength": 1.0}, {"strength": 1.5}]),
        ("every", "1,2", [{"every": 1}, {"every": 2}]),
        ("window-end", "0.3,1", [{"window": (0.1, 0.3)}, {"window": (0.1, 1.0)}]),
        ("lambda", "6,8", [{"num_reflections": 6}, {"num_reflections": 8}]),
    ],
)
def test_each_value_is_a_setting_of_the_reflection(setting: str, values: str, found: list[dict[str, Any]]) -> None:
    axis, request = read_axis(setting, values), image_request(window=(0.1, 0.4))
    reflections = [planned(axis.at(request, value)).reflection for value in axis.values]
    assert [
        {name: getattr(one, name) for name in known} for one, known in zip(reflections, found, strict=True)
    ] == found


def test_a_lora_sweep_passes_through_no_gap_where_w2sd_is_its_own_control(disk: Path, tmp_path: Path) -> None:
    words = ("--lora", f"a={disk / 'lora.safetensors'}:0.8", "--methods", "w2sd,zero-gap")
    report = run(disk, tmp_path / "out", ["--setting", "weak-lora", "--values=-1.5,0.8"], *words)
    assert means(report, "w2sd")[1] == means(report, "zero-gap")[0] != means(report, "w2sd")[0]


def test_the_oracle_counts_pictures_that_show_what_their_prompt_says() -> None:
    import torch

    from w2sd_video.demo import PICTURE_CAPTIONS, parse_picture_caption, world

    made = world.random_frames(40, torch.Generator().manual_seed(1))
    frames = (made.frames[:, :1] * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).numpy()
    right = [
        PICTURE_CAPTIONS[[parse_picture_caption(c) for c in PICTURE_CAPTIONS].index((int(a), int(b)))]
        for a, b, *_ in made.attributes
    ]
    assert np.mean([oracle_score(f, text) for f, text in zip(frames, right, strict=True)]) > 0.95
    wrong = [PICTURE_CAPTIONS[(PICTURE_CAPTIONS.index(text) + 5) % 24] for text in right]  # another colour and shape
    assert np.mean([oracle_score(f, text) for f, text in zip(frames, wrong, strict=True)]) < 0.05
    with pytest.raises(UserError, match="the toy world only"):
        oracle_score(frames[0], "a corgi")


def test_proxies_of_the_evaluation_are_scorers_by_name() -> None:
    frames = np.zeros((3, 16, 16, 3), np.uint8)
    assert proxy("contrast")(frames, "black") == 0
    frames[:, :, :8] = 255
    assert proxy("contrast")(frames, "half") == pytest.approx(0.5), "standard deviation of two halves, 0 and 1"


def test_intervals_treat_the_prompt_as_the_unit() -> None:
    values, prompts = [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0], ["a", "a", "b", "b", "c", "c", "d", "d"]
    clustered, alone = mean_interval(values, prompts), mean_interval(values, list("abcdefgh"))
    assert clustered.value == alone.value == 0.5
    assert clustered.high - clustered.low > alone.high - alone.low  # type: ignore[operator]
    same = difference_interval(values, values, prompts)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_a_threshold_of_the_reward_is_swept_for_the_method_that_has_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["--setting", "reward-threshold", "--values", "0,1", "--dry-run", "--format", "json"]
    assert sweep([*words, "--", "--num-pictures", "1", "--prompt", "a red ring"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [list(run["methods"]) for run in report["runs"]] == [["strong"], ["w2sd-auto"], ["w2sd-auto"]]
    assert [run["evaluations"] for run in report["runs"]] == [20, 50, 50], "T 20, and T + 3 lambda"
    assert sweep([*words, "--", "--methods", "w2sd"]) == 2
    assert "--reward-threshold is given, and none of the methods" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "values", "found"),
    [
        ("lambda", "0:10:5", (0, 5, 10)),
        ("lambda", "3,1,3", (3, 1)),
        ("weak-guidance", "-1:0:0.1", tuple(round(-1 + 0.1 * k, 12) for k in range(11))),
        ("weak-guidance", "2:-2:-2", (2.0, 0.0, -2.0)),
        ("mode", "fused, paper", ("fused", "paper")),
        ("weak-lora:style", "-1.5", (-1.5,)),
    ],
)
def test_grids_have_both_ends_and_no_value_twice(setting: str, values: str, found: tuple[Any, ...]) -> None:
    axis = read_axis(setting, values)
    assert axis.values == found and axis.label == setting.replace(":", " ")


def test_a_swept_lora_keeps_its_file_and_the_other_loras() -> None:
    request = image_request(weak_loras=(LoraFlag("a", "file", 1.0), LoraFlag("b", None, 2.0)))
    swept = read_axis("weak-lora:a", "-3").at(request, -3.0)
    assert set(swept.weak_loras) == {LoraFlag("a", "file", -3.0), LoraFlag("b", None, 2.0)}
    with pytest.raises(UserError, match=r"2 LoRAs .*weak-lora:NAME"):
        read_axis("weak-lora", "-3").at(request, -3.0)
    preset = read_axis("weak-lora", "-3").at(image_request(preset="lora-sdxl"), -3.0)
    assert preset.weak_loras == (LoraFlag("xlMoreArtFullV1", None, -3.0),)


@pytest.mark.parametrize(
    ("body", "said"),
    [("return 'good'", "returned 'good'"), ("return 1 / 0", "failed: ZeroDivisionError"), ("exit(3)", "SystemExit")],
)
def test_a_scorer_must_return_a_number(body: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(f"def bad(frames, prompt):\n    {body}\n")
    with pytest.raises(UserError, match=said):
        find_scorer(f"{tmp_path / 'bad.py'}:bad")(np.zeros((1, 8, 8, 3), np.uint8), "a")


def test_the_plan_of_a_sweep_says_what_it_costs(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--setting", "lambda", "--values", "0,10", "--dry-run", "--format", "json", "--videos"]
    assert sweep([*words, "--", "--preset", "wan21-guidance", "--prompt", "a fox"]) == 0
    wan = json.loads(capsys.readouterr().out)
    assert [run["evaluations"] for run in wan["runs"]] == [28, 28, 48] and wan["runs"][0]["videos"] == 1
    assert sweep(words) == 0
    report = json.loads(capsys.readouterr().out)
    prompts = report["runs"][0]["videos"]
    assert [run["evaluations"] for run in report["runs"]] == [20 * prompts, 20 * prompts, 40 * prompts]
    assert report["evaluations"] == 80 * prompts


def test_a_scorer_of_the_users_own_is_known_by_its_file(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("def score(frames, prompt):\n    return 1\n")
    before = find_scorer(f"{mine}:score").source
    assert find_scorer(f"{mine}:score").source == before != ""
    mine.write_text("def score(frames, prompt):\n    return 2\n")
    assert find_scorer(f"{mine}:score").source != before, "scores of the old file are not taken for its own"
    assert find_scorer("oracle").source == ""
