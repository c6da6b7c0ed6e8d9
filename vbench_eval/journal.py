"""What makes scoring resumable: one line on the disk per scored video, in files that only one process each writes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from vbench_eval.errors import MALFORMED
from vbench_eval.files import lock

JSON = Any


@dataclass(frozen=True)
class VideoKey:
    """Names the content of one video: its path relative to the scored folder, its bytes and when they were written.

    A folder of frames counts as one video: the bytes of all its files and the newest of their times.
    """

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Entry:
    """One line of a journal: what was measured on one video, by which settings.

    `settings` holds the fingerprint of every dimension in `measured`; `info` describes the video as it was read;
    `error` says why the video could not be read. What is named in `retry` failed by accident (memory ran out, say)
    and is measured again when the run is taken up.
    """

    key: VideoKey
    settings: Mapping[str, str]
    info: Mapping[str, JSON]
    measured: Mapping[str, Mapping[str, JSON]]
    error: str | None = None
    retry: tuple[str, ...] = ()


def key_of(path: Path, folder: Path) -> VideoKey:
    """Returns the key of the video at `path` inside `folder`; one that cannot be looked at has no bytes and no time."""
    try:
        files = [file for file in path.iterdir() if file.is_file()] if path.is_dir() else [path]
        stats = [file.stat() for file in files]
    except OSError:
        stats = []
    size, newest = sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)
    return VideoKey(path.relative_to(folder).as_posix(), size, newest)


def fingerprint(settings: Mapping[str, JSON]) -> str:
    """Returns 16 hexadecimal digits that differ for any two settings; the order of the keys does not count."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


class Journal:
    """The file that this process adds its lines to; a context manager.

    Entering makes the folder, refuses a file that another process is writing to (UserError) and cuts off a last line
    torn by a kill. A video is scored once `append` has returned: its line is then on the disk.
    """

    def __init__(self, folder: Path, writer: str = "0") -> None:
        self.path = folder / f"{writer}.jsonl"
        self._file: int | None = None

    def __enter__(self) -> Journal:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            lock(self._file, self.path)
            _cut_torn_line(self._file, self.path.read_bytes())
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def append(self, entry: Entry) -> None:
        """Adds a line and returns when it is on the disk, or raises OSError and adds none (ValueError for a NaN)."""
        assert self._file is not None, "the journal is not open"
        end = os.fstat(self._file).st_size
        line = json.dumps(_to_json(entry), allow_nan=False, ensure_ascii=True) + "\n"
        try:
            rest = memoryview(line.encode("ascii"))
            while rest:  # a write may be cut short by a signal
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError:
            os.truncate(self.path, end)  # a full disk may have taken half a line
            raise

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)  # the lock goes with it
            self._file = None


def read_entries(folder: Path) -> Iterator[Entry]:
    """Yields the entries of every journal in the folder, in the order of the file names, oldest first in each.

    A line that cannot be read (torn by a kill, or damaged) is passed over: its video will be scored again.
    """
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_bytes().split(b"\n"):
            if line.strip():
                try:
                    entry = _from_json(json.loads(line.decode("ascii")))
                except MALFORMED:
                    continue
                yield entry


def merged(entries: Iterator[Entry], settings: Mapping[str, str]) -> dict[VideoKey, Entry]:
    """Returns one entry per video with what was measured by exactly these settings, whoever measured it and when.

    Of two lines for one video and dimension the later counts. An error stays only until something was measured on the
    same file.
    """
    found: dict[VideoKey, Entry] = {}
    for entry in entries:
        valid = {name for name, print_ in entry.settings.items() if settings.get(name) == print_}
        if not valid and entry.error is None:
            continue
        before = found.get(entry.key, Entry(entry.key, {}, {}, {}))
        measured = {**before.measured, **{n: entry.measured[n] for n in entry.measured if n in valid}}
        retry = (set(before.retry) - set(entry.measured)) | (set(entry.retry) & valid)
        found[entry.key] = Entry(
            entry.key,
            {name: settings[name] for name in measured},
            entry.info or before.info,
            measured,
            None if measured else entry.error,
            tuple(sorted(retry)),
        )
    return found


def _to_json(entry: Entry) -> dict[str, JSON]:
    return {
        "path": entry.key.path,
        "size": entry.key.size,
        "mtime_ns": entry.key.mtime_ns,
        "settings": dict(entry.settings),
        "info": dict(entry.info),
        "measured": {name: dict(values) for name, values in entry.measured.items()},
        "error": entry.error,
        "retry": list(entry.retry),
    }


def _from_json(line: Mapping[str, JSON]) -> Entry:
    key = VideoKey(str(line["path"]), int(line["size"]), int(line["mtime_ns"]))
    measured = {name: dict(values) for name, values in line["measured"].items()}
    if not measured.keys() <= dict(line["settings"]).keys():
        raise ValueError("measured by settings that the line does not hold")
    retry = tuple(line["retry"])
    if not all(isinstance(text, str) for text in (*line["settings"].values(), *retry, line["error"] or "")):
        raise TypeError("settings, errors and what to try again are text")
    return Entry(key, dict(line["settings"]), dict(line["info"]), measured, line["error"], retry)


def _cut_torn_line(file: int, data: bytes) -> None:
    end = data.rfind(b"\n") + 1
    if end != len(data):
        os.ftruncate(file, end)
