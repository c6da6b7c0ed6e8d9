"""What makes a run resumable: run.json says what the folder holds, results.jsonl what is finished."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from vbench_eval.files import sync_folder, write_bytes
from w2sd_video.errors import UserError, malformed
from w2sd_video.runs.fellows import SHARED, Fellows, forget, left_lines, locked
from w2sd_video.runs.tasks import check_text

RUN_FILE = "run.json"
RESULTS_FILE = "results.jsonl"
# What must be the same for the contents of one folder to belong together. Library versions are recorded and only warned
# about.
COMPARED = ("preset", "pair", "settings", "prompts", "seeds", "device", "dtype")
SOURCE = "source"  # within one of those: a hash of the user's own file
OF_A_METHOD = ("reward",)  # compared where both runs have it: a method that needs it may be added later
JOINED = ("methods", "command", "versions", "later_versions")  # what a run that is taken up again may bring anew

PATIENCE = 20.0  # seconds that a process waits for one that settles the folder which they are to share

Record = dict[str, Any]
Key = tuple[str, str, int]


def key_of(record: Mapping[str, Any]) -> Key:
    """Returns what names one thing within a run: (method, prompt, index)."""
    return record["method"], record["prompt"], record["index"]


class Journal:
    """The run folder, held by one process, or by several that share it; a context manager.

    Entering makes the folder, refuses one that holds another run (UserError listing what differs), one that holds
    other people's files, and one that another process is writing to; it mends a torn last line. Methods may be added
    to a finished folder (a control, say), and prompts after those it has; everything else must be as it was. A video
    (or what else `noun` says is made) is finished once `append` has put its line on the disk.

    With `shared` any number of processes may hold the folder together: what is made is claimed first, each writes its
    lines to a file of its own, `news` tells of the others', and `settle` brings all into results.jsonl.
    """

    def __init__(
        self,
        folder: Path,
        run: Mapping[str, Any],
        *,
        warn: Callable[[str], None] = lambda message: None,
        noun: str = "video",
        shared: bool = False,
    ) -> None:
        self.folder = folder
        self.run: dict[str, Any] = json.loads(json.dumps(run))  # as it will be read back: lists for tuples
        self.records: dict[Key, Record] = {}
        self.shared = shared
        self._warn = warn
        self._noun = noun
        self._lock: int | None = None
        self._fellows: Fellows | None = None

    def __enter__(self) -> Journal:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock, first = _lock_folder(self.folder, shared=self.shared)
            if first:
                self._settle_run()
                self._adopt()
            if self.shared:
                locked(self._lock, shared=True)
                self._fellows = Fellows(self.folder)
                if not first:
                    with self.alone():
                        self._settle_run()
                        self._read_results()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fellows is not None:
            self._fellows.leave()
            self._fellows = None
        if self._lock is not None:
            # The last one to leave tidies up: a lock for itself alone says that nobody else is there.
            if self.shared and (self.folder / SHARED).exists() and locked(self._lock):
                with contextlib.suppress(UserError, OSError):
                    self._adopt(trusted=True)
            os.close(self._lock)
            self._lock = None

    def finished(self, key: Key) -> bool:
        """Whether this one is on the disk, complete."""
        record = self.records.get(key)
        return record is not None and record["status"] == "done"

    def append(self, *records: Record) -> None:
        """Adds lines to results.jsonl (or to this process's own until `settle`); returns when they are on the disk."""
        append_lines(self.folder / RESULTS_FILE if self._fellows is None else self._fellows.own, records)
        self.records.update((key_of(record), record) for record in records)

    def claim(self, what: str) -> bool:
        """Returns whether this process is the one to make `what`; False while another one alive claims it."""
        return self._fellows is None or self._fellows.claim(what)

    def news(self) -> list[Record]:
        """Returns what other processes finished, or failed at, since the last call."""
        if self._fellows is None:
            return []
        found = {}
        for record in read_results(self._fellows.news(), self._fellows.home, self._noun):
            if key_of(record) not in self.records:
                found[key_of(record)] = record
        self.records.update(found)
        return list(found.values())

    def alone(self) -> AbstractContextManager[Any]:
        """Inside, no other process that shares the folder is in here: for files that all of them write."""
        return contextlib.nullcontext() if self._fellows is None else self._fellows.alone()

    def settle(self, order: Iterable[Key]) -> None:
        """Brings all lines into results.jsonl, in this order (others last). To be called within `alone`."""
        before, records = list(self.records), self.records
        ordered = {key: records[key] for key in order if key in records}
        self.records = ordered | records
        if self.shared or before != list(self.records):
            self._write_results()

    def amend(self, **facts: Any) -> None:
        """Adds to run.json what only the run itself could tell, as JSON data; a fact of the same name is replaced.

        `notes`, a list of sentences, is shown at the head of the page, other facts among its settings. What the run
        was started with cannot be amended (ValueError).
        """
        if fixed := sorted(facts.keys() & {*COMPARED, *OF_A_METHOD, *JOINED}):
            raise ValueError(f"{', '.join(fixed)} of a run is fixed when it starts; amend it with other names")
        with self.alone():
            self._amend(facts)

    def agree(self, name: str, value: Any) -> Any:
        """Returns the fact of this name in run.json, which is `value` where there is none yet: what all processes that
        share the folder go by.
        """
        with self.alone():
            if name not in self._current():
                self._amend({name: value})
            return self.run[name]

    def note(self, message: str) -> None:
        """Adds a sentence to the run's notes, and warns of it, unless it stands there already."""
        with self.alone():
            notes = self._current().get("notes", [])
            if message not in notes:
                self._amend({"notes": [*notes, message]})
                self._warn(message)

    def _current(self) -> dict[str, Any]:
        if self.shared:  # another process may have amended it
            self.run = _read_run(self.folder / RUN_FILE)
        return self.run

    def _amend(self, facts: Mapping[str, Any]) -> None:
        self._current().update(json.loads(json.dumps(facts)))
        self._write_run()

    def _settle_run(self) -> None:
        for name in (RUN_FILE, RESULTS_FILE):
            if (self.folder / name).exists() and not (self.folder / name).is_file():  # a pipe would be waited for
                raise UserError(f"{self.folder / name} is no file; give --output another folder")
        path = self.folder / RUN_FILE
        begun = (self.folder / RESULTS_FILE).exists() or (self.folder / SHARED).exists()
        if path.exists() and not begun:
            _read_run(path)  # a run that was refused or stopped before its first video: there is nothing to keep
        elif path.exists():
            with malformed(str(path), "give --output another folder"):
                self.run = joined(_read_run(path), self.run, self.folder, self._warn, noun=self._noun)
                json.dumps(self.run)  # so deep that it cannot be written again
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

    def _adopt(self, *, trusted: bool = False) -> None:
        """Brings the lines of processes that are gone into results.jsonl; unless `trusted`, without those that are not
        true any more.
        """
        self._read_results(left_lines(self.folder), trusted=trusted)
        self._write_results()
        forget(self.folder)
        sync_folder(self.folder)

    def _read_results(self, more: bytes = b"", *, trusted: bool = False) -> None:
        path = self.folder / RESULTS_FILE
        data, written = (path.read_bytes(), path.stat().st_mtime_ns) if path.exists() else (b"", 0)
        self.records = {}
        for source, since in ((data, written), (more, 0)):
            for record in read_results(source, path, self._noun):
                # A failed one is tried again, one that went missing or was damaged is made again.
                if trusted or (record["status"] == "done" and is_whole(self.folder, record, since)):
                    self.records.setdefault(key_of(record), record)
                    if record["status"] == "done":
                        self.records[key_of(record)] = record

    def _write_results(self) -> None:
        path = self.folder / RESULTS_FILE
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in self.records.values())
        if text.encode("utf-8") != (path.read_bytes() if path.exists() else b""):
            write_bytes(path, text.encode("utf-8"))


def fingerprint(path: Path) -> Record:
    """Returns what tells a complete file (or folder of files) from a damaged one: its bytes and their SHA-256."""
    digest, size = hashlib.sha256(), 0
    for file in _files(path):
        with open(file, "rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
                size += len(block)
    return {"bytes": size, "sha256": digest.hexdigest()}


def is_whole(folder: Path, record: Mapping[str, Any], since: int) -> bool:
    """Returns whether the file of a finished record is there as it was written.

    Its size is always compared, its hash where the file is newer than `since`, the time (in ns) when the record was
    known to be true. Records of versions that kept neither need a file that is not empty.
    """
    try:
        stats = [file.stat() for file in _files(folder / record["path"])]
    except OSError:
        return False
    size = sum(stat.st_size for stat in stats)
    if "bytes" not in record:
        return size > 0
    if size != record["bytes"]:
        return False
    newer = any(stat.st_mtime_ns > since for stat in stats)
    return not newer or fingerprint(folder / record["path"])["sha256"] == record.get("sha256")


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]


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
    known = _without_added_prompts(old, new)
    differing = [line for name in COMPARED for line in differences(old.get(name), known.get(name), name)]
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
    if known is not new:
        brought |= {"prompts": new["prompts"], "pair": new["pair"]}
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


def _without_added_prompts(old: Mapping[str, Any], new: Mapping[str, Any]) -> Mapping[str, Any]:
    """The new run with the old one's prompts, where it has these first and more after them, each with as many seeds."""
    had, has = old["prompts"], new["prompts"]
    if len(has) <= len(had) or list(has[: len(had)]) != had or not isinstance(new.get("seeds"), list):
        return new
    pair = {**new["pair"], "raw_prompts": {p: raw for p, raw in new["pair"].get("raw_prompts", {}).items() if p in had}}
    if not pair["raw_prompts"]:
        del pair["raw_prompts"]
    return {**new, "prompts": had, "pair": pair}


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
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); give --output another folder") from None
    if not isinstance(run, dict) or not all(name in run for name in COMPARED):
        raise UserError(f"{path} was not written by this program; give --output another folder")
    kinds = {"pair": dict, "settings": dict, "prompts": list, "methods": list, "notes": list, "later_versions": list}
    for name, kind in kinds.items():
        if not isinstance(run.get(name, kind()), kind):
            raise UserError(f"{path} is damaged ({name} is no {kind.__name__}); give --output another folder")
    if not all(isinstance(text, str) for name in ("methods", "notes") for text in run.get(name, ())):
        raise UserError(f"{path} is damaged (methods and notes are text); give --output another folder")
    return run


def read_results(data: bytes, path: Path, noun: str) -> Iterator[Record]:
    """Yields the records in the bytes of a results file, without a last line that was cut off; raises UserError for
    any other that is damaged.
    """
    lines = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line.decode("utf-8")) if line.strip() else None
            if record is not None:
                _check_record(record)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if number == len(lines):
                # No newline after it: the process was killed while writing, so that one is not finished.
                return
            raise UserError(
                f"{path}, line {number} is damaged ({error}); delete that line and its {noun} will be made again"
            ) from None
        if record is not None:
            yield record


def _check_record(record: Record) -> None:
    """Raises ValueError, KeyError or TypeError for what no run writes."""
    for name, kind in (("method", str), ("prompt", str), ("index", int), ("status", str)):
        if not isinstance(record[name], kind):
            raise TypeError(f"{name} is {record[name]!r}")
    if record["status"] == "done":
        path = Path(record["path"])
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"path is {record['path']!r}")
    for name in ("num_evaluations", "num_rows", "seconds", "peak_memory_mb"):
        if not isinstance(record.get(name, 0), int | float):
            raise TypeError(f"{name} is {record[name]!r}")
    check_text(record.get("choices", ""))


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds a folder, made if it is not there (and gone again if nothing came of it), while a command that keeps no
    journal works for it.

    Raises:
        UserError: it cannot be written to, is a file, or another process writes to it.
    """
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"folder {folder} cannot be made: {error.strerror}; name another one") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"folder {folder} cannot be written to; name another one")
    descriptor, _ = _lock_folder(folder, shared=False)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it holds something
            if new:
                folder.rmdir()
        os.close(descriptor)


def _lock_folder(folder: Path, *, shared: bool) -> tuple[int, bool]:
    """Holds the folder, alone or with others that share it; returns the lock, and whether nobody else has one.

    The lock goes with the process, also when it is killed.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(round(PATIENCE / 0.1) if shared else 1):
        if locked(descriptor):
            return descriptor, True
        if shared and locked(descriptor, shared=True):
            return descriptor, False
        time.sleep(0.1 if shared else 0)  # another one is settling the folder, or tidying it up
    os.close(descriptor)
    raise UserError(f"another process is writing to folder {folder}; wait for it, or give --output another folder")
