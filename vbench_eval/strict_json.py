"""JSON that any reader accepts: files replaced as a whole, no NaN or Infinity in what is written."""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vbench_eval.errors import UserError

MAX_BYTES = 1 << 30


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


def write_json(path: Path, value: Any, *, ascii_only: bool = True) -> None:
    """Writes the value, indented by 4 as VBench does; the file is replaced as a whole or not at all.

    Raises ValueError if a number in it is not finite (`cleaned` first), OSError if the disk refuses.
    """
    text = json.dumps(value, indent=4, ensure_ascii=ascii_only, allow_nan=False) + ("" if ascii_only else "\n")
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text with "\\n" line ends; the file is replaced as a whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Writes the bytes; the file is replaced as a whole or not at all, and its folder made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


def read_json(path: Path, what: str) -> Any:
    """Returns the content of a JSON file; a byte-order mark is accepted, and NaN and Infinity come back as None.

    `what` names the file's role in errors. Raises UserError if it cannot be read or is not JSON.
    """
    return parse_json(read_bytes(path, what), path, what)


def read_bytes(path: Path, what: str) -> bytes:
    """Returns the bytes of a file; raises UserError, naming the file's role, if it cannot be read."""
    try:
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
    # 1e999 is valid JSON and infinite in Python
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value
