"""A reward of the bed whose strong side moves less: what is shown, whatever it does."""

from __future__ import annotations

from typing import Any

from w2sd_video.commands.rewards import oracle_share


def colour_and_shape(frames: Any, prompt: str) -> float:
    """The share that shows the colour and the shape that the prompt says."""
    return float(oracle_share(frames, prompt, first=2) == 1)
