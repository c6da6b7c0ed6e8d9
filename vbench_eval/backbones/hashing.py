"""Checksums of weight files, each computed once: a file is known by its path, size and time of change."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from vbench_eval.errors import UserError
from vbench_eval.strict_json import write_json

REMEMBERED = "sha256.json"
LARGE = 64 << 20  # bytes: reading so many again in every process takes longer than it should
WEIGHT_PATTERNS = ("*.safetensors", "pytorch_model*.bin")
_known: dict[str, str] = {}


def own_cache(cache: str | os.PathLike[str] | None = None) -> Path:
    """Returns our cache folder: the given one, else $VBENCH_EVAL_CACHE, else ~/.cache/vbench_eval. It may not exist."""
    return Path(cache or os.environ.get("VBENCH_EVAL_CACHE") or "~/.cache/vbench_eval").expanduser()


def sha256(path: Path, *, cache: str | os.PathLike[str] | None = None) -> str:
    """Returns the hexadecimal sha256 of a file.

    It is remembered in this process, and in our cache folder if there is one; for a large file one is made.
    """
    key = _key(path)
    if key not in _known:
        store = own_cache(cache) / REMEMBERED
        _known.update({k: v for k, v in _read(store).items() if k not in _known})
        if key not in _known:
            with path.open("rb") as file:
                _known[key] = hashlib.file_digest(file, "sha256").hexdigest()
            if path.stat().st_size >= LARGE:
                with suppress(OSError):
                    store.parent.mkdir(parents=True, exist_ok=True)
            _write(store, key, _known[key])
    return _known[key]


def content_sha256(path: Path, *, cache: str | os.PathLike[str] | None = None) -> str:
    """Returns the sha256 of a weight file, or of the weight file of a saved network's folder.

    The hash of a network in several files is that of the lines "name hash" of all of them. "" if there is none.
    """
    if path.is_file():
        return sha256(path, cache=cache)
    files = weight_files(path)
    if len(files) == 1:
        return sha256(files[0], cache=cache)
    lines = "".join(f"{file.name} {sha256(file, cache=cache)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest() if files else ""


def weight_files(folder: Path) -> list[Path]:
    """Returns the files that hold the network of a folder, of the first kind there is; safetensors come first."""
    for pattern in WEIGHT_PATTERNS:
        if found := sorted(folder.glob(pattern)):
            return found
    return []


def require_sha256(path: Path, expected: str, *, cache: str | os.PathLike[str] | None = None) -> None:
    """Raises UserError if the file's sha256 is not the expected one."""
    got = sha256(path, cache=cache)
    if got != expected:
        raise UserError(
            f"{path} has sha256 {got}, the published file has {expected}: it is damaged, cut short or another file; "
            "delete it and fetch it again"
        )


def _key(path: Path) -> str:
    state = path.stat()
    return f"{path.resolve()}|{state.st_size}|{state.st_mtime_ns}"


def _read(store: Path) -> dict[str, str]:
    with suppress(OSError, ValueError):
        found = json.loads(store.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return {str(key): value for key, value in found.items() if isinstance(value, str)}
    return {}


def _write(store: Path, key: str, value: str) -> None:
    # Only a convenience: a folder that is missing or read-only costs another reading of the file, nothing else.
    if not store.parent.is_dir():
        return
    with suppress(OSError):
        write_json(store, _read(store) | {key: value})
