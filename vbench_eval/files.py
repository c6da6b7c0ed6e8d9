"""Files that any reader accepts: replaced as a whole, no NaN or Infinity in JSON, a folder written by one at a time."""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vbench_eval.errors import UserError

MAX_BYTES = 1 << 30
MAX_NUMBER = 1 << 1000
PARTIAL = ".partial"


def cleaned(value: Any, place: str = "") -> tuple[Any, list[str]]:
    """Returns the value as plain JSON data, and a line for every number that is not one ("videos[3].fps was nan").

    Such numbers become null; NumPy's and torch's single numbers become Python's, tuples lists, paths text. Raises
    TypeError for anything else that JSON has no form for.
    """
    if value is None or isinstance(value, bool | int | str):
        return value, []
    if isinstance(value, float):
        return (float(value), []) if math.isfinite(value) else (None, [f"{place or 'the value'} was {value}"])
    if isinstance(value, Mapping):
        pairs = {str(key): cleaned(item, f"{place}.{key}" if place else str(key)) for key, item in value.items()}
        return {key: item for key, (item, _) in pairs.items()}, [line for _, lines in pairs.values() for line in lines]
    if isinstance(value, list | tuple):
        items = [cleaned(item, f"{place}[{number}]") for number, item in enumerate(value)]
        return [item for item, _ in items], [line for _, lines in items for line in lines]
    if isinstance(value, os.PathLike):
        return os.fspath(value), []
    if callable(getattr(value, "item", None)) and getattr(value, "ndim", 0) == 0:
        return cleaned(value.item(), place)
    raise TypeError(f"{place or 'the value'} is {type(value).__name__}, which JSON has no form for")


def write_json(path: Path, value: Any, *, ascii_only: bool = True, contested: bool = False) -> None:
    """Writes the value, indented by 4 as VBench does; the file is replaced as a whole or not at all.

    Raises ValueError if a number in it is not finite (`cleaned` first), OSError if the disk refuses.
    """
    text = json.dumps(value, indent=4, ensure_ascii=ascii_only, allow_nan=False) + ("" if ascii_only else "\n")
    write_bytes(path, text.encode("utf-8"), contested=contested)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text with "\\n" line ends; the file is replaced as a whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes, *, contested: bool = False) -> None:
    """Puts a complete file in place: written beside it, flushed to the disk, renamed; its folder is made if need be.

    The file beside it has the name that the next try takes again, so that a killed one leaves nothing behind; where
    several processes may write the file at once it is `contested`, and each has its own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    long = len(os.fsencode(path.name)) > 240  # of the 255 bytes that a name may have
    own = f"{os.getpid()}-{secrets.token_hex(4)}" if contested or long else path.name
    partial = path.with_name(f".{own}{PARTIAL}")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames in a folder survive a power cut, where the system can (not on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps other processes that ask for the folder from writing to it meanwhile; made if it is not there, and gone
    again if nothing came of it.

    Raises UserError if another holds it. The lock goes with the process, also when it is killed.
    """
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":  # which opens no folders
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock(descriptor, folder)
        yield
    finally:
        with contextlib.suppress(OSError):  # it holds something
            if new:
                folder.rmdir()
        os.close(descriptor)


def lock(file: int, path: Path) -> None:
    """Locks an open file until it is closed; does nothing where the system has no such locks. Raises UserError if
    another process holds it.
    """
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"another process is writing to {path}; wait for it, or give --output or --name another value"
        ) from None
    except OSError:  # a file system without locks
        return


def read_json(path: Path, what: str) -> Any:
    """Returns the content of a JSON file; a byte-order mark is accepted, and NaN and Infinity come back as None.

    `what` names the file's role in errors. Raises UserError if it cannot be read or is not JSON.
    """
    return parse_json(read_bytes(path, what), path, what)


def read_bytes(path: Path, what: str) -> bytes:
    """Returns the bytes of a file; raises UserError, naming the file's role, if it cannot be read."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # a pipe would be waited for
            raise UserError(f"{what} {path} is no file; give the path of an existing file")
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{what} {path} has {path.stat().st_size} bytes; at most {MAX_BYTES} are read")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror}; give the path of an existing file") from None


def parse_json(data: bytes, path: Path, what: str) -> Any:
    """Returns what the bytes of the file at `path` hold, as `read_json` does."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{what} {path} is not UTF-8 text (byte {error.start}); give a JSON file") from None
    try:
        return _finite(json.loads(text, parse_constant=lambda name: None))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{what} {path} is not JSON (line {error.lineno}, column {error.colno}: {error.msg}); "
            "give the file as it was written"
        ) from None
    except RecursionError:
        raise UserError(f"{what} {path} is nested too deeply; give the file as it was written") from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{what} {path}: {error}; give the file as it was written") from None


def _finite(value: Any) -> Any:
    # 1e999 is valid JSON and infinite in Python; so large a whole number is no float at all
    if isinstance(value, int) and abs(value) > MAX_NUMBER:
        return None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value
