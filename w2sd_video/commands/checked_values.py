"""Single values of a request, checked: got, allowed, remedy (imports no torch)."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import NoReturn

from w2sd_video.errors import UserError

MAX_SEED = 2**63 - 1


def whole(given: int | None, default: int, name: str, low: int, high: int) -> int:
    """Returns the number given, or the default for None; raises UserError unless it is whole and within the bounds."""
    value = default if given is None else given
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UserError(f"{name} is {value!r}; it must be a whole number from {low} to {high}")
    return value


def finite(given: float | None, default: float, name: str) -> float:
    """Returns the number given, or the default for None; raises UserError unless it is finite."""
    value = default if given is None else given
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{name} is {value!r}; it must be a finite number")
    return float(value)


def one_of(value: str, allowed: Iterable[str], name: str) -> str:
    """Returns the value; raises UserError naming those allowed if it is none of them."""
    if value not in allowed:
        unknown(name, value, allowed)
    return value


def unknown(kind: str, got: str, allowed: Iterable[str]) -> NoReturn:
    """Raises UserError naming those allowed, and the nearest of them."""
    allowed = list(allowed)
    near = difflib.get_close_matches(got.lower(), allowed, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UserError(f"unknown {kind} {got!r}: choose from {', '.join(allowed)}{hint}")
