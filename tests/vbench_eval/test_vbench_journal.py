"""A scored video stays scored: by these settings, of this file, whatever kills the process."""

import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

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


def both_orders(first: Entry, second: Entry) -> Iterable[list[Entry]]:
    return [first, second], [second, first]


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
    entries = [entry(VideoKey(f"{number}-0.mp4", number, number)) for number in range(3)]
    written(tmp_path, *entries)
    data = (tmp_path / "0.jsonl").read_bytes()
    for end in range(len(data) + 1):
        (tmp_path / "0.jsonl").write_bytes(data[:end])
        # A line counts once all of its JSON is there, with or without the newline after it.
        whole = sum(len(line) <= end for line in _ends(data))
        assert list(read_entries(tmp_path)) == entries[:whole], end


def _ends(data: bytes) -> list[bytes]:
    return [data[:position] for position, byte in enumerate(data) if byte == ord("\n")]


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


def test_only_what_these_settings_measured_counts():
    found = merged(iter([entry(settings={"flickering": "f1", "motion": "old"})]), PRINTS)
    assert set(found[KEY].measured) == {"flickering"}
    assert found[KEY].settings == {"flickering": "f1"}
    assert merged(iter([entry(settings={"flickering": "old"})]), PRINTS) == {}


def test_dimensions_measured_at_different_times_come_together():
    for entries in both_orders(entry(), entry(settings={"motion": "m1"})):
        assert set(merged(iter(entries), PRINTS)[KEY].measured) == {"flickering", "motion"}


def test_of_two_lines_for_one_dimension_the_later_counts():
    later = entry(measured={"flickering": {"value": 0.75, "reason": None}})
    assert merged(iter([entry(), later]), PRINTS)[KEY].measured["flickering"]["value"] == 0.75


def test_a_file_that_changed_is_another_video():
    changed = replace(KEY, mtime_ns=6)
    found = merged(iter([entry(), entry(changed)]), PRINTS)
    assert set(found) == {KEY, changed}


def test_an_error_gives_way_to_a_measurement_whichever_comes_first():
    failed = Entry(KEY, {}, {}, {}, "it is cut off")
    assert merged(iter([failed]), PRINTS)[KEY].error == "it is cut off"
    for entries in both_orders(failed, entry()):
        found = merged(iter(entries), PRINTS)[KEY]
        assert found.error is None
        assert set(found.measured) == {"flickering"}


def test_a_dimension_to_retry_is_one_until_it_has_been_measured():
    failed = entry(retry=("flickering",))
    assert merged(iter([failed]), PRINTS)[KEY].retry == ("flickering",)
    assert merged(iter([failed, entry(settings={"motion": "m1"})]), PRINTS)[KEY].retry == ("flickering",)
    assert merged(iter([failed, entry()]), PRINTS)[KEY].retry == ()
