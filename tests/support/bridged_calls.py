"""Quick calls of `tiny`'s pipelines for the tests of the pixel bridge."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from bridges.pixel.noise_maps import Mapped
from tests.support import tiny
from w2sd_video import ModelSpec

STEPS = 6
UNGUIDED = ModelSpec(guidance=1.0)
CALLS: dict[str, dict[str, Any]] = {
    "flux": tiny.FLUX_CALL,
    "sdxl": {**tiny.IMAGE_CALL, "guidance_scale": 3.0},
    "sd15": {**tiny.IMAGE_CALL, "guidance_scale": 3.0},
    "animatediff_sdxl": {**tiny.ANIMATEDIFF_CALL, "guidance_scale": 3.0},
}


@functools.cache
def pipeline(kind: str, seed: int = 1) -> Any:
    """One of `tiny`'s pipelines; tests leave them as they found them."""
    return getattr(tiny, kind)(seed)


def call(pipe: Any, kind: str, prompt: Any = "a red cat", **more: Any) -> Tensor:
    settings = {"num_inference_steps": STEPS, "output_type": "latent", "generator": tiny.generator()}
    return torch.as_tensor(pipe(prompt, **{**settings, **CALLS[kind], **more})[0])


def mapped(scale: float = 1.0) -> Mapped:
    """A noise map between the tiny pipelines' spaces of 4 channels."""
    turn = torch.linalg.qr(torch.randn(4, 4, generator=tiny.generator(3), dtype=torch.float64)).Q
    return Mapped(turn, scale)


def rounding(latents: Tensor, evaluations: int, scale: float) -> float:
    """What float32 may add: each evaluation rounds its latent and its prediction to 6e-8 of the largest value, and
    guidance passes a difference on up to (2 scale - 1)-fold."""
    return evaluations * 2 * (2 * scale - 1) * 6e-8 * float(latents.abs().max())
