"""The programs beside the command: what they refuse, and what they make of a run."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from w2sd_video.errors import UserError, exit_code
from w2sd_video.runs.tasks import METHODS
from w2sd_video.runs.video_io import read_video, write_video

ROOT = Path(__file__).resolve().parents[2]


def program(name: str) -> Callable[[list[str]], int]:
    return importlib.import_module(f"scripts.{name}").main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder; it holds a file called "file" and a run of every method."""
    (tmp_path / "file").write_text("")
    (tmp_path / "run").mkdir()
    lines = []
    for level, method in enumerate(METHODS, start=1):
        write_video(tmp_path / "run" / f"{method}.webp", np.full((2, 8, 8, 3), 20 * level, np.uint8), 8)
        record = {"method": method, "prompt": "a red ring", "index": 0, "status": "done", "path": f"{method}.webp"}
        lines.append(json.dumps(record) + "\n")
    (tmp_path / "run" / "results.jsonl").write_text("".join(lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("score_demo", ["--methods", "strong,wek"], "unknown method 'wek'"),
        ("score_demo", ["--methods", ""], "unknown method ''"),
        ("score_demo", ["--count", "0"], "--count is 0"),
        ("score_demo", ["--threads", "0"], "--threads is 0"),
        ("score_demo", ["--output", "file/scores"], "file/scores"),
        ("score_demo", ["--weights", "nowhere", "--output", "scores"], "'nowhere' does not exist"),
        ("score_demo", ["--read", "nowhere"], "nowhere holds no results.jsonl"),
        ("score_demo", ["--read", "run"], "'a red ring' is not a caption"),
        ("score_bridge", ["--methods", "strong,wek"], "unknown method 'wek'"),
        ("score_bridge", ["--methods", "control"], "needs --control"),
        ("score_bridge", ["--weights", "nowhere"], "nowhere/strong holds no pipeline"),
        ("score_gaps", ["--gaps", "lora,lroa"], "unknown gap 'lroa'"),
        ("score_gaps", ["--curves", "lroa"], "unknown curve 'lroa'"),
        ("score_gaps", ["--count", "0"], "--count is 0"),
        ("score_gaps", ["--weights", "nowhere"], "nowhere holds no pipeline"),
        ("score_gaps", ["--lora", "nowhere.safetensors"], "'nowhere.safetensors' does not exist"),
        (
            "score_methods",
            ["--only", "lamda"],
            "'lamda'; choose from algorithms, settings, one-network, lambda, strength",
        ),
        ("score_methods", ["--part", "3/2"], "--part is '3/2'; give K/N"),
        ("score_methods", ["--part", "half"], "--part is 'half'; give K/N"),
        ("score_dataset_gap", ["--count", "1"], "--count is 1; it must be at least 2"),
        ("score_dataset_gap", ["--batch", "0"], "--batch is 0"),
        ("score_dataset_gap", ["--methods", "strong,stronger"], "unknown method 'stronger'; choose from weak, strong"),
        ("score_dataset_gap", ["--path", "sound"], "--path is 'sound'; choose one of noise, flow"),
        ("score_dataset_gap", ["--projection", "umap"], "--projection is 'umap'"),
        ("score_dataset_gap", ["--cifar-dir", "nowhere"], "nowhere is no folder"),
        ("score_dataset_gap", ["--weights", "nowhere"], "nowhere/judge holds no judge"),
        ("train_demo_lora", ["--weights", "run"], "holds no pipeline"),
        ("train_demo", ["--threads", "0"], "--threads is 0"),
        ("train_demo", ["--work", "file/work"], "file/work"),
        ("train_demo", ["--work", "work", "--output", "file"], "file"),
        ("make_pictures", ["nowhere", "p.gif"], "nowhere holds no results.jsonl"),
        ("make_pictures", ["run", "p.mp4"], "in .gif or .webp"),
        ("make_pictures", ["run", "file/p.gif"], "file"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(
    name: str, words: list[str], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program(name)(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    *noise, last = captured.err.splitlines()
    assert last.startswith("error: ") and said in last and not any("Traceback" in line for line in noise)


def test_a_picture_has_a_row_per_prompt_and_a_column_per_method(folder: Path) -> None:
    assert program("make_pictures")(["run", "made/p.webp"]) == 0
    frames = read_video(folder / "made" / "p.webp").frames
    assert len(frames) == 2 + 4, "the last frame is held"
    colours = {tuple(pixel) for pixel in frames[0].reshape(-1, 3)}
    assert {(20 * level,) * 3 for level in range(1, len(METHODS) + 1)} <= colours


@pytest.mark.slow  # test_engine keeps finished scores in small
def test_finished_scores_are_kept_and_damaged_ones_are_not_taken_for_any(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from experiments.demo import videos

    words = ["--count", "2", "--methods", "weak, strong", "--output", "scores", "--quiet"]
    assert program("score_demo")(words) == 0
    table = capsys.readouterr().out
    assert "| weak |" in table and "not run  W2SD (fused) beats strong by 0.05" in table

    made: list[str] = []
    score = videos.score
    monkeypatch.setattr(
        videos, "score", lambda sides, method, *a, **k: made.append(method.sampled) or score(sides, method, *a, **k)
    )
    (folder / "scores" / "weak.json").write_text("{")
    assert program("score_demo")(words) == 0
    assert made == ["weak"]


def test_an_interrupt_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    def refused() -> int:
        raise UserError("got this; do that")

    assert (exit_code(interrupted), exit_code(refused), exit_code(lambda: 1)) == (130, 2, 1)
    assert capsys.readouterr().err.endswith("continues where it stopped\nerror: got this; do that\n")


@pytest.mark.parametrize(
    "words", (["scripts/generate_image.py", "--list-presets"], ["scripts/generate_video.py", "--dry-run"])
)
def test_a_reader_that_goes_away_is_no_error(words):
    """`| head`: the pipe's other end is closed before anything is written."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, *words], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 0
    assert all(line.startswith("note: ") for line in done.stderr.splitlines()), done.stderr
