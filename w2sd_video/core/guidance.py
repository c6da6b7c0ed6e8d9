"""Predictions combined of two: classifier-free guidance as a linear interpolation, and auto-guidance."""

from __future__ import annotations

import torch
from torch import Tensor

from w2sd_video.core.levels import Level
from w2sd_video.core.paths import like
from w2sd_video.core.reflection import Denoiser, JointDenoiser


def lerp_guidance(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """The guided prediction ``unconditional + scale * (conditional - unconditional)``, in float32 or better.

    A lerp returns exactly ``unconditional`` at scale 0 and exactly ``conditional`` at scale 1 (the sum above misses in
    a third of all elements), so that leaving out the half that does not count changes nothing.

    Args:
        unconditional: prediction for the negative prompt, any shape.
        conditional: prediction for the prompt, the same shape.
        scale: guidance scale; any float, negative ones included.

    Raises:
        ValueError: the shapes differ.
    """
    if unconditional.shape != conditional.shape:
        raise ValueError(
            f"guidance needs two predictions of one shape, got {tuple(unconditional.shape)} (unconditional) "
            f"and {tuple(conditional.shape)} (conditional)"
        )
    dtype = torch.promote_types(conditional.dtype, torch.float32)
    return torch.lerp(unconditional.to(dtype), conditional.to(dtype), float(scale))


def autoguidance(
    strong: Denoiser, weak: Denoiser, weight: float = 1.0, *, joint: JointDenoiser | None = None
) -> Denoiser:
    """The denoiser ``strong + weight * (strong - weak)`` (Eq. 36-38). Two evaluations, or one of ``joint``.

    The baseline of App. E.5: to first order, W2SD is sampling with this at weight 1. The combination is made of the
    predictions, in which a step is affine: of first order, it is that of the two latents.
    """

    def combined(x: Tensor, level: Level) -> Tensor:
        good, bad = (strong(x, level), weak(x, level)) if joint is None else joint(x, level)
        good = like(good, x)
        return torch.add(good, good - like(bad, x), alpha=weight)

    return combined
