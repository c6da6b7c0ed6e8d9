"""What the dimensions share: results of the right shape, means that are numbers, and videos that have no value."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from vbench_eval.dimensions import Measured
from vbench_eval.errors import UserError
from vbench_eval.profiles import Profile
from vbench_eval.protocols import Backbone
from vbench_eval.video_info import VideoError


def unmeasured(reason: str) -> Measured:
    """Returns a result without a value, saying why; it takes no part in any average."""
    return Measured(None, None, weight=0.0, reason=reason)


def finite_mean(values: Sequence[float]) -> float | None:
    """Returns the mean, summed exactly, of at least one value; None if one of them is not finite."""
    if not all(map(math.isfinite, values)):
        return None
    return math.fsum(values) / len(values)


def refuse_small(backbone: Backbone, profile: Profile, frames: Tensor) -> None:
    """Raises VideoError for padded frames [1, 3, H, W] on which VBench's own code divides by zero.

    Networks with a pyramid of correlations (RAFT, AMT) say in `vbench_side` from which side on VBench's code works:
    below, the coarsest level is one pixel wide, VBench's coordinates become NaN, and it calls every video still. Our
    code gives finite numbers there, which would not be VBench's: under its profile there is no value.
    """
    height, width = frames.shape[-2:]
    least = getattr(backbone, "vbench_side", 0)
    if profile.name == "vbench" and min(height, width) < least:
        raise VideoError(
            f"frames are {width}x{height} with padding; below {least} pixels VBench's own {backbone.name} divides by "
            "zero, so there is no number to compare with: use the profile fixed"
        )


def of_shape(backbone: Backbone, result: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Returns what a backbone gave; raises UserError if it is not of the shape that its protocol promises."""
    if tuple(result.shape) != shape:
        raise UserError(f"{backbone.name} gave a result of shape {tuple(result.shape)}; it must be {shape}")
    return result
