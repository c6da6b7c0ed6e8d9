"""A run folder is taken up where it was left, and never mixes two runs."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from w2sd_video.errors import UserError
from w2sd_video.runs.journal import Journal

RUN: dict[str, Any] = {
    "command": "w2sd-video",
    "preset": "demo",
    "pair": {"strong": "a", "weak": "b"},
    "settings": {"steps": 20, "guidance": 1.0},
    "methods": ("weak", "w2sd"),
    "prompts": ("a ring",),
    "seeds": [0],
    "device": "cpu",
    "dtype": "float32",
    "versions": {"torch": "1"},
}


def record(folder: Path, method: str = "weak", index: int = 0, **changes: Any) -> dict[str, Any]:
    path = f"{method}/a ring-{index}.mp4"
    (folder / method).mkdir(exist_ok=True)
    (folder / path).write_bytes(b"video")
    return {"method": method, "prompt": "a ring", "index": index, "path": path, "status": "done", **changes}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text("utf-8").splitlines()]


def test_what_was_appended_is_finished_when_the_folder_is_opened_again(tmp_path: Path) -> None:
    with Journal(tmp_path / "run", RUN) as journal:
        assert not journal.finished(("weak", "a ring", 0))
        journal.append(record(tmp_path / "run"))
    with Journal(tmp_path / "run", RUN) as journal:
        assert journal.finished(("weak", "a ring", 0))
        assert not journal.finished(("w2sd", "a ring", 0))
    assert json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))["settings"] == RUN["settings"]


@pytest.mark.parametrize("torn", [b'{"method": "w2sd", "prom', b"{", b'{"method": "w2sd", "prompt": "\xc3'])
def test_a_line_torn_by_a_kill_is_cut_off_and_the_rest_kept(tmp_path: Path, torn: bytes) -> None:
    with Journal(tmp_path, RUN) as journal:
        journal.append(record(tmp_path))
    with open(tmp_path / "results.jsonl", "ab") as file:
        file.write(torn)
    with Journal(tmp_path, RUN) as journal:
        assert list(journal.records) == [("weak", "a ring", 0)]
        journal.append(record(tmp_path, "w2sd"))
    assert [line["method"] for line in lines(tmp_path)] == ["weak", "w2sd"]


def test_a_damaged_line_that_is_not_the_last_is_refused_by_its_number(tmp_path: Path) -> None:
    with Journal(tmp_path, RUN) as journal:
        journal.append(record(tmp_path))
    good = (tmp_path / "results.jsonl").read_text("utf-8")
    (tmp_path / "results.jsonl").write_text("nonsense\n" + good, "utf-8")
    with pytest.raises(UserError, match="line 1 is damaged"), Journal(tmp_path, RUN):
        pass


@pytest.mark.parametrize("choices", ["sx", 3, None])
def test_choices_that_are_no_sides_are_a_damaged_line(tmp_path: Path, choices: object) -> None:
    with Journal(tmp_path, RUN) as journal:
        journal.append(record(tmp_path, choices="sw"))
    (tmp_path / "results.jsonl").write_text(json.dumps({**lines(tmp_path)[0], "choices": choices}) + "\n", "utf-8")
    with pytest.raises(UserError, match=r"line 1 is damaged \(choices are"), Journal(tmp_path, RUN):
        pass


def test_a_video_that_went_missing_and_one_that_failed_are_made_again(tmp_path: Path) -> None:
    with Journal(tmp_path, RUN) as journal:
        for index in range(3):
            journal.append(record(tmp_path, index=index))
        journal.append(record(tmp_path, index=3, status="failed", reason="nan", path=None))
    (tmp_path / "weak" / "a ring-1.mp4").unlink()
    with Journal(tmp_path, RUN) as journal:
        assert [key[2] for key in journal.records] == [0, 2]
    assert [line["index"] for line in lines(tmp_path)] == [0, 2], "a line per video that is there"


def test_other_settings_are_refused_with_everything_that_differs(tmp_path: Path) -> None:
    with Journal(tmp_path, RUN) as journal:
        journal.append(record(tmp_path))
    before = (tmp_path / "run.json").read_bytes()
    other = {**RUN, "settings": {"steps": 10, "guidance": 1.0}, "prompts": ("a square",), "methods": ("w2sd",)}
    with pytest.raises(UserError) as refusal, Journal(tmp_path, other):
        pass
    message = str(refusal.value)
    assert "settings.steps: 20 -> 10" in message
    assert '["a ring"] -> ["a square"]' in message
    assert "methods: without weak" in message
    assert "guidance" not in message
    assert (tmp_path / "run.json").read_bytes() == before


def test_a_method_may_be_added_and_keeps_what_is_finished(tmp_path: Path) -> None:
    with Journal(tmp_path, RUN) as journal:
        journal.append(record(tmp_path))
    with Journal(tmp_path, {**RUN, "methods": ("weak", "w2sd", "zero-gap")}) as journal:
        assert journal.finished(("weak", "a ring", 0))
    assert json.loads((tmp_path / "run.json").read_text("utf-8"))["methods"] == ["weak", "w2sd", "zero-gap"]


def test_a_run_that_finished_nothing_may_be_replaced(tmp_path: Path) -> None:
    with Journal(tmp_path, RUN):
        pass
    with Journal(tmp_path, {**RUN, "settings": {"steps": 10}}) as journal:
        assert journal.run["settings"] == {"steps": 10}


def test_changed_libraries_are_told_and_recorded_but_not_refused(tmp_path: Path) -> None:
    said: list[str] = []
    with Journal(tmp_path, RUN) as journal:
        journal.append(record(tmp_path))
    with Journal(tmp_path, {**RUN, "versions": {"torch": "2"}}, warn=said.append) as journal:
        assert journal.finished(("weak", "a ring", 0))
    assert len(said) == 1 and 'versions.torch: "1" -> "2"' in said[0]
    run = json.loads((tmp_path / "run.json").read_text("utf-8"))
    assert (run["versions"], run["later_versions"]) == ({"torch": "1"}, [{"torch": "2"}])


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(UserError, match=r"holds files but no run\.json"), Journal(tmp_path, RUN):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["index.html"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}'])
def test_a_run_file_that_is_not_ours_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"run\.json"), Journal(tmp_path, RUN):
        pass


def test_two_processes_cannot_write_to_one_folder(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with Journal(tmp_path, RUN), pytest.raises(UserError, match="another process"), Journal(tmp_path, RUN):
        pass
    with Journal(tmp_path, RUN):  # the lock goes with its holder
        pass


def test_a_disk_that_fills_up_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(tmp_path, RUN) as journal:
        journal.append(record(tmp_path))
        before = (tmp_path / "results.jsonl").read_bytes()

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            journal.append(record(tmp_path, "w2sd"))
        assert (tmp_path / "results.jsonl").read_bytes() == before
        assert not journal.finished(("w2sd", "a ring", 0))


def test_what_a_run_finds_out_is_added_and_outlives_its_being_taken_up_again(tmp_path: Path) -> None:
    with Journal(tmp_path, RUN) as journal:
        journal.amend(noise_map={"pictures": 4}, notes=["fitted"])
        journal.append(record(tmp_path))
        journal.amend(noise_map={"pictures": 8})
    with Journal(tmp_path, RUN) as journal:
        assert (journal.run["noise_map"], journal.run["notes"]) == ({"pictures": 8}, ["fitted"])
    run = json.loads((tmp_path / "run.json").read_text("utf-8"))
    assert (run["noise_map"], run["notes"], run["settings"]) == ({"pictures": 8}, ["fitted"], RUN["settings"])


def test_what_processes_agree_on_is_what_the_first_of_them_found(tmp_path: Path) -> None:
    with Journal(tmp_path, RUN, shared=True) as one, Journal(tmp_path, RUN, shared=True) as other:
        assert one.agree("gap_steps", [0, 3]) == other.agree("gap_steps", [0, 4]) == [0, 3]
        assert other.agree("noise_map", {}) == {}


@pytest.mark.parametrize("name", ["settings", "pair", "methods", "versions", "command"])
def test_what_a_run_was_started_with_cannot_be_amended(tmp_path: Path, name: str) -> None:
    with Journal(tmp_path, RUN) as journal:
        before = (tmp_path / "run.json").read_bytes()
        with pytest.raises(ValueError, match=f"{name} of a run is fixed"):
            journal.amend(**{name: {}, "noise_map": {}})
        assert (tmp_path / "run.json").read_bytes() == before and "noise_map" not in journal.run


def test_a_folder_of_pictures_is_spoken_of_as_one(tmp_path: Path) -> None:
    said: list[str] = []
    with Journal(tmp_path, RUN) as journal:
        journal.append(record(tmp_path))
    with Journal(tmp_path, {**RUN, "versions": {"torch": "2"}}, warn=said.append, noun="picture"):
        pass
    assert "its pictures may differ" in said[0]
    (tmp_path / "results.jsonl").write_text("nonsense\n", "utf-8")
    with pytest.raises(UserError, match="its picture will be made again"), Journal(tmp_path, RUN, noun="picture"):
        pass
