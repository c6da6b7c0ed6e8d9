"""What the loop of a modular pipeline holds: one latent, or a video and its sound, reflected as one tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from w2sd_video.core.options import ReflectionConfig
from w2sd_video.errors import UserError

CLASSIC = "or reflect the classic pipeline, `reflected(pipe, ...)` of LTX2Pipeline or LTX2ImageToVideoPipeline"


def has_sound(state: Any) -> bool:
    """Whether the loop steps a video and its sound (LTX-2)."""
    return getattr(state, "audio_latents", None) is not None


def check_sound(state: Any, scheduler: Any, config: ReflectionConfig) -> None:
    """Raises `UserError` for what a video and its sound cannot have as one tensor."""
    if not has_sound(state):
        return
    if getattr(state, "conditioning_mask", None) is not None:
        raise UserError(
            "a reflection block of LTX-2 makes videos of text, and these begin from pictures, whose tokens it would "
            f"move; leave the pictures out, {CLASSIC}"
        )
    if config.cap is not None:
        raise UserError(
            "a reflection block moves a video and its sound as one, and cap is for one latent; leave it out, " + CLASSIC
        )
    if config.motion_strength != 1:
        raise UserError("motion_strength is for videos alone, and these have sound; leave it out")
    if not torch.equal(scheduler.sigmas, state.audio_scheduler.sigmas):
        raise UserError(f"the video and its sound are sampled at different levels; give both one schedule, {CLASSIC}")


def latents_of(state: Any) -> Tensor:
    """The latents in float32 or better: the loop's own, or [B, N] with all numbers of a video and then its sound."""
    video = _exact(state.latents)
    return torch.cat([video.flatten(1), _exact(state.audio_latents).flatten(1)], 1) if has_sound(state) else video


def put_latents(state: Any, x: Tensor) -> None:
    """Writes latents as `latents_of` gives them into the state, in its own dtype."""
    if has_sound(state):
        sound = state.audio_latents
        state.audio_latents = x[:, -sound[0].numel() :].reshape(sound.shape).to(sound.dtype)
    state.latents = picture_of(state, x).to(state.latents.dtype)


def picture_of(state: Any, x: Tensor) -> Tensor:
    """The part of x, as `latents_of` gives it, that is seen."""
    return x[:, : state.latents[0].numel()].reshape(state.latents.shape) if has_sound(state) else x


def prediction_of(state: Any, scheduler: Any, i: int) -> Tensor:
    """What the loop's denoiser predicted at step i, of the shape of `latents_of`, as the network predicts it.

    A loop with sound keeps clean estimates x - sigma_i v in the place of the velocities v.
    """
    if not has_sound(state):
        return state.noise_pred  # type: ignore[no-any-return]
    clean = torch.cat([state.noise_pred_video.flatten(1), state.noise_pred_audio.flatten(1)], 1)
    return (latents_of(state) - clean) / scheduler.sigmas[i]


def guidance_beside(name: str, guider: Any, main: Any, scale: float) -> float:
    """The guidance of a guider where the main one's is `scale`: that of sound is in proportion to the video's."""
    own, first = guider.config["guidance_scale"], main.config["guidance_scale"]
    return 1 + (own - 1) * (scale - 1) / (first - 1) if name == "audio_guider" and first != 1 else scale


def _exact(latents: Tensor) -> Tensor:
    return latents.to(torch.promote_types(latents.dtype, torch.float32))
