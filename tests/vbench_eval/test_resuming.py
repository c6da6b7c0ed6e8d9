"""A run that was stopped, shared between processes, or both, leaves the files of one that was neither."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import vbench_backbones
from vbench_eval import one_pass, score_folder
from vbench_eval.errors import UserError
from vbench_eval.journal import Entry, Journal, VideoKey, fingerprint, key_of, merged, read_entries

KEY = VideoKey("a cat-0.mp4", 1000, 5)
PRINTS = {"flickering": "f1", "motion": "m1"}


def entry(key: VideoKey = KEY, settings: dict[str, str] | None = None, **changes: Any) -> Entry:
    settings = {"flickering": "f1"} if settings is None else settings
    measured = {name: {"value": 0.5, "reason": None} for name in settings}
    return replace(Entry(key, settings, {"fps": 8.0}, measured), **changes)


def written(folder: Path, *entries: Entry, writer: str = "0") -> None:
    with Journal(folder, writer) as journal:
        for one in entries:
            journal.append(one)


def test_what_was_appended_is_read_back_as_it_was(tmp_path):
    one = entry(error=None, retry=("flickering",), info={"colour": {"range": "tv"}, "fps": None})
    other = entry(VideoKey("façade \udcff-0.mp4", 1, 2))  # a name with a byte that is no UTF-8
    written(tmp_path, one, other)
    assert list(read_entries(tmp_path)) == [one, other]


@pytest.mark.parametrize("torn", [b"{", b'{"path": "b', b'{"path": "\xc3', b"}"])
def test_a_line_torn_by_a_kill_is_cut_off_and_the_next_one_is_whole(tmp_path, torn):
    written(tmp_path, entry())
    with open(tmp_path / "0.jsonl", "ab") as file:
        file.write(torn)
    assert list(read_entries(tmp_path)) == [entry()], "also readable while it is torn"
    other = entry(VideoKey("b-0.mp4", 1, 1))
    written(tmp_path, other)
    assert list(read_entries(tmp_path)) == [entry(), other]
    assert all(json.loads(line) for line in (tmp_path / "0.jsonl").read_bytes().splitlines())


def test_every_prefix_of_a_journal_gives_exactly_its_whole_lines(tmp_path):
    entries = [entry(VideoKey(f"{number}-0.mp4", number, number)) for number in range(2)]
    written(tmp_path, *entries)
    data = (tmp_path / "0.jsonl").read_bytes()
    first = data.index(b"\n")
    for end in range(first - 1, len(data) + 1):
        (tmp_path / "0.jsonl").write_bytes(data[:end])
        # A line counts once all of its JSON is there, with or without the newline after it.
        whole = (end >= first) + (end >= len(data) - 1)
        assert list(read_entries(tmp_path)) == entries[:whole], end


def test_a_damaged_line_in_the_middle_costs_that_video_only(tmp_path):
    written(tmp_path, entry(), entry(VideoKey("b-0.mp4", 1, 1)))
    first, second = (tmp_path / "0.jsonl").read_bytes().splitlines()
    for damage in (b"nonsense", b"[]", b'{"path": 1}', first[: len(first) // 2]):
        (tmp_path / "0.jsonl").write_bytes(damage + b"\n" + second + b"\n")
        assert [one.key.path for one in read_entries(tmp_path)] == ["b-0.mp4"]


def test_a_nan_is_refused_and_leaves_no_line(tmp_path):
    with Journal(tmp_path) as journal:
        with pytest.raises(ValueError, match="JSON compliant"):
            journal.append(entry(info={"fps": float("nan")}))
        journal.append(entry())
    assert list(read_entries(tmp_path)) == [entry()]


def test_a_full_disk_takes_no_half_line(tmp_path, monkeypatch):
    real = os.write

    def full(file: int, data: Any) -> int:
        if len(data) > 40:
            return real(file, data[:40])
        raise OSError(28, "No space left on device")

    with Journal(tmp_path) as journal:
        journal.append(entry())
        before = journal.path.read_bytes()
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="space"):
            journal.append(entry(VideoKey("b-0.mp4", 1, 1)))
        monkeypatch.undo()
        assert journal.path.read_bytes() == before


def test_two_processes_cannot_write_one_file_but_each_its_own(tmp_path):
    pytest.importorskip("fcntl")
    with (
        Journal(tmp_path, "0"),
        Journal(tmp_path, "1"),
        pytest.raises(UserError, match="another process"),
        Journal(tmp_path, "0"),
    ):
        pass
    with Journal(tmp_path, "0"):  # the lock goes with its holder
        pass


def test_a_key_changes_with_bytes_or_time_and_not_with_the_folder(tmp_path):
    def made(folder: str, content: bytes = b"video", time: int = 10**18) -> VideoKey:
        path = tmp_path / folder / "a-0.mp4"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(time, time))
        return key_of(path, path.parent)

    assert made("one") == made("two") == VideoKey("a-0.mp4", 5, 10**18)
    assert made("one", b"video!") != made("two")
    assert made("one", time=10**18 + 1) != made("two")


def test_a_folder_of_frames_is_another_video_when_one_frame_changes(tmp_path):
    frames = tmp_path / "a-0"
    frames.mkdir()
    for number in range(3):
        (frames / f"{number}.png").write_bytes(b"x" * (number + 1))
        os.utime(frames / f"{number}.png", ns=(number, number))
    before = key_of(frames, tmp_path)
    assert before == VideoKey("a-0", 6, 2)
    os.utime(frames / "0.png", ns=(9, 9))
    assert key_of(frames, tmp_path) == replace(before, mtime_ns=9)


def test_equal_settings_have_one_fingerprint_and_any_change_another():
    settings = {"profile": {"name": "vbench", "antialias": False}, "backbone": {"sha256": "ab"}, "device": "cpu"}
    same = {"device": "cpu", "backbone": {"sha256": "ab"}, "profile": {"antialias": False, "name": "vbench"}}
    assert fingerprint(settings) == fingerprint(same)
    others = [
        {**settings, "backbone": {"sha256": "cd"}},
        {**settings, "device": "cuda"},
        {**settings, "profile": {"name": "vbench", "antialias": True}},
        {},
    ]
    assert len({fingerprint(one) for one in [settings, *others]}) == 5


def test_lines_come_together_by_settings_and_file_whichever_comes_first():
    found = merged(iter([entry(settings={"flickering": "f1", "motion": "old"})]), PRINTS)[KEY]
    assert set(found.measured) == {"flickering"} and found.settings == {"flickering": "f1"}
    assert merged(iter([entry(settings={"flickering": "old"})]), PRINTS) == {}
    motion, failed = entry(settings={"motion": "m1"}), Entry(KEY, {}, {}, {}, "it is cut off")
    assert merged(iter([failed]), PRINTS)[KEY].error == "it is cut off"
    for order in itertools.permutations([entry(), motion, failed]):
        found = merged(iter(order), PRINTS)[KEY]
        assert set(found.measured) == {"flickering", "motion"} and found.error is None
    later, changed = entry(measured={"flickering": {"value": 0.75, "reason": None}}), replace(KEY, mtime_ns=6)
    found = merged(iter([entry(), later, entry(changed)]), PRINTS)
    assert found[KEY].measured["flickering"]["value"] == 0.75, "of two lines the later counts"
    assert set(found) == {KEY, changed}, "a file that changed is another video"


def test_a_dimension_to_retry_is_one_until_it_has_been_measured():
    failed = entry(retry=("flickering",))
    assert merged(iter([failed]), PRINTS)[KEY].retry == ("flickering",)
    assert merged(iter([failed, entry(settings={"motion": "m1"})]), PRINTS)[KEY].retry == ("flickering",)
    assert merged(iter([failed, entry()]), PRINTS)[KEY].retry == ()


ROOT = Path(__file__).resolve().parents[2]
FILES = ("_eval_results.json", "_full_info.json", "_report.json")


def scored(folder: Path, output: Path, **settings: Any) -> None:
    assert score_folder(folder, output=output, device="cpu", **settings) is not None


def contents(output: Path) -> dict[str, bytes]:
    return {suffix: (output / f"w2sd{suffix}").read_bytes() for suffix in FILES}


def test_two_workers_write_the_same_files_as_one_process(folder, tmp_path):
    (folder / "broken-0.mp4").write_bytes(b"no video")
    settings: dict[str, Any] = {"dimensions": "all,contrast", "backbones": vbench_backbones.ALL}
    scored(folder, tmp_path / "one", **settings)
    scored(folder, tmp_path / "two", workers=2, **settings)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def command(folder: Path, output: Path, **environment: str) -> subprocess.Popen[str]:
    """The command in a process of its own, which hears interrupts also where the tests themselves run in background."""
    words = [
        "--dimensions",
        "subject_consistency",
        "--backbone",
        "subject_consistency=tests.support.vbench_backbones:slow",
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
        "backbones": {"subject_consistency": "tests.support.vbench_backbones:slow"},
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
    process = command(folder, tmp_path / "stopped", STAND_IN_SECONDS="30")
    wait_for_line(journal, process)
    process.send_signal(how)
    said, complained = process.communicate(timeout=60)
    lines = journal.read_bytes().count(b"\n")
    assert lines == 1, "it was stopped in the second video"
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


@pytest.mark.slow
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
