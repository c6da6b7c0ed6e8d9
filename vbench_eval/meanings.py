"""What a dimension's number means to a reader: its name in words, which way is better, what it says of motion."""

from __future__ import annotations

from collections.abc import Iterable

from vbench_eval.dimensions import OFFICIAL

TABLE_12 = OFFICIAL[:6]
"""The columns of Table 12 of the paper (arXiv 2502.00473), in its order."""

# +1: rises with motion, -1: falls with it. Only what speaks of the amount of motion, not of its smoothness.
MOTION = {"dynamic_degree": 1, "flow_dynamic": 1, "frozen_frames": -1}
# What a video that stands still scores best in, by construction.
CONSISTENCY = (
    "subject_consistency",
    "background_consistency",
    "motion_smoothness",
    "temporal_flickering",
    "pixel_consistency",
    "interp_smoothness_linear",
    "interp_smoothness_flow",
)
_LOWER_IS_BETTER = {"acceleration", "jerk", "noise_sigma", "blockiness", "frozen_frames", "warp_error"}
_HIGHER_IS_BETTER = {*CONSISTENCY, "flow_dynamic"}


def words(name: str) -> str:
    """The dimension's name as a heading: "subject consistency"."""
    return name.replace("_", " ")


def better(name: str, official: bool) -> int:
    """+1 where higher is better, -1 where lower is, 0 where neither is: more contrast is no better picture as such."""
    if official or name in _HIGHER_IS_BETTER:
        return 1
    return -1 if name in _LOWER_IS_BETTER else 0


def in_order(names: Iterable[str]) -> list[str]:
    """The names as a reader expects them: the paper's columns first, then the others by name."""
    return sorted(names, key=lambda name: (OFFICIAL.index(name) if name in OFFICIAL else len(OFFICIAL), name))
