"""How guidance combines two predictions, by the arithmetic of diffusers' own guiders."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import guiders
from torch import Tensor

from w2sd_video.core import Combine
from w2sd_video.errors import UserError

NO_KORNIA = (
    "guider fdg is FrequencyDecoupledGuidance of diffusers, which needs the package kornia; install it (pip install "
    "kornia) or choose another guider"
)


def combine_by(name: str, weight: float, num_steps: int, *, flow: bool) -> Combine | None:
    """Returns how predictions of the strong and the weak side become one, None for ``strong + weight (strong - weak)``.

    "cfg-zero" is CFG-Zero* (arXiv 2503.18886; on a flow path its first step is zeroed, as printed), "apg" adaptive
    projected guidance (arXiv 2410.02416: nothing along the strong prediction, momentum -0.5), "tcfg" tangential
    damping (arXiv 2503.18137), "fdg" frequency-decoupled guidance (arXiv 2506.19713: the finer half of a Laplacian
    pyramid has twice the weight; needs the package kornia). Make a new one for each call: APG has a memory.

    Raises:
        UserError: "fdg" without kornia, or for latents that are not pictures or videos of a height and a width.
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
    elif name == "fdg":
        return _decoupled(weight)
    else:
        guider = guiders.TangentialClassifierFreeGuidance(**scale)

    def combine(step: int, strong: Tensor, weak: Tensor) -> Tensor:
        guider.set_state(step, num_steps, torch.tensor(0))
        return guider.forward(strong, weak).pred

    return combine


def _decoupled(weight: float) -> Combine:
    """FDG, frame by frame: kornia's pyramids are of pictures [N, C, H, W]."""
    try:
        guider = guiders.FrequencyDecoupledGuidance(guidance_scales=[1 + 2 * weight, 1 + weight])
    except ImportError as error:
        raise UserError(NO_KORNIA) from error

    def combine(step: int, strong: Tensor, weak: Tensor) -> Tensor:
        if strong.dim() not in (4, 5) or min(strong.shape[-2:]) < 4:
            raise UserError(
                f"guider fdg takes frequencies of pictures, and these latents are {list(strong.shape)}; it needs "
                "[N, C, H, W] or [N, C, F, H, W] of at least 4 x 4, so take another guider"
            )
        if strong.dim() == 4:
            return guider.forward(strong, weak).pred
        flat = [side.transpose(1, 2).flatten(0, 1) for side in (strong, weak)]
        made = guider.forward(*flat).pred
        return made.unflatten(0, (strong.shape[0], strong.shape[2])).transpose(1, 2)

    return combine
