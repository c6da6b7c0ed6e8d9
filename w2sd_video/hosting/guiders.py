"""How guidance combines two predictions, by the arithmetic of diffusers' own guiders."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import guiders
from torch import Tensor

from w2sd_video.core import Combine


def combine_by(name: str, weight: float, num_steps: int, *, flow: bool) -> Combine | None:
    """Returns how predictions of the strong and the weak side become one, None for ``strong + weight (strong - weak)``.

    "cfg-zero" is CFG-Zero* (arXiv 2503.18886; on a flow path its first step is zeroed, as printed), "apg" adaptive
    projected guidance (arXiv 2410.02416: nothing along the strong prediction, momentum -0.5), "tcfg" tangential
    damping (arXiv 2503.18137). Make a new one for each call: APG has a memory.
    """
    scale: dict[str, Any] = {"guidance_scale": 1 + weight}
    if name == "linear":
        return None
    guider: Any
    if name == "cfg-zero":
        guider = guiders.ClassifierFreeZeroStarGuidance(zero_init_steps=int(flow), **scale)
    elif name == "apg":  # from the strong prediction on, as printed: what lies along it is not to be moved
        guider = guiders.AdaptiveProjectedGuidance(
            guidance_scale=weight, use_original_formulation=True, eta=0.0, adaptive_projected_guidance_momentum=-0.5
        )
        guider.momentum_buffer = guiders.adaptive_projected_guidance.MomentumBuffer(-0.5)
    else:
        guider = guiders.TangentialClassifierFreeGuidance(**scale)

    def combine(step: int, strong: Tensor, weak: Tensor) -> Tensor:
        guider.set_state(step, num_steps, torch.tensor(0))
        return guider.forward(strong, weak).pred

    return combine
