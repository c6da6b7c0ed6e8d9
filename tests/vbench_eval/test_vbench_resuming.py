"""A run that was stopped, shared between processes, or both, leaves the files of one that was neither."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import vbench_stand_ins
from tests.support.vbench_files import patterned, write_video
from vbench_eval import one_pass, score_folder

ROOT = Path(__file__).resolve().parents[2]
FILES = ("_eval_results.json", "_full_info.json", "_report.json")


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "videos" / "w2sd"
    made.mkdir(parents=True)
    for number, prompt in enumerate(("a cat", "a dog", "a fox", "an owl")):
        write_video(made / f"{prompt}-0.mp4", patterned(5, 32, 48, number))
    return made


def scored(folder: Path, output: Path, **settings: Any) -> None:
    assert score_folder(folder, output=output, device="cpu", **settings) is not None


def contents(output: Path) -> dict[str, bytes]:
    return {suffix: (output / f"w2sd{suffix}").read_bytes() for suffix in FILES}


def test_two_workers_write_the_same_files_as_one_process(folder, tmp_path):
    (folder / "broken-0.mp4").write_bytes(b"no video")
    settings: dict[str, Any] = {"dimensions": "all,contrast", "backbones": vbench_stand_ins.ALL}
    scored(folder, tmp_path / "one", **settings)
    scored(folder, tmp_path / "two", workers=2, **settings)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def command(folder: Path, output: Path, **environment: str) -> subprocess.Popen[str]:
    """The command in a process of its own, which hears interrupts also where the tests themselves run in background."""
    words = [
        "--dimensions",
        "subject_consistency",
        "--backbone",
        "subject_consistency=tests.support.vbench_stand_ins:slow",
    ]
    places = ["score", str(folder), "--output", str(output), "--device", "cpu", "--format", "json"]
    path = os.pathsep.join((str(ROOT), str(ROOT / "scripts")))
    return subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "evaluate_vbench.py"), *places, *words],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def uninterrupted(folder: Path, output: Path) -> dict[str, bytes]:
    settings: dict[str, Any] = {
        "backbones": {"subject_consistency": "tests.support.vbench_stand_ins:slow"},
        "proxies": True,
    }
    scored(folder, output, dimensions="subject_consistency", **settings)
    return contents(output)


def wait_for_line(journal: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not (journal.exists() and b"\n" in journal.read_bytes()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_stopped_and_taken_up_equals_one_that_was_not(folder, tmp_path, how, monkeypatch):
    whole = uninterrupted(folder, tmp_path / "whole")
    journal = tmp_path / "stopped" / "w2sd_journal" / "0.jsonl"
    process = command(folder, tmp_path / "stopped", STAND_IN_SECONDS="0.5")
    wait_for_line(journal, process)
    process.send_signal(how)
    said, complained = process.communicate(timeout=60)
    lines = journal.read_bytes().count(b"\n")
    assert 1 <= lines < 4, "it was stopped in the middle"
    assert not any((tmp_path / "stopped" / f"w2sd{suffix}").exists() for suffix in FILES)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert json.loads(said)["status"] == "interrupted"
        assert "run the same command again" in complained and "Traceback" not in complained
    again: list[str] = []
    real = one_pass.measure

    def recorded(video: Any, dimensions: Any, **options: Any) -> Any:
        again.append(video.info.path)
        return real(video, dimensions, **options)

    monkeypatch.setattr(one_pass, "measure", recorded)
    assert uninterrupted(folder, tmp_path / "stopped") == whole
    assert len(again) == 4 - lines


def test_launched_processes_share_the_videos_and_the_first_reports(folder, tmp_path):
    whole = uninterrupted(folder, tmp_path / "whole")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [command(folder, tmp_path / "ranks", RANK=str(rank), LOCAL_RANK=str(rank), **place) for rank in (0, 1)]
    said = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    lines = [(tmp_path / "ranks" / "w2sd_journal" / f"{rank}.jsonl").read_bytes().count(b"\n") for rank in (0, 1)]
    assert lines == [2, 2]
    assert json.loads(said[0][0])["videos"] == 4
    assert said[1][0] == "", "one summary in all"
    assert contents(tmp_path / "ranks") == whole
