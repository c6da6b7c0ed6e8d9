"""What a dimension's number means to a reader: its name in words, which way is better, what it says of motion."""

from __future__ import annotations

from collections.abc import Iterable

from vbench_eval.dimensions import OFFICIAL
from vbench_eval.proxies import PROXIES

# +1: rises with motion, -1: falls with it. Only what speaks of the amount of motion, not of its smoothness.
MOTION = {"dynamic_degree": 1, "flow_dynamic": 1, "frozen_frames": -1}
# Consistency, +1 where it rises with the number, -1 where it falls: a video that stands still scores best.
CONSISTENCY = {
    "subject_consistency": 1,
    "background_consistency": 1,
    "motion_smoothness": 1,
    "temporal_flickering": 1,
    "pixel_consistency": 1,
    "interp_smoothness_linear": 1,
    "interp_smoothness_flow": 1,
    "warp_error": -1,
}
_ORDER = {name: place for place, name in enumerate((*OFFICIAL, *PROXIES))}


def words(name: str) -> str:
    """The dimension's name as a heading: "subject consistency"."""
    return name.replace("_", " ")


def better(name: str, official: bool) -> int:
    """+1 where higher is better, -1 where lower is, 0 where neither is: more contrast is no better picture as such."""
    if official:
        return 1
    return PROXIES[name].better if name in PROXIES else 0


def about(name: str) -> str:
    """What a proxy measures, in one line; nothing for other names."""
    proxy = PROXIES.get(name)
    return "" if proxy is None else f"{proxy.description} ({proxy.unit}; {proxy.reading})"


def in_order(names: Iterable[str]) -> list[str]:
    """The names as a reader expects them: the paper's columns, other official ones, then the proxies in their order."""
    return sorted(names, key=lambda name: (_ORDER.get(name, len(_ORDER)), name))
