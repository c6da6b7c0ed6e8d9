"""Classifier-free guidance as a linear interpolation."""

from __future__ import annotations

import torch
from torch import Tensor


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
