"""A network's arguments at a step, by name: their halves of guidance, their rows, changes to them, equality."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

BATCH_SECOND = ("encoder_hidden_states_llama3",)  # arguments whose rows are their second dimension
Arguments = dict[str, Any]
# A frozen dataclass with the fields `conditional`, `unconditional` and `doubled` (arguments, or None).
Halves = TypeVar("Halves", bound=Any)


def changed(given: Halves, name: str, change: Callable[[Tensor], Tensor]) -> Halves:
    """The arguments with the one called `name` changed in each half, where it is given."""

    def one(arguments: Arguments | None) -> Arguments | None:
        if arguments is None or arguments.get(name) is None:
            return arguments
        return {**arguments, name: change(arguments[name])}

    return _each(given, one, one)


def for_rows(given: Halves, batch: int, rows: Sequence[int]) -> Halves:
    """The arguments for other latents: latent i gets those of recorded row `rows[i]`, of `batch` in each half."""
    both = [*rows, *(batch + row for row in rows)]

    def one(arguments: Arguments | None) -> Arguments | None:
        return None if arguments is None else _picked_all(arguments, batch, rows)

    def two(arguments: Arguments | None) -> Arguments | None:
        return None if arguments is None else _picked_all(arguments, 2 * batch, both)

    return _each(given, one, two)


def halves(doubled: Arguments, rows: int) -> list[Arguments]:
    """The first and the second half of a network's arguments for `rows` rows, both halves of guidance."""
    return [{name: _half(name, value, rows, k) for name, value in doubled.items()} for k in (0, 1)]


def equal(one: Any, other: Any) -> bool:
    """Whether two arguments, or containers of them, have the same values (waits for the device)."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one is other or (one.shape == other.shape and torch.equal(one, other.to(one.dtype)))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and bool(one == other)


def fresh(value: Any) -> Any:
    """Arguments in dictionaries and lists of their own, as networks take entries out of those they are given."""
    if isinstance(value, dict):
        return {name: fresh(item) for name, item in value.items()}
    return [fresh(item) for item in value] if isinstance(value, list) else value


def _each(given: Halves, one: Callable, two: Callable) -> Halves:
    """The arguments with their halves replaced; halves that are one object stay one."""
    conditional = one(given.conditional)
    same = given.unconditional is given.conditional
    unconditional = conditional if same else one(given.unconditional)
    return replace(given, conditional=conditional, unconditional=unconditional, doubled=two(given.doubled))


def _half(name: str, value: Any, rows: int, index: int) -> Any:
    """The given half of all that has a batch dimension (`rows`, or a multiple: text embeddings repeated per frame)."""
    if isinstance(value, dict):
        return {key: _half(key, item, rows, index) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_half(name, item, rows, index) for item in value)
    return value.chunk(2, _batch_dim(name))[index] if _batched(name, value, rows) else value


def _picked_all(arguments: Arguments, batch: int, rows: Sequence[int]) -> Arguments:
    return {name: _picked(name, value, batch, rows) for name, value in arguments.items()}


def _picked(name: str, value: Any, batch: int, rows: Sequence[int]) -> Any:
    """The given rows of all that has a batch dimension of `batch`."""
    if isinstance(value, dict):
        return {key: _picked(key, item, batch, rows) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_picked(name, item, batch, rows) for item in value)
    dim = _batch_dim(name)
    if not _batched(name, value, batch) or value.shape[dim] != batch:
        return value
    return value.index_select(dim, torch.tensor(list(rows), device=value.device))


def _batched(name: str, value: Any, rows: int) -> bool:
    """Whether a dimension of a network's argument counts latents (`rows`, or a multiple of it)."""
    dim = _batch_dim(name)
    counts = isinstance(value, Tensor) and value.dim() > dim and value.shape[dim] % rows == 0
    return counts and "rotary" not in name and name not in ("img_ids", "txt_ids")


def _batch_dim(name: str) -> int:
    return 1 if name in BATCH_SECOND else 0
