"""CIFAR-10's Python batches, read without running what their pickles may contain; and which pictures a run has."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.dataset_gap.pictures import Pictures, Split, load_digits
from experiments.dataset_gap.recipe import CIFAR, DIGITS, Recipe
from w2sd_video.errors import UserError

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SEEN = tuple(f"data_batch_{n}" for n in range(1, 6))
UNSEEN = ("test_batch",)
ROW = 3 * 32 * 32


class _Bytes:
    """Stands for numpy's dtype in a pickle: of all types there are, that of bytes."""

    def __init__(self, name: object, *flags: object) -> None:
        if name not in ("u1", b"u1", "|u1", b"|u1"):
            raise pickle.UnpicklingError(f"an array of type {name!r}, not of bytes")

    def __setstate__(self, state: object) -> None:
        """Byte order and the like mean nothing for bytes."""


class _Array:
    """Stands for a numpy array in a pickle; `array` is made here, of bytes, by us."""

    array: np.ndarray

    def __setstate__(self, state: object) -> None:
        if not (isinstance(state, tuple) and len(state) == 5):
            raise pickle.UnpicklingError("an array in an unknown form")
        _, shape, dtype, columns_first, raw = state
        if not isinstance(dtype, _Bytes) or not isinstance(raw, bytes):
            raise pickle.UnpicklingError("an array that is not of bytes")
        self.array = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if columns_first else "C")


def _array(*described: object) -> _Array:
    return _Array()


def _encoded(text: object, encoding: object = "latin1") -> bytes:
    """How Python 3 writes bytes into a pickle for Python 2: as text, to be encoded."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("bytes in an unknown encoding")
    return text.encode("latin1")


def _no_array(*_: object) -> None:
    raise pickle.UnpicklingError("an array made in an unknown way")


class _Plain(pickle.Unpickler):
    """Reads numbers, text, lists, dicts and arrays of bytes. Every class is one of ours; any other name is refused."""

    ALLOWED: Mapping[tuple[str, str], Any] = {
        ("numpy", "ndarray"): _no_array,  # named as an argument of the function below, never to be called
        ("numpy", "dtype"): _Bytes,
        ("numpy.core.multiarray", "_reconstruct"): _array,
        ("numpy._core.multiarray", "_reconstruct"): _array,
        ("_codecs", "encode"): _encoded,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which a CIFAR-10 batch does not contain")
        return self.ALLOWED[module, name]


def read_batch(file: Path) -> tuple[Tensor, Tensor]:
    """Pictures [N, 3, 32, 32] in [-1, 1] and labels [N] in 0 .. 9 of one batch file.

    Raises:
        UserError: the file is missing, damaged, or no batch of CIFAR-10.
    """
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise UserError(
            f"{file} cannot be read ({error.strerror}); --cifar-dir takes the folder cifar-10-batches-py "
            "that CIFAR-10's Python version unpacks to"
        ) from error
    try:
        batch = _Plain(io.BytesIO(raw), encoding="bytes").load()
        data, labels = (_entry(batch, name) for name in ("data", "labels"))
        rows = data.array if isinstance(data, _Array) else None
        if rows is None or rows.ndim != 2 or rows.shape[1] != ROW:
            raise ValueError(f"no pictures of {ROW} bytes each")
        if not isinstance(labels, list) or len(labels) != len(rows):
            raise ValueError("not a label for each picture")
        if not all(isinstance(label, int) and 0 <= label < len(NAMES) for label in labels):
            raise ValueError("labels other than 0 to 9")
    except UserError:
        raise
    except Exception as error:  # a damaged pickle fails in any way there is
        raise UserError(f"{file} is no batch of CIFAR-10 ({error}); download the data set again") from error
    pictures = torch.from_numpy(rows.copy()).view(-1, 3, 32, 32).float() / 127.5 - 1
    return pictures, torch.tensor(labels)


def _entry(batch: object, name: str) -> object:
    if not isinstance(batch, dict):
        raise ValueError("not a dictionary")
    for key in (name, name.encode()):
        if key in batch:
            return batch[key]
    raise ValueError(f"no entry {name!r}")


def load_cifar(folder: Path, majority: str = "horse", minority: str = "automobile") -> Split:
    """Two classes of CIFAR-10: those of the five training batches are seen, those of the test batch unseen.

    Raises:
        UserError: a batch is missing or damaged, or a class has too few pictures.
    """
    if not folder.is_dir():
        raise UserError(f"--cifar-dir {folder} is no folder; give cifar-10-batches-py as CIFAR-10 unpacks to")
    return Split(_read(folder, SEEN, majority, minority), _read(folder, UNSEEN, majority, minority))


def _read(folder: Path, names: tuple[str, ...], majority: str, minority: str) -> Pictures:
    batches = [read_batch(folder / name) for name in names]
    pictures, labels = torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])
    chosen = [pictures[labels == NAMES.index(name)] for name in (majority, minority)]
    count = min(len(some) for some in chosen)  # 5000 each in the real data: 2:1 and 10:1 as they should be
    if count < 10:
        raise UserError(f"{folder} has {count} pictures of {majority} or {minority}; at least 10 of each are needed")
    known = torch.tensor([NAMES.index(name) for name in (majority, minority)])
    return Pictures(chosen[0][:count], chosen[1][:count], pictures[~torch.isin(labels, known)])


def load_source(cifar: Path | None) -> tuple[Recipe, Split]:
    """The digits, or a folder of CIFAR-10's Python batches.

    Raises:
        UserError: as of `load_digits` or `load_cifar`.
    """
    if cifar is None:
        return DIGITS, load_digits(DIGITS.majority, DIGITS.minority)
    return CIFAR, load_cifar(cifar, CIFAR.majority, CIFAR.minority)
