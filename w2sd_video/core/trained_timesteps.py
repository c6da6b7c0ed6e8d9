"""Which timesteps few-step checkpoints were trained at, by the word for their kind (imports no torch)."""

from __future__ import annotations

from typing import Any

from w2sd_video.core.options import is_finite
from w2sd_video.errors import UserError

Timesteps = str | tuple[float, ...]
"""Timesteps of a scheduler, or a word of `KINDS` with what it may have behind it, or `OWN`."""

KINDS = {"lcm": 50, "turbo": 4, "dmd": 4, "lightning": 4, "hyper": 4}
"""How many levels each kind has where it is not said, evenly spaced from the noisiest on ("trailing")."""
OWN = "own"
MOST = 1000
HELP = (
    "timesteps such as 999,749,499,249; or lcm, turbo, dmd, lightning-4, hyper-8 (a number of levels behind the word), "
    "with the shift of a flow behind a colon (lightning-4:5); or own, all that its own scheduler was trained at"
)


def checked_timesteps(given: Any) -> Timesteps:
    """Returns timesteps from the noisiest on, or the word in its full form, so that equal ones compare equal.

    Raises:
        UserError: neither, or no timesteps at all.
    """
    if isinstance(given, str):
        if given == OWN:
            return OWN
        kind, count, shift = _taken_apart(given)
        return f"{kind}-{count}" + ("" if shift is None else f":{shift:g}")
    numbers = list(given) if isinstance(given, list | tuple) else []
    if not numbers or not all(is_finite(t) and t >= 0 for t in numbers) or len(set(numbers)) < len(numbers):
        raise UserError(f"levels is {given!r}; give {HELP}")
    return tuple(sorted(numbers, reverse=True))


def read_timesteps(text: str) -> Timesteps:
    """Returns what a flag says: comma-separated timesteps, or a word."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        return checked_timesteps(text.strip())
    return checked_timesteps(numbers)


def trained_timesteps(levels: Timesteps, *, flow: bool, total: int = 1000) -> tuple[float, ...] | None:
    """Returns the timesteps, noisiest first, of a network whose scheduler has ``total``; None for `OWN`: all of them.

    The k-th of N is ``total * (1 - k / N) - 1``, rounded; of a flow ``total * s u / (1 + (s - 1) u)``, u = 1 - k / N,
    with the shift s. Timesteps that are given as numbers are returned as they are.

    Raises:
        UserError: a word for a flow without its shift, or with one for what is none.
    """
    if not isinstance(levels, str):
        return levels
    if levels == OWN:
        return None
    kind, count, shift = _taken_apart(levels)
    if flow and shift is None:
        raise UserError(
            f"levels is {levels!r}, and this network is a flow, whose levels depend on the shift that it was distilled "
            f"with: say it behind a colon, such as {kind}-{count}:5 (1 for none)"
        )
    if not flow and shift is not None:
        raise UserError(
            f"levels is {levels!r}, and a shift is of flows, which this network is not: leave :{shift:g} out"
        )
    shares = [1 - k / count for k in range(count)]
    if shift is not None:
        return tuple(total * shift * u / (1 + (shift - 1) * u) for u in shares)
    return tuple(float(round(total * u) - 1) for u in shares)


def _taken_apart(word: str) -> tuple[str, int, float | None]:
    name, _, shift_text = word.partition(":")
    kind, _, count_text = name.partition("-")
    try:
        count = int(count_text) if "-" in name else KINDS[kind]
        shift = float(shift_text) if ":" in word else None
        if kind in KINDS and 1 <= count <= MOST and (shift is None or (is_finite(shift) and shift > 0)):
            return kind, count, shift
    except (ValueError, KeyError):
        pass
    raise UserError(f"levels is {word!r}; give {HELP}")
