"""What the dimensions share: results of the right shape, means that are numbers, and videos that have no value."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from vbench_eval.dimensions import Measured
from vbench_eval.errors import UserError
from vbench_eval.protocols import Backbone


def unmeasured(reason: str) -> Measured:
    """Returns a result without a value, saying why; it takes no part in any average."""
    return Measured(None, None, weight=0.0, reason=reason)


def finite_mean(values: Sequence[float]) -> float | None:
    """Returns the mean, summed exactly, of at least one value; None if one of them is not finite."""
    if not all(map(math.isfinite, values)):
        return None
    return math.fsum(values) / len(values)


def of_shape(backbone: Backbone, result: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Returns what a backbone gave; raises UserError if it is not of the shape that its protocol promises."""
    if tuple(result.shape) != shape:
        raise UserError(f"{backbone.name} gave a result of shape {tuple(result.shape)}; it must be {shape}")
    return result
