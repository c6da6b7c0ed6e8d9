"""What makes a run resumable: run.json says what the folder holds, results.jsonl what is finished."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from w2sd_video.errors import UserError
from w2sd_video.runs.choices import check_text
from w2sd_video.runs.video_io import sync_folder, write_bytes

RUN_FILE = "run.json"
RESULTS_FILE = "results.jsonl"
# What must be the same for the contents of one folder to belong together. Library versions are recorded and only warned
# about.
COMPARED = ("preset", "pair", "settings", "prompts", "seeds", "device", "dtype")
SOURCE = "source"  # within one of those: a hash of the user's own file
OF_A_METHOD = ("reward",)  # compared where both runs have it: a method that needs it may be added later
JOINED = ("methods", "command", "versions", "later_versions")  # what a run that is taken up again may bring anew

Record = dict[str, Any]
Key = tuple[str, str, int]


def key_of(record: Mapping[str, Any]) -> Key:
    """Returns what names one thing within a run: (method, prompt, index)."""
    return record["method"], record["prompt"], record["index"]


class Journal:
    """The run folder, held by one process at a time; a context manager.

    Entering makes the folder, refuses one that holds another run (UserError listing what differs), one that holds
    other people's files, and one that another process is writing to; it mends a torn last line. Methods may be added
    to a finished folder (a control, say); everything else must be as it was. A video (or what else `noun` says is
    made) is finished once `append` has put its line on the disk.
    """

    def __init__(
        self,
        folder: Path,
        run: Mapping[str, Any],
        *,
        warn: Callable[[str], None] = lambda message: None,
        noun: str = "video",
    ) -> None:
        self.folder = folder
        self.run: dict[str, Any] = json.loads(json.dumps(run))  # as it will be read back: lists for tuples
        self.records: dict[Key, Record] = {}
        self._warn = warn
        self._noun = noun
        self._lock: int | None = None

    def __enter__(self) -> Journal:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = _lock_folder(self.folder)
            self._settle_run()
            self._settle_results()
        except BaseException:
            self._unlock()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unlock()

    def finished(self, key: Key) -> bool:
        """Whether this one is on the disk, complete."""
        record = self.records.get(key)
        return record is not None and record["status"] == "done"

    def append(self, *records: Record) -> None:
        """Adds lines to results.jsonl and returns when they are on the disk."""
        append_lines(self.folder / RESULTS_FILE, records)
        self.records.update((key_of(record), record) for record in records)

    def amend(self, **facts: Any) -> None:
        """Adds to run.json what only the run itself could tell, as JSON data; a fact of the same name is replaced.

        `notes`, a list of sentences, is shown at the head of the page, other facts among its settings. What the run
        was started with cannot be amended (ValueError).
        """
        if fixed := sorted(facts.keys() & {*COMPARED, *OF_A_METHOD, *JOINED}):
            raise ValueError(f"{', '.join(fixed)} of a run is fixed when it starts; amend it with other names")
        self.run.update(json.loads(json.dumps(facts)))
        self._write_run()

    def _settle_run(self) -> None:
        path = self.folder / RUN_FILE
        if path.exists() and not (self.folder / RESULTS_FILE).exists():
            _read_run(path)  # a run that was refused or stopped before its first video: there is nothing to keep
        elif path.exists():
            self.run = joined(_read_run(path), self.run, self.folder, self._warn, noun=self._noun)
        elif any(not entry.name.startswith(".") for entry in self.folder.iterdir()):
            raise UserError(
                f"folder {self.folder} holds files but no {RUN_FILE}; "
                "give --output a new or empty folder, or one of an earlier run"
            )
        self._write_run()

    def _write_run(self) -> None:
        path = self.folder / RUN_FILE
        text = (json.dumps(self.run, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
        if not path.exists() or path.read_bytes() != text:
            write_bytes(path, text)

    def _settle_results(self) -> None:
        path = self.folder / RESULTS_FILE
        before = path.read_bytes() if path.exists() else b""
        for record in read_results(before, path, self._noun):
            # A failed one is tried again, one that went missing is made again: their lines would be false.
            if record["status"] == "done" and (self.folder / record["path"]).exists():
                self.records[key_of(record)] = record
        after = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in self.records.values()).encode(
            "utf-8"
        )
        if after != before:
            write_bytes(path, after)
        sync_folder(self.folder)

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def append_lines(path: Path, records: Iterable[Record]) -> None:
    """Adds a line per record to the file at `path` and returns when all are on the disk, or raises and adds none."""
    with open(path, "a", encoding="utf-8") as file:
        start = file.tell()
        try:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            os.truncate(path, start)  # a full disk may have taken half a line
            raise


def joined(
    old: Mapping[str, Any], new: Mapping[str, Any], folder: Path, warn: Callable[[str], None], *, noun: str
) -> dict[str, Any]:
    """Returns the run.json of a run taken up again; raises UserError listing what differs (old -> new) if it is
    another run.
    """
    differing = [line for name in COMPARED for line in differences(old.get(name), new.get(name), name)]
    both = [name for name in OF_A_METHOD if name in old and name in new]
    changes = [line for name in both for line in differences(old[name], new[name], name)]
    edited = [line for line in changes if line.partition(":")[0].endswith(f".{SOURCE}")]
    differing += [line for line in changes if line not in edited]
    if missing := [method for method in old.get("methods", ()) if method not in new["methods"]]:
        differing.append(f"methods: without {', '.join(missing)}, which the folder has")
    if differing:
        raise UserError(
            f"folder {folder} holds a run with other settings:\n  " + "\n  ".join(differing) + "\n"
            "Give --output another folder, or the same settings as before to finish that run."
        )
    brought = {name: new[name] for name in OF_A_METHOD if name in new}
    run = {**old, **brought, "methods": list(new["methods"]), "command": new.get("command", old.get("command"))}
    if edited:  # refusing would be in the way of mending it
        warn(f"the file was edited since the run was started; what is finished stays as it is: {'; '.join(edited)}")
    changed = differences(old.get("versions"), new.get("versions"), "versions")
    if changed:
        warn(
            f"the libraries are not those the run was started with; its {noun}s may differ in the last bits: "
            + "; ".join(changed)
        )
        run["later_versions"] = [*old.get("later_versions", []), new["versions"]]
    return run


def differences(old: Any, new: Any, name: str) -> list[str]:
    """Returns one line "name: old -> new" for every value that differs, names nested with dots."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [line for key in keys for line in differences(old.get(key), new.get(key), f"{name}.{key}")]
    if old == new:
        return []
    return [f"{name}: {_short(old)} -> {_short(new)}"]


def _short(value: Any, limit: int = 200) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[:limit] + "..."


def _read_run(path: Path) -> dict[str, Any]:
    try:
        run = json.loads(path.read_bytes().decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}); give --output another folder") from None
    if not isinstance(run, dict) or not all(name in run for name in COMPARED):
        raise UserError(f"{path} was not written by this program; give --output another folder")
    return run


def read_results(data: bytes, path: Path, noun: str) -> Iterable[Record]:
    """Yields the records in the bytes of a results file, without a last line that was cut off; raises UserError for
    any other that is damaged.
    """
    lines = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line.decode("utf-8")) if line.strip() else None
            if record is not None:
                key_of(record), record["status"], record["path"]
                check_text(record.get("choices", ""))
        except (ValueError, KeyError, TypeError) as error:
            if number == len(
                lines
            ):  # no newline after it: the process was killed while writing, so that one is not finished
                return
            raise UserError(
                f"{path}, line {number} is damaged ({error}); delete that line and its {noun} will be made again"
            ) from None
        if record is not None:
            yield record


def _lock_folder(folder: Path) -> int | None:
    # The lock is on the folder itself and goes with the process, also when it is killed. No lock where the system has
    # none.
    try:
        import fcntl
    except ImportError:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(
            f"another process is writing to folder {folder}; wait for it, or give --output another folder"
        ) from None
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None
    return descriptor
