"""Folders of pictures scored by the image metrics, beside a baseline, and what is refused or left out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.support import vbench_image_networks as nets
from vbench_eval.backbones.finding import Unavailable
from vbench_eval.commands import images
from vbench_eval.commands.arguments import Parser
from vbench_eval.errors import UserError
from vbench_eval.images import IMAGE_METRICS, frechet, inception, reward, score_images, scoring
from vbench_eval.images.mps import load_mps
from vbench_eval.images.rewards import REWARDS
from vbench_eval.images.scoring import against, pairs_of
from vbench_eval.images.sources import Sources, read_gallery

NAMES = ["a cat-0.png", "a cat-1.png", "a dog-0.png"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(nets.save_clip(nets.clip(1), tmp_path_factory.mktemp("clip") / "saved"))


class Brightness:
    """A reward that is known by hand: the mean of a picture, plus the length of its prompt."""

    name = "pickscore"

    def __call__(self, pictures: Any, prompts: Any) -> Tensor:
        return torch.tensor([float(np.asarray(p).mean()) + len(t) for p, t in zip(pictures, prompts, strict=True)])

    def provenance(self) -> dict[str, Any]:
        return {"id": "brightness"}


@pytest.fixture
def bright(monkeypatch):
    table: Mapping[str, Any] = {**REWARDS, "pickscore": ("pickscore", lambda sources: Brightness())}
    monkeypatch.setattr(scoring, "REWARDS", table)


def grey(*values: int, size: int = 8) -> list[Image.Image]:
    return [Image.new("RGB", (size, size), (value,) * 3) for value in values]


# -- a folder --------------------------------------------------------------------------------------------------------


def test_a_folder_has_the_mean_of_what_rewards_say_of_its_pictures(clip, tmp_path):
    given = nets.pictures(3)
    nets.save_pictures(given, tmp_path / "made", NAMES)
    weights = {"clip_vit_b_32": clip, "pickscore": clip}
    report = score_images(tmp_path / "made", metrics=["pickscore,clip_t"], weights=weights, batch=2)
    prompts = ["a cat", "a cat", "a dog"]
    for name, factor in (("pickscore", 1), ("clip_t", 100)):
        own = IMAGE_METRICS[name].weights[0]
        wanted = factor * reward(name, weights={own: clip})(given, prompts)
        found = report["metrics"][name]
        assert list(found["per_picture"]) == NAMES
        assert list(found["per_picture"].values()) == pytest.approx(wanted.tolist(), rel=1e-4)
        assert found["value"] == pytest.approx(np.mean(list(found["per_picture"].values())), rel=1e-12)
        assert found["pictures"] == 3 and found["unit"] == IMAGE_METRICS[name].unit
        assert found["provenance"]["file"] == clip
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_a_broken_picture_is_recorded_and_left_out(bright, tmp_path):
    nets.save_pictures(grey(10, 20, 30), tmp_path, NAMES)
    (tmp_path / NAMES[1]).write_bytes((tmp_path / NAMES[1]).read_bytes()[:30])
    (tmp_path / "empty-0.jpg").touch()
    report = score_images(tmp_path, metrics=("pickscore",))
    assert [Path(item["path"]).name for item in report["skipped"]] == [NAMES[1], "empty-0.jpg"]
    assert all("cannot be read" in item["reason"] for item in report["skipped"])
    assert report["metrics"]["pickscore"]["per_picture"] == {NAMES[0]: 15.0, NAMES[2]: 35.0}
    assert report["pictures"] == 4

    for name in NAMES:
        (tmp_path / name).write_bytes(b"")
    report = score_images(tmp_path, metrics=("pickscore",))
    assert report["metrics"]["pickscore"]["value"] is None and "no picture" in report["metrics"]["pickscore"]["reason"]


def test_metrics_without_their_weights_are_unavailable_and_never_numbers(bright, tmp_path):
    nets.save_pictures(grey(10, 20, 30), tmp_path, NAMES)
    report = score_images(tmp_path, metrics=("aes", "pickscore", "clip_t"))
    assert report["metrics"]["pickscore"]["value"] == pytest.approx(25)
    for name in ("aes", "clip_t"):
        assert report["metrics"][name]["value"] is None and "fetch " in report["metrics"][name]["unavailable"]
    with pytest.raises(Unavailable, match=r"fetch aesthetic_mlp.*fetch clip_vit_b_32"):
        score_images(tmp_path, metrics=("aes", "clip_t"))


# -- beside a baseline -----------------------------------------------------------------------------------------------


def test_the_win_rate_is_the_share_of_better_pictures_and_a_tie_is_half_a_win(bright, tmp_path):
    names = [f"prompt {number}-0.png" for number in range(5)]
    nets.save_pictures(grey(50, 60, 70, 80), tmp_path / "ours", names[:4])
    others = [Path(name).with_suffix(".bmp").name for name in names]
    nets.save_pictures(grey(40, 60, 90, 10, 0), tmp_path / "theirs", others)
    report = score_images(tmp_path / "ours", metrics=("pickscore",), baseline=tmp_path / "theirs")
    found = report["metrics"]["pickscore"]["against_baseline"]
    assert (found["pairs"], found["wins"], found["ties"], found["losses"]) == (4, 2, 1, 1)
    assert found["win_rate"]["value"] == pytest.approx(2.5 / 4)
    assert found["win_rate"]["low"] < 2.5 / 4 < found["win_rate"]["high"]
    assert found["difference"]["value"] == pytest.approx((10 + 0 - 20 + 70) / 4)
    chances = [1 / (1 + np.exp(-difference)) for difference in (10, 0, -20, 70)]
    assert found["preference"] == pytest.approx(np.mean(chances), rel=1e-12)
    assert report["metrics"]["pickscore"]["baseline"]["pictures"] == 4 and report["pairs"] == 4

    (tmp_path / "theirs" / others[3]).write_bytes(b"")
    report = score_images(tmp_path / "ours", metrics=("pickscore",), baseline=tmp_path / "theirs")
    found = report["metrics"]["pickscore"]["against_baseline"]
    assert found["pairs"] == 3 and found["preference"] == pytest.approx(np.mean(chances[:3]), rel=1e-12)


def test_a_pair_that_lacks_a_score_does_not_count():
    pairs = {"a": "a", "b": "b"}
    assert against({"a": 2.0}, {"a": 1.0, "b": 0.0}, pairs, {})["pairs"] == 1
    assert against({"a": 2.0, "b": 0.0}, {"a": 1.0}, pairs, {})["wins"] == 1
    assert against({}, {"a": 1.0}, pairs, {}) == {"pairs": 0}


def test_pictures_that_do_not_belong_together_are_refused(tmp_path):
    nets.save_pictures(grey(1), tmp_path / "ours", ["x-0.png"])
    nets.save_pictures(grey(1), tmp_path / "theirs", ["y-0.png"])
    ours, theirs = read_gallery(tmp_path / "ours"), read_gallery(tmp_path / "theirs")
    with pytest.raises(UserError, match="called alike"):
        pairs_of(ours, theirs)
    theirs = read_gallery(tmp_path / "ours", {"x-0.png": "another"})
    with pytest.raises(UserError, match="must show one prompt"):
        pairs_of(ours, theirs)


# -- MPS -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def plugin(monkeypatch):
    """A module of the user's, with judges."""

    def by_size(first: list[Image.Image], second: list[Image.Image], prompts: list[str]) -> Tensor:
        assert len(first) == len(second) == len(prompts)
        return torch.tensor([[float(a.width), float(b.width)] for a, b in zip(first, second, strict=True)]) / 10

    module = SimpleNamespace(
        by_size=by_size,
        sure=lambda first, second, prompts: [1.0] * len(first),
        wrong=lambda first, second, prompts: [1.5] * len(first),
        short=lambda first, second, prompts: [0.5],
        value=3,
    )
    monkeypatch.setitem(sys.modules, "judges", module)
    return module


def test_mps_is_the_mean_preference_over_the_baselines_pictures(plugin, tmp_path):
    nets.save_pictures([*grey(0, size=20), *grey(0, size=10)], tmp_path / "ours", ["p-0.png", "q-0.png"])
    nets.save_pictures([*grey(0, size=10), *grey(0, size=10)], tmp_path / "theirs", ["p-0.png", "q-0.png"])
    found = {}
    for one, other in (("ours", "theirs"), ("theirs", "ours")):
        report = score_images(
            tmp_path / one, metrics=("mps",), baseline=tmp_path / other, plugins={"mps": "judges:by_size"}, batch=1
        )
        found[one] = report["metrics"]["mps"]
    assert found["ours"]["value"] == pytest.approx(100 * (np.e / (1 + np.e) + 0.5) / 2, rel=1e-6)
    assert found["ours"]["value"] + found["theirs"]["value"] == pytest.approx(100, rel=1e-6), "as the paper's rows"
    assert found["ours"]["provenance"]["id"] == "judges:by_size" and found["ours"]["pictures"] == 2


def test_without_a_plugin_mps_is_unavailable_and_says_what_to_give(tmp_path):
    nets.save_pictures(grey(1), tmp_path, ["p-0.png"])
    with pytest.raises(Unavailable, match=r"--plugin mps=package\.module:function"):
        score_images(tmp_path, metrics=("mps",), baseline=tmp_path)


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("judges", "not a file"),
        ("judges:nothing", "cannot be imported"),
        ("no_such_module_here:f", "cannot be imported"),
        ("judges:value", "is a int"),
        ("judges:wrong", r"returned \[2\] from 1.5 to 1.5 for 2 pairs"),
        ("judges:short", r"returned \[1\]"),
    ],
)
def test_a_plugin_that_is_no_judge_is_refused(choice, said, plugin):
    with pytest.raises(UserError, match=said):
        load_mps(choice, Sources())(grey(1, 2), grey(3, 4), ["a", "b"])


def test_probabilities_are_taken_as_they_are(plugin):
    assert load_mps("judges:sure", Sources())(grey(1, 2), grey(3, 4), ["a", "b"]).tolist() == [1, 1]


class Scripted(nn.Module):
    def forward(self, first: Tensor, second: Tensor, tokens: Tensor) -> Tensor:
        known = tokens.float().mean(1, keepdim=True)
        return torch.stack([first.mean((1, 2, 3)), second.mean((1, 2, 3))], 1) + 0 * known


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_file_sees_pictures_as_clip_does(clip, tmp_path):
    torch.jit.script(Scripted()).save(str(tmp_path / "mps.pt"))
    with pytest.raises(UserError, match="--allow-pickle"):
        load_mps(str(tmp_path / "mps.pt"), Sources())
    judge = load_mps(str(tmp_path / "mps.pt"), Sources({"clip_vit_h_14": clip}, allow_pickle=True))
    one, other = nets.pictures(2, seed=1, size=(230, 240)), nets.pictures(2, seed=2, size=(250, 230))
    scores = [torch.stack([nets.as_clip_sees(p, 224).double().mean() for p in side]) for side in (one, other)]
    # Means of 224^2 x 3 normalised values, each off by a float32 rounding.
    wanted = torch.stack(scores, 1).softmax(1)[:, 0]
    assert torch.allclose(judge(one, other, ["a", "b"]).double(), wanted, atol=1e-5)


# -- sets ------------------------------------------------------------------------------------------------------------


def test_fid_and_is_of_a_folder_and_of_the_baseline(tmp_path, monkeypatch):
    pytest.importorskip("torchmetrics")
    monkeypatch.setattr(frechet, "FEATURES", 16)
    monkeypatch.setattr(frechet, "SPLITS", 1)
    loaded: list[Path] = []
    monkeypatch.setattr(inception, "load_inception", lambda path: loaded.append(path) or nets.Means(2))
    given, names = nets.pictures(6, size=(8, 8)), [f"{number:02}.png" for number in range(6)]
    nets.save_pictures(given, tmp_path / "ours", names)
    nets.save_pictures([Image.fromarray(np.asarray(p) // 2) for p in given], tmp_path / "theirs", names)
    (tmp_path / "weights.pth").write_bytes(b"weights")
    weights = {"inception": str(tmp_path / "weights.pth")}
    sides: dict[str, Any] = {"reference": tmp_path / "ours", "baseline": tmp_path / "theirs", "weights": weights}

    def score(**settings: Any) -> dict[str, Any]:
        return score_images(tmp_path / "ours", metrics=("fid", "is"), **sides, **settings)["metrics"]

    found = score(statistics=tmp_path / "kept")
    # Covariances of 6 pictures have eigenvalues of 0, whose rounding (1e-16) the square root makes 1e-8.
    assert abs(found["fid"]["value"]) < 1e-6 < found["fid"]["baseline"]["value"]
    assert "far too high" in found["fid"]["note"]
    assert found["is"]["value"] == pytest.approx(2, rel=1e-9) and found["is"]["deviation"] is None
    kept = {f"statistics-{name}.npz" for name in ("baseline", "pictures", "reference")}
    assert {path.name for path in (tmp_path / "kept").iterdir()} == kept
    loaded.clear()
    score()
    assert len(loaded) == 1, "both metrics from one pass"
    monkeypatch.setattr(inception, "load_inception", None)  # what is kept is not made again
    again = score(statistics=tmp_path / "kept")
    assert [again[name]["value"] for name in ("fid", "is")] == [found[name]["value"] for name in ("fid", "is")]


# -- prompts ---------------------------------------------------------------------------------------------------------


def test_prompts_come_from_the_generator_the_names_or_the_user(tmp_path):
    names = ["a red fox-0.png", "deep/cleaned~0a1b-1.jpg", "plain.png", "winter-12.jpeg"]
    for name in names:
        (tmp_path / "made" / name).parent.mkdir(parents=True, exist_ok=True)
        grey(1)[0].save(tmp_path / "made" / name)
    by_name = dict(zip(names, ("a red fox", None, None, "winter"), strict=True))
    gallery = read_gallery(tmp_path / "made")
    assert dict(zip(gallery.names, gallery.prompts, strict=True)) == by_name

    given = {name: f"of {name}" for name in names}
    (tmp_path / "prompts.json").write_text(json.dumps(given))
    (tmp_path / "prompts.txt").write_text("\n".join(given[name] for name in sorted(names)) + "\n")
    for prompts in (
        given,
        tmp_path / "prompts.json",
        tmp_path / "prompts.txt",
        [given[name] for name in sorted(names)],
    ):
        gallery = read_gallery(tmp_path / "made", prompts)
        assert dict(zip(gallery.names, gallery.prompts, strict=True)) == given
    with pytest.raises(UserError, match="3 prompts are given for 4 pictures"):
        read_gallery(tmp_path / "made", ["a", "b", "c"])
    with pytest.raises(UserError, match="has no prompt for 3 of 4"):
        read_gallery(tmp_path / "made", {"plain.png": "a"})

    line = {"method": "made", "prompt": "the true one", "index": 1, "status": "done", "path": f"made/{names[1]}"}
    (tmp_path / "results.jsonl").write_text(json.dumps(line) + "\n")
    gallery = read_gallery(tmp_path / "made")
    assert dict(zip(gallery.names, gallery.prompts, strict=True)) == {**by_name, names[1]: "the true one"}


def test_pictures_of_several_methods_are_scored_one_by_one(tmp_path):
    lines = []
    for method in ("strong", "w2sd"):
        nets.save_pictures(grey(1), tmp_path / method, ["p-0.png"])
        lines.append({"method": method, "prompt": "p", "index": 0, "status": "done", "path": f"{method}/p-0.png"})
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match="strong, w2sd"):
        read_gallery(tmp_path)
    assert read_gallery(tmp_path / "w2sd").prompts == ("p",)


# -- what is refused -------------------------------------------------------------------------------------------------


def test_missing_prompts_and_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        score_images(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no pictures"):
        score_images(tmp_path)
    nets.save_pictures(grey(1), tmp_path, ["00001.png"])
    with pytest.raises(UserError, match=r"pickscore needs prompts.*00001\.png"):
        score_images(tmp_path)
    with pytest.raises(UserError, match="batch is 0"):
        score_images(tmp_path, metrics=["aes"], batch=0)


def run(*words: str) -> tuple[int, dict[str, Any]]:
    parser = Parser(prog="w2sd-vbench")
    images.add_parser(parser.add_subparsers(parser_class=Parser, required=True))
    arguments: argparse.Namespace = parser.parse_args(["images", *words])
    return arguments.run(arguments)


@pytest.fixture
def made(tmp_path):
    names = ["a cat-0.png", "a dog-0.png", "a fox-0.png"]
    nets.save_pictures(nets.pictures(3, seed=1), tmp_path / "made" / "w2sd", names)
    nets.save_pictures(nets.pictures(3, seed=2), tmp_path / "made" / "strong", names)
    nets.save_clip(nets.clip(1), tmp_path / "clip")
    return tmp_path


def test_scores_and_win_rates_are_printed_and_written(made):
    words = [str(made / "made" / "w2sd"), "--metrics", "pickscore,clip_t", "--baseline", str(made / "made" / "strong")]
    words += ["--weights", f"pickscore={made / 'clip'}", "--weights", f"clip_vit_b_32={made / 'clip'}"]
    code, report = run(*words, "--device", "cpu", "--offline", "--output", str(made / "out"), "--quiet")
    assert code == 0 and report["status"] == "done"
    written = json.loads((made / "out" / "w2sd_images.json").read_text())
    for metric in ("pickscore", "clip_t"):
        found = written["metrics"][metric]
        assert len(found["per_picture"]) == 3 and found["against_baseline"]["pairs"] == 3
        assert found["value"] == report["metrics"][metric]["value"] and "per_picture" not in report["metrics"][metric]
        rate = 100 * found["against_baseline"]["win_rate"]["value"]
        (row,) = [line for line in report["text"].splitlines() if line.split()[0] == metric]
        assert f"{found['value']:.4f}" in row and f"{rate:.1f}%" in row and "cosine" in row
    assert written["versions"]["torch"] and str(made / "out" / "w2sd_images.json") in report["text"]


def test_an_unavailable_metric_and_a_broken_picture_are_said_and_end_with_code_1(made):
    (made / "made" / "w2sd" / "a dog-0.png").write_bytes(b"no picture")
    words = [str(made / "made" / "w2sd"), "--metrics", "clip_t", "aes", "--weights", f"clip_vit_b_32={made / 'clip'}"]
    code, report = run(*words, "--device", "cpu", "--offline", "--output", str(made / "out"), "--name", "n")
    assert code == 1 and report["status"] == "incomplete" and (made / "out" / "n_images.json").is_file()
    assert report["metrics"]["aes"]["value"] is None and "aes is unavailable: " in report["text"]
    assert "skipped" in report["text"] and "a dog-0.png" in report["text"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--weights", "pickscore"], "--weights is 'pickscore'; write NAME=CHOICE"),
        (["--weights", "pikscore=x"], "no weights are called 'pikscore'"),
        (["--plugin", "hps=x:y"], "only mps, geneval2, dpg take one"),
        (["--batch", "0"], "not a whole number"),
        (["--weights", "pickscore=path:nowhere"], "does not exist"),
        (["--metrics", "imagereward"], "no image metric is called 'imagereward'; choose from pickscore"),
        (["--metrics", ""], "no metric is given"),
        (["--metrics", "mps"], "mps compares pairs"),
        (["--metrics", "clip_i"], "clip_i needs a reference"),
        (["--metrics", "dino", "--reference", "x.npz"], r"x\.npz is no folder"),
        (["--metrics", "fid"], r"fid needs a reference.*or an \.npz"),
        (["--metrics", "fid", "--reference", "x.npz"], r"x\.npz cannot be read"),
    ],
)
def test_what_cannot_be_used_is_refused(words, said, tmp_path):
    nets.save_pictures(grey(1), tmp_path / "made", ["p-0.png"])
    with pytest.raises(UserError, match=said):
        run(str(tmp_path / "made"), *words, "--device", "cpu", "--offline", "--output", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_its_help_names_every_metric(capsys):
    with pytest.raises(SystemExit) as ended:
        run("--help")
    said = capsys.readouterr().out
    assert ended.value.code == 0 and all(f"  {name} " in said for name in images.IMAGE_METRICS)
