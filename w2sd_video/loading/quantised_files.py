"""Quantised checkpoints by their headers: which package they need, and what GGUF files hold (imports no torch).

The layout of GGUF is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 2 or 3, little-endian.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from w2sd_video.errors import UserError
from w2sd_video.loading.files import TensorInfo

QUANTISERS = {"bitsandbytes": "bitsandbytes", "torchao": "torchao", "quanto": "optimum", "gguf": "gguf"}
# By ggml's number: the name of a type, and how many bytes hold how many numbers.
TYPES = {
    0: ("F32", 4, 1),
    1: ("F16", 2, 1),
    30: ("BF16", 2, 1),
    2: ("Q4_0", 18, 32),
    3: ("Q4_1", 20, 32),
    6: ("Q5_0", 22, 32),
    7: ("Q5_1", 24, 32),
    8: ("Q8_0", 34, 32),
    10: ("Q2_K", 84, 256),
    11: ("Q3_K", 110, 256),
    12: ("Q4_K", 144, 256),
    13: ("Q5_K", 176, 256),
    14: ("Q6_K", 210, 256),
}
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # of values in the metadata, by type
STRING, LIST = 8, 9
MOST = 1_000_000  # tensors, entries, characters: more is a damaged file


def check_installed(config: Mapping[str, Any], place: Path) -> None:
    """Raises `UserError` for a network quantised by a package that is not here."""
    settings = config.get("quantization_config")
    if not settings:
        return
    method = str(settings.get("quant_method", "?") if isinstance(settings, Mapping) else settings)
    check_package(method, place)


def check_package(method: str, place: Path) -> None:
    """Raises `UserError` for weights quantised by a method whose package is not here."""
    package = next((package for start, package in QUANTISERS.items() if method.startswith(start)), None)
    if package is None or find_spec(package) is None:
        installed = {"optimum": "optimum-quanto"}.get(str(package), package)
        remedy = "" if package is None else f"pip install {installed}, or "
        raise UserError(f"{place} holds weights quantised by {method}; {remedy}give weights in 16 or 32 bits")


def read_gguf_header(path: Path) -> dict[str, TensorInfo]:
    """Returns the tensors a GGUF file describes, by name, after checking that the file is all there.

    Shapes are torch's (the last dimension is next to each other in the file).

    Raises:
        UserError: no GGUF file, one that is cut short, or types that diffusers does not read.
    """
    try:
        with path.open("rb") as file:
            return _read(file, path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error}") from error
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path} is cut short, corrupt or no GGUF file ({error}); download it again") from error


def _read(file: BinaryIO, path: Path) -> dict[str, TensorInfo]:
    if file.read(4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    version, tensors, entries = _unpack(file, "<IQQ")
    if version not in (2, 3) or max(tensors, entries) > MOST:
        raise ValueError(f"version {version}, {tensors} tensors")
    alignment = 32
    for _ in range(entries):
        key = _text(file)
        value = _value(file, _unpack(file, "<I")[0])
        if key == "general.alignment" and isinstance(value, int):
            alignment = max(1, value)
    found, ends = {}, [0]
    for _ in range(tensors):
        name, dims = _text(file), _unpack(file, "<I")[0]
        if dims > 8:
            raise ValueError(f"{name} has {dims} dimensions")
        shape = tuple(reversed(_unpack(file, f"<{dims}Q")))
        number, offset = _unpack(file, "<IQ")
        if number not in TYPES:
            raise UserError(
                f"{path} holds {name} as type {number} of GGUF, which is not read; allowed: "
                f"{', '.join(kind for kind, *_ in TYPES.values())}"
            )
        kind, size, block = TYPES[number]
        found[name] = TensorInfo(kind, shape)
        ends.append(offset + math.prod(shape) // block * size)
    start = -(-file.tell() // alignment) * alignment
    if path.stat().st_size < start + max(ends):
        raise ValueError(f"{path.stat().st_size} bytes, the header describes {start + max(ends)}")
    return found


def _unpack(file: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _text(file: BinaryIO) -> str:
    (length,) = _unpack(file, "<Q")
    if length > MOST:
        raise ValueError(f"a name of {length} characters")
    return file.read(length).decode("utf-8")


def _value(file: BinaryIO, kind: int) -> int | str | None:
    """A value of the metadata; None for those that do not matter here."""
    if kind == STRING:
        return _text(file)
    if kind == LIST:
        inner, count = _unpack(file, "<IQ")
        if count > 100 * MOST:
            raise ValueError(f"a list of {count} values")
        if inner in SIZES:
            file.seek(count * SIZES[inner], 1)
            return None
        for _ in range(count):
            _value(file, inner)
        return None
    if kind not in SIZES:
        raise ValueError(f"a value of type {kind}")
    data = file.read(SIZES[kind])
    return int.from_bytes(data, "little") if kind in (0, 2, 4, 10) else None
