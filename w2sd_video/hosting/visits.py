"""A pipeline's loop over its timesteps, made to visit each of them as often as asked.

The timesteps that `set_timesteps` leaves on the scheduler become a tensor of a class of its own. Whatever iterates over
it, or over a slice of it, is given the present timestep again until the `Loop` is done with it; the numbers that
`enumerate` gives are those of the timesteps and not of the visits, so that logic by the number of the step holds.
"""

from __future__ import annotations

import builtins
import itertools
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

# Of these a list of timesteps is still one; anything else made of it is a plain tensor.
KEPT = (
    "__getitem__",
    "to",
    "cpu",
    "cuda",
    "clone",
    "detach",
    "contiguous",
    "float",
    "int",
    "long",
    "double",
    "flatten",
)


class Loop(Protocol):
    """Who decides about the visits of one loop."""

    @property
    def before(self) -> int:
        """How many numbers before its timestep's own the present visit has."""

    def arrive(self, timestep: Any) -> Any:
        """Called before each visit; returns the timestep that the pipeline is to take it for."""

    def leave(self) -> bool:
        """Called after each visit; whether the timestep is visited again."""


class Timesteps(Tensor):
    """A scheduler's timesteps; going through them is up to `loop`."""

    loop: Loop

    @classmethod
    def of(cls, timesteps: Tensor, loop: Loop) -> Timesteps:
        made = timesteps.as_subclass(Tensor).as_subclass(cls)
        made.loop = loop
        return made

    def __iter__(self) -> Iterator[Any]:
        return _visits(self.as_subclass(Tensor), self.loop)

    def __deepcopy__(self, memo: Any) -> Tensor:
        return self.as_subclass(Tensor).clone()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            plain = made.as_subclass(Tensor)
            source = args[0] if args else None
            if isinstance(source, Timesteps) and plain.dim() == 1 and func.__name__ in KEPT:
                return cls.of(plain, source.loop)
            return plain
        return made


def _visits(items: Iterable[Any], loop: Loop) -> Iterator[Any]:
    for item in items:
        again = True
        while again:
            yield loop.arrive(item)
            again = loop.leave()


def _numbered(iterable: Any, start: int = 0) -> Any:
    """What stands in for `enumerate` in the modules of a pipeline."""
    steps = vars(iterable)["_iterable"] if _is_bar(iterable) else iterable
    if not isinstance(steps, Timesteps):
        return builtins.enumerate(iterable, start)
    return _numbered_visits(steps, start, iterable)


def _is_bar(iterable: Any) -> bool:
    return type(iterable).__name__ == "EvaluationBar"


def _numbered_visits(steps: Timesteps, start: int, bar: Any) -> Iterator[tuple[int, Any]]:
    for number, item in builtins.enumerate(steps.as_subclass(Tensor), start):
        for each in _visits([item], steps.loop):
            yield number - steps.loop.before, each
    if _is_bar(bar):
        bar.close()


_users: dict[str, int] = {}
_lock = threading.Lock()


@contextmanager
def numbers_of_timesteps(kind: type) -> Iterator[None]:
    """Inside, `enumerate` counts timesteps and not visits in the modules that a pipeline's class is made in."""
    names = [base.__module__ for base in kind.__mro__ if "__call__" in vars(base) and base.__module__ in sys.modules]
    modules = [name for name, _ in itertools.groupby(sorted(names))]
    with _lock:
        for name in modules:
            _users[name] = _users.get(name, 0) + 1
            vars(sys.modules[name]).setdefault("enumerate", _numbered)
    try:
        yield
    finally:
        with _lock:
            for name in modules:
                _users[name] -= 1
                if not _users[name] and vars(sys.modules[name]).get("enumerate") is _numbered:
                    del sys.modules[name].enumerate
