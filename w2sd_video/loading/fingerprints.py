"""Whether two sets of weights are one, read from parts of their safetensors files (imports no torch).

A hash of rounded values cannot tell a copy in half precision from another model: rounding twice (float32 to float16 to
bfloat16) ends elsewhere than rounding once. The sign bit of a float is kept by every rounding, underflow and overflow
included, so a set of weights is named by the sign bits of its tensors, whatever they are called and in which order; two
sets are one where the name is the same and values agree as closely as bfloat16 tells them apart. The second half sees
what signs do not: another scale.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from w2sd_video.errors import UserError
from w2sd_video.loading.describe import Weights
from w2sd_video.loading.files import GGUF, read_safetensors_header

BLOCKS, BLOCK = 16, 4096  # of a tensor, values that are looked at: all of up to 65 536, else 16 runs of 4096
KEPT = 64  # of these, values that are compared as numbers
CLOSE = 2.0**-7  # relative: bfloat16 keeps 8 bits, rounded or cut off
SMALLEST = 2.0**-24  # absolute: what float16 takes for 0
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Tensor:
    """What is kept of a tensor: a digest of shape and signs, and some of its values (None: not known as numbers)."""

    digest: bytes
    values: Numbers | None = field(repr=False)


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is kept of a set of weights; `name` is 16 hexadecimal digits, alike for copies in other precisions."""

    tensors: dict[str, Tensor] = field(repr=False)

    @property
    def name(self) -> str:
        return hashlib.sha256(b"".join(sorted(tensor.digest for tensor in self.tensors.values()))).hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        """Whether both are one set of weights, up to precision, names and the order of tensors."""
        return isinstance(other, Fingerprint) and same_weights(self, other)

    __hash__ = None  # type: ignore[assignment]

    def without(self, part: str) -> Fingerprint:
        """The same but for tensors with `part` in their names."""
        return Fingerprint({name: tensor for name, tensor in self.tensors.items() if part not in name})


def fingerprint(weights: Weights) -> Fingerprint:
    """Returns the fingerprint of a part; reads at most 65 536 values of each tensor.

    Raises:
        UserError: a file that is damaged.
    """
    tensors = {}
    for path in weights.files:
        if path.suffix == GGUF:
            raise UserError(f"{path} is a GGUF file, whose weights are not compared; give it in 16 or 32 bits")
        read_safetensors_header(path)  # refuses what is cut short
        # Offsets are read here: safetensors' own reader gives rows or whole tensors, and numpy has no bfloat16.
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            entries: dict[str, Any] = json.loads(file.read(length))
            for name, entry in entries.items():
                if name != "__metadata__" and name.startswith(weights.prefix) and entry["dtype"] in WIDTHS:
                    found = _looked_at(file, 8 + length + entry["data_offsets"][0], entry)
                    tensors[name.removeprefix(weights.prefix)] = _kept(found, entry)
    return Fingerprint(tensors)


def same_weights(ours: Fingerprint, theirs: Fingerprint) -> bool:
    """Whether both are one set of weights, up to precision, names and the order of tensors."""
    return ours.name == theirs.name and all(
        _paired(ours_of, theirs_of) for ours_of, theirs_of in _by_digest(ours.tensors.values(), theirs.tensors.values())
    )


def difference(ours: Fingerprint, theirs: Fingerprint) -> float | None:
    """Returns how far the weights are apart: rms(theirs - ours) / rms(ours) over the values kept, as the median over
    tensors; None unless both have the same names. About 1.4 for networks that have nothing to do with each other.
    """
    if ours.tensors.keys() != theirs.tensors.keys():
        return None
    shares = []
    for name, tensor in ours.tensors.items():
        one, other = tensor.values, theirs.tensors[name].values
        if one is None or other is None or len(one) != len(other):
            return None
        if (size := float(np.sqrt(np.mean(one**2)))) > 0:
            shares.append(float(np.sqrt(np.mean((other - one) ** 2))) / size)
    return float(np.median(shares)) if shares else None


def _looked_at(file: BinaryIO, start: int, entry: dict[str, Any]) -> NDArray[np.uint8]:
    """The bytes of the values looked at, [n, width]."""
    width, count = WIDTHS[entry["dtype"]], math.prod(entry["shape"])
    firsts: Sequence[int] = [0]
    each = count
    if count > BLOCKS * BLOCK:
        firsts, each = [(count - BLOCK) * block // (BLOCKS - 1) for block in range(BLOCKS)], BLOCK
    read = bytearray()
    for first in firsts:
        file.seek(start + first * width)
        read += file.read(each * width)
    return np.frombuffer(bytes(read), np.uint8).reshape(-1, width)


def _kept(found: NDArray[np.uint8], entry: dict[str, Any]) -> Tensor:
    shape = [size for size in entry["shape"] if size != 1]  # a convolution of one pixel is a matrix in other layouts
    signs = np.packbits(found[:, -1] >> 7).tobytes()  # the sign is the first bit of the last byte
    digest = hashlib.sha256(f"{shape}".encode() + signs).digest()[:16]
    chosen = found[np.linspace(0, len(found) - 1, KEPT).astype(int)] if len(found) > KEPT else found
    return Tensor(digest, _numbers(np.ascontiguousarray(chosen), entry["dtype"]))


def _numbers(chosen: NDArray[np.uint8], dtype: str) -> Numbers | None:
    if dtype == "BF16":
        return (chosen.view("<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64).ravel()
    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
    return chosen.view(kinds[dtype]).astype(np.float64).ravel() if dtype in kinds else None


def _by_digest(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> Iterable[tuple[list[Tensor], list[Tensor]]]:
    groups: dict[bytes, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
    for side, tensors in enumerate((ours, theirs)):
        for tensor in tensors:
            groups[tensor.digest][side].append(tensor)
    return groups.values()


def _paired(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    """Whether every tensor of one side has one of the other's to itself that agrees with it."""
    left = list(theirs)
    for tensor in ours:
        match = next((other for other in left if _close(tensor.values, other.values)), None)
        if match is None:
            return False
        left.remove(match)
    return not left


def _close(ours: Numbers | None, theirs: Numbers | None) -> bool:
    if ours is None or theirs is None:  # of 8 bits: signs alone are compared
        return True
    limits = CLOSE * np.maximum(np.abs(ours), np.abs(theirs)) + SMALLEST
    return ours.shape == theirs.shape and bool(np.all(np.abs(ours - theirs) <= limits))
