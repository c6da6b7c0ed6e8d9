"""Two folders of pictures against each other: which pictures belong together, and how often one side is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vbench_eval.errors import UserError
from vbench_eval.images.sources import Gallery
from vbench_eval.statistics import Interval, difference_interval, win_rate


def pairs_of(ours: Gallery, theirs: Gallery) -> dict[str, str]:
    """The names in `theirs` by those in `ours`: of the same name, their endings aside.

    Raises:
        UserError: no picture has its pair, or a pair is of two prompts.
    """
    by_stem = {_stem(name): name for name in theirs.names}
    found = {name: by_stem[_stem(name)] for name in ours.names if _stem(name) in by_stem}
    if not found:
        raise UserError(
            f"no picture of {ours.folder} has one of its name in {theirs.folder}; "
            "the pictures of a pair must be called alike"
        )
    prompts, others = (dict(zip(side.names, side.prompts, strict=True)) for side in (ours, theirs))
    for name, other in found.items():
        if prompts[name] != others[other] and None not in (prompts[name], others[other]):
            raise UserError(
                f"{name} is of {prompts[name]!r} in {ours.folder} and of {others[other]!r} in {theirs.folder}; "
                "the pictures of a pair must show one prompt"
            )
    return found


def against(
    ours: Mapping[str, float], theirs: Mapping[str, float], pairs: Mapping[str, str], prompts: Mapping[str, str | None]
) -> dict[str, Any]:
    """The share of pairs in which ours scores higher (a tie is half a win) and the mean difference, as JSON.

    `ours` and `theirs` are scores by name; pairs of which one has none are left out. Intervals treat the prompt as the
    unit.
    """
    names = [name for name in pairs if name in ours and pairs[name] in theirs]
    if not names:
        return {"pairs": 0}
    first, second = [ours[name] for name in names], [theirs[pairs[name]] for name in names]
    units = [prompts.get(name) or name for name in names]
    found = win_rate(first, second, units)
    return {
        "pairs": len(names),
        "win_rate": as_json(found.rate),
        "wins": found.wins,
        "ties": found.ties,
        "losses": found.losses,
        "difference": as_json(difference_interval(first, second, units)),
    }


def as_json(interval: Interval) -> dict[str, float | None]:
    """An interval as {"value", "low", "high"}."""
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _stem(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return folder + slash + (last.rpartition(".")[0] or last)
