"""Every algorithm as a method of both commands, on tiny saved pipelines: costs, limits, choices, what goes wrong."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import disk_pairs
from tests.support.disk_pairs import save_pair
from tests.support.family_programs import costs, image_request, planned, video_request
from tests.support.family_programs import image as pictures
from tests.support.family_programs import video as videos
from w2sd_video.commands.request import Request
from w2sd_video.runs.picture_io import read_picture
from w2sd_video.runs.tasks import METHODS, SELECTING
from w2sd_video.runs.video_io import read_video

pytestmark = pytest.mark.slow  # conformance makes every method of every family; these are its finer points

REWARDS = """\
def light(frames, prompt): return float(frames.mean())
def dark(frames, prompt): return -float(frames.mean())
def alike(frames, prompt): return 1
def shape(frames, prompt): return frames.shape[0]
def cats_only(frames, prompt): return 1 if "cat" in prompt else 1 / 0
"""
STEPS, LAM = 4, 2
QUICK = {"steps": STEPS, "reflections": LAM, "height": 16, "width": 16, "device": "cpu", "guidance": 2.0}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("methods")
    for seed in (1, 2):
        disk_pairs.sdxl(seed).save_pretrained(root / f"sdxl-{seed}")
    save_pair(root / "videos")
    (root / "rewards.py").write_text(REWARDS)
    return root


def asked(disk: Path, noun: str, output: Path, **changes: Any) -> Request:
    """A request for a cat by every method, of a pair of checkpoints whose weak side reflects unguided."""
    given: dict[str, Any] = {
        **QUICK,
        "prompts": ("a cat",),
        "methods": tuple(METHODS),
        "weak_guidance": 1.0,
        "output": output,
        **changes,
    }
    if SELECTING in given["methods"]:
        given.setdefault("reward", f"{disk / 'rewards.py'}:light")
    if noun == "pictures":
        return image_request(**{"strong": str(disk / "sdxl-1"), "weak": str(disk / "sdxl-2"), **given})
    folder = disk / "videos"
    return video_request(
        strong=str(folder / "strong"), weak=str(folder / "weak"), num_frames=2, video_format="png", **given
    )


def made(request: Request) -> tuple[Any, dict[str, dict[str, Any]]]:
    """The plan of a request, and its records by method."""
    from tests.support.family_programs import generated

    done, summary = planned(request), generated(request)
    assert summary.complete
    records = (json.loads(line) for line in (summary.folder / "results.jsonl").read_text().splitlines())
    return done, {record["method"]: record for record in records}


def frames(request: Request, record: dict[str, Any]) -> np.ndarray:
    assert request.output is not None
    path = Path(request.output) / record["path"]
    return read_picture(path).pixels if path.suffix == ".png" and path.is_file() else read_video(path).frames


def test_the_noise_of_a_method_comes_from_its_seed_alone(disk: Path, tmp_path: Path) -> None:
    request = asked(
        disk, "videos", tmp_path / "all", methods=("resample", "resample-opposed"), prompts=("a dog", "a cat")
    )
    made(request)
    found = []
    for seed in (0, 1):
        alone = asked(disk, "videos", tmp_path / str(seed), methods=("resample-opposed",), seed=seed)
        found.append(frames(alone, made(alone)[1]["resample-opposed"]))
    before = frames(request, {"path": "resample-opposed/a cat-0"})
    assert np.array_equal(found[0], before), "whatever else was made before it"
    assert not np.array_equal(*found)


def test_opposite_rewards_choose_opposite_sides_and_a_tie_keeps_the_strong_one(disk: Path, tmp_path: Path) -> None:
    chosen = {}
    for name in ("light", "dark", "alike"):
        request = asked(disk, "pictures", tmp_path / name, methods=(SELECTING,), reward=f"{disk / 'rewards.py'}:{name}")
        chosen[name] = made(request)[1][SELECTING]["choices"]
    assert {chosen["light"][0], chosen["dark"][0]} == set("sw"), "both look at the same estimates first"
    assert chosen["alike"] == "s" * LAM


def test_a_video_is_rewarded_by_at_most_so_many_frames(disk: Path, tmp_path: Path) -> None:
    for count in (1, 2):
        (tmp_path / f"{count}.py").write_text(
            f"def count(frames, prompt):\n    assert len(frames) == {count}\n    return 1\n"
        )
        request = asked(
            disk,
            "videos",
            tmp_path / str(count),
            methods=(SELECTING,),
            reward=f"{tmp_path / f'{count}.py'}:count",
            reward_frames=count,
        )
        assert made(request)[1][SELECTING]["status"] == "done"


def test_a_weak_side_at_guidance_0_or_less_samples_with_the_prompts_exchanged(disk: Path, tmp_path: Path) -> None:
    """Scale g of (cat over dog) is scale 1 - g of (dog over cat), which diffusers can sample from 1 on."""
    for name, scale in (("a", 0.0), ("b", -1.5)):
        turned = {"prompts": ("a cat",), "negative_prompt": "a dog", "weak": None, "strong_guidance": 2.0}
        mine = asked(
            disk, "pictures", tmp_path / name, methods=("weak", "swapped"), **turned | {"weak_guidance": scale}
        )
        other = asked(
            disk,
            "pictures",
            tmp_path / f"{name} turned",
            methods=("strong", "w2sd"),
            prompts=("a dog",),
            negative_prompt="a cat",
            weak=None,
            guidance=1 - scale,
            strong_guidance=1 - scale,
            weak_guidance=-1.0,
        )
        plan, found = made(mine)
        theirs = made(other)[1]
        for method, same in (("weak", "strong"), ("swapped", "w2sd")):
            assert np.array_equal(frames(mine, found[method]), frames(other, theirs[same]))
            assert costs(plan)[method].rows == found[method]["num_rows"] == theirs[same]["num_rows"]


# -- as a command ---------------------------------------------------------------------------------------------------


def words(disk: Path, output: Path, methods: str, *more: str) -> list[str]:
    numbers = ["--steps", "4", "--reflections", "2", "--height", "16", "--width", "16", "--device", "cpu", "--quiet"]
    pair = ["--strong", str(disk / "sdxl-1"), "--weak", str(disk / "sdxl-2"), "--guidance", "2"]
    return [*numbers, *pair, "--prompt", "a cat", "--output", str(output), "--methods", methods, *more]


def own(disk: Path, name: str) -> tuple[str, str]:
    return "--reward", f"{disk / 'rewards.py'}:{name}"


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_a_method_with_a_reward_may_be_added_and_another_reward_is_refused(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert pictures(words(disk, out, "strong,w2sd")) == 0
    assert "reward" not in json.loads((out / "run.json").read_text())
    assert pictures(words(disk, out, "strong,w2sd,w2sd-auto", *own(disk, "light"))) == 0
    assert [line["method"] for line in lines(out)] == ["strong", "w2sd", "w2sd-auto"]
    source = hashlib.sha256((disk / "rewards.py").read_bytes()).hexdigest()[:12]
    told = {"name": f"{disk / 'rewards.py'}:light", "source": source, "threshold": 0.0}
    assert json.loads((out / "run.json").read_text())["reward"] == told
    assert read_picture(out / "w2sd-auto" / "a cat-0.png").metadata["reward"] == told
    assert "reward" not in read_picture(out / "w2sd" / "a cat-0.png").metadata
    capsys.readouterr()
    assert pictures(words(disk, out, "strong,w2sd,w2sd-auto", *own(disk, "dark"))) == 2
    assert "reward.name" in capsys.readouterr().err
    assert pictures(words(disk, out, "strong,w2sd,w2sd-auto", *own(disk, "light"), "--every", "2")) == 2
    assert "settings.every: null -> 2" in capsys.readouterr().err


def test_an_edited_reward_is_said_and_does_not_hinder_finishing_a_run(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("def score(frames, prompt):\n    return 1 / 0\n")
    asking = words(disk, tmp_path / "out", "w2sd-auto", "--reward", f"{mine}:score")
    assert pictures(asking) == 1
    mine.write_text("def score(frames, prompt):\n    return frames.mean()\n")
    capsys.readouterr()
    assert pictures(asking) == 0
    assert "the file was edited since the run was started" in capsys.readouterr().err
    assert [line["status"] for line in lines(tmp_path / "out")] == ["done"]


def test_a_stopped_run_keeps_its_choices_and_draws_them_all(disk: Path, tmp_path: Path) -> None:
    asking = words(disk, tmp_path / "out", "w2sd-auto", "--prompt", "a dog", *own(disk, "light"))
    assert pictures(asking) == 0
    whole, drawn = lines(tmp_path / "out"), (tmp_path / "out" / "choices.png").read_bytes()
    shutil.copytree(tmp_path / "out", tmp_path / "stopped")
    stopped = tmp_path / "stopped"
    (stopped / "choices.png").unlink()
    text = (stopped / "results.jsonl").read_text().splitlines()
    (stopped / "results.jsonl").write_text(text[0] + "\n" + text[1][:40])  # killed while it wrote the second
    asking[asking.index(str(tmp_path / "out"))] = str(stopped)
    assert pictures(asking) == 0
    assert [line["choices"] for line in lines(stopped)] == [line["choices"] for line in whole]
    assert lines(stopped)[0] == whole[0] and (stopped / "choices.png").read_bytes() == drawn


def test_a_reward_that_fails_fails_that_picture_and_the_others_go_on(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asking = words(disk, tmp_path, "strong,w2sd-auto", "--prompt", "a dog", *own(disk, "cats_only"))
    assert pictures(asking) == 1
    assert "Traceback" not in capsys.readouterr().err
    status = {(line["method"], line["prompt"]): line["status"] for line in lines(tmp_path)}
    assert status.pop((SELECTING, "a dog")) == "failed" and set(status.values()) == {"done"} and len(status) == 3
    (reason,) = [line["reason"] for line in lines(tmp_path) if line["status"] == "failed"]
    assert "cats_only failed: ZeroDivisionError" in reason
    assert Image.open(tmp_path / "choices.png").size[0] > 0


@pytest.mark.parametrize("program", [pictures, videos])
def test_a_dry_run_says_what_every_method_costs(program: Any, capsys: pytest.CaptureFixture[str]) -> None:
    methods = [method for method in METHODS if method not in ("weak", "swapped")]
    asking = ["--methods", ",".join(methods), "--every", "2", "--window", "0:0.4", "--dry-run"]
    rate = ["--rows-per-second", "0.1", "--price", "3"]
    assert program([*asking, *rate, "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["hours"] == round(report["rows"] / 360, 2) > 0 and report["price"] == round(report["rows"] / 120, 2)
    assert [program([*asking, "--price", "3"]), program(rate)] == [2, 2]
    assert "--price needs --rows-per-second" in (said := capsys.readouterr().err) and "add --dry-run" in said
    counts = {method: cost["evaluations"] for method, cost in report["methods"].items()}
    # T 20; of lambda 10 the steps 0, 2, 4 and 6 are reflected.
    assert counts == {
        "strong": 20,
        "w2sd": 28,
        "zero-gap": 28,
        "w2sd-auto": 32,
        "resample": 24,
        "resample-aligned": 28,
        "resample-opposed": 28,
        "autoguided": 28,  # in the first 8 steps, and plain in the others
    }
    assert report["reward"]["name"] == "oracle" and report["settings"]["window"] == [0.0, 0.4]
    assert program(asking) == 0
    text = capsys.readouterr().out
    assert (
        "every 2, window 0.0:0.4" in text
        and "reward: oracle, threshold 0" in text
        and "at most" not in text.split("files")[0].replace("at most 4 frames", "")
    )
