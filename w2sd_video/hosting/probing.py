"""How a pipeline guides, from what it made of a probe in the place of its network's predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from w2sd_video.errors import UserError


@dataclass(frozen=True)
class Guided:
    """How a pipeline weighs the two halves of guidance.

    Attributes:
        conditional_first: whether the conditional half comes first, in one call or in two.
        scale: of `uncond + scale * (cond - uncond)`; 1 where it prepared the conditional half only.
        channels: how many it guides, from the first on, the others being those of the conditional half (DiT's published
            sampling guides 3 of 4); None for all.
    """

    conditional_first: bool = True
    scale: float = 1.0
    channels: int | None = None


def measure(combined: Tensor, scales: Sequence[float]) -> Guided:
    """Returns how a pipeline guides that made `combined` [B, C, ...] of the probe.

    The probe is ones in the first row and zeros elsewhere. Waits for the device.

    Raises:
        UserError: it is not plain guidance with one of `scales`.
    """
    row = combined[0].float()
    low, high = torch.stack(torch.aminmax(row)).tolist()
    found = _recognised(low, high, scales) or _measure_channels(row, scales)
    if found is None:
        raise UserError(
            "this pipeline does not combine its two predictions by plain guidance, uncond + scale * (cond - uncond) "
            f"(scale one of {[float(s) for s in scales]}), or changes a prediction before the scheduler has it; "
            "turn off guidance_rescale and other changes to guidance"
        )
    return found


def _recognised(low: float, high: float, scales: Sequence[float]) -> Guided | None:
    """The guidance that makes values from `low` to `high` of the probe."""
    if not (math.isfinite(low) and math.isfinite(high) and high - low <= 1e-2 * max(1.0, abs(high))):
        return None
    # [distance, the conditional half comes first, scale]; scales may lie close together, so the nearest counts
    found = [(abs(low - end), first, s) for s in scales for first, end in ((False, 1.0 - s), (True, s))]
    distance, first, scale = min(found, key=lambda each: each[0])
    return Guided(first, scale) if distance <= 1e-2 * max(1.0, abs(scale)) else None


def _measure_channels(row: Tensor, scales: Sequence[float]) -> Guided | None:
    """The guidance of the first channels, where the rest are as the probe was in the conditional half."""
    ends = torch.stack(torch.aminmax(row.reshape(len(row), -1), dim=1)).tolist()
    found = _recognised(ends[0][0], ends[1][0], scales)
    if found is None:
        return None
    alone = [low == high == float(found.conditional_first) for low, high in zip(*ends, strict=True)]
    count = alone.index(True) if True in alone else 0
    if count == 0 or not all(alone[count:]):
        return None
    same = _recognised(min(ends[0][:count]), max(ends[1][:count]), scales) == found
    return replace(found, channels=count) if same else None
