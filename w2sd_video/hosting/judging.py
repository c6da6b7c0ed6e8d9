"""The reward of method "w2sd-auto": clean estimates decoded to frames, and a number for each sample of a call."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from w2sd_video.errors import UserError
from w2sd_video.hosting.calls import call_signature
from w2sd_video.hosting.run import Run
from w2sd_video.latents.codecs import Codec, codec_of
from w2sd_video.latents.layouts import picture_size
from w2sd_video.latents.vaes import factor_of
from w2sd_video.pair import Selection

MAX_PIXELS_AT_ONCE = 4 * 1024 * 1024  # through the VAE


class Judge:
    """Rewards clean estimates of the latents of one call, as `core.Selector` asks.

    Args:
        selection: the reward.
        pipe: whose VAE decodes.
        kind: the pipeline's class.
        arguments: of the call: prompts, and the size of packed latents.
        latents_shape: of the call.
        run: whose `num_decodes` counts.

    Raises:
        UserError: latents that no image VAE decodes.
    """

    def __init__(
        self,
        selection: Selection,
        pipe: Any,
        kind: type,
        arguments: Mapping[str, Any],
        latents_shape: Sequence[int],
        *,
        run: Run,
    ) -> None:
        check_pictures(pipe)
        self._selection, self._run = selection, run
        self._prompts = prompts_of(arguments, latents_shape[0])
        parameters = call_signature(kind).parameters
        given = {name: arguments.get(name, parameter.default) for name, parameter in parameters.items()}
        if len(latents_shape) == 3:  # packed: their size is not theirs to say
            height, width = picture_size(pipe, given)
        else:
            height, width = (factor_of(pipe.vae) * side for side in latents_shape[-2:])
        chunk = max(1, MAX_PIXELS_AT_ONCE // (height * width))
        codec = codec_of(pipe, latents_shape, height, width, given.get("num_frames"), chunk=chunk)
        self._frames: list[int] | None = None
        if codec.layout.kind == "video":
            self._frames = evenly_spread(latents_shape[2], selection.frames)
            codec = Codec(pipe.vae, replace(codec.layout, num_frames=len(self._frames)), chunk=chunk)
        self._codec = codec

    def __call__(self, clean: Tensor) -> Tensor:
        """The reward of each sample [B] of clean estimates [B, ...], in float64 on the host.

        Raises:
            UserError: estimates that are not finite, or a reward that is no finite number.
        """
        if self._frames is not None:
            clean = clean[:, :, torch.tensor(self._frames, device=clean.device)]
        pixels = self._codec.decode(self._codec.layout.grid(clean))
        self._run.num_decodes += 1
        if not bool(pixels.isfinite().all()):
            raise UserError(
                "a clean estimate that the reward is to judge is not finite once decoded; try a lower guidance, or "
                "check the networks' weights"
            )
        levels = pixels.add(1).mul(127.5).clamp(0, 255).round().to(torch.uint8)
        videos = levels.permute(0, 2, 3, 1).cpu().unflatten(0, (len(self._prompts), -1)).numpy()
        rewards = [self._reward(frames, prompt) for frames, prompt in zip(videos, self._prompts, strict=True)]
        return torch.tensor(rewards, dtype=torch.float64)

    def _reward(self, frames: Any, prompt: str | None) -> float:
        value = self._selection.reward(frames, prompt)
        try:
            number = math.nan if isinstance(value, str) else float(value)
        except (TypeError, ValueError, RuntimeError):  # a tensor of several numbers
            number = math.nan
        if not math.isfinite(number):
            raise UserError(
                f"the reward returned {_shortened(value)} for {prompt!r}; it must return a finite number for the "
                f"frames {list(frames.shape)} of one sample"
            )
        return number


def check_pictures(pipe: Any) -> None:
    """Raises `UserError` for a pipeline whose latents cannot be decoded to pictures one by one."""
    name, vae = type(pipe).__name__, getattr(pipe, "vae", None)
    if vae is None:
        raise UserError(f'method "w2sd-auto" rewards decoded pictures, and the {name} has no VAE; load it with one')
    try:
        factor_of(vae)
    except UserError as error:
        raise UserError(
            f'method "w2sd-auto" rewards decoded clean estimates of {name}, which cannot be had: {error}; '
            'use method "w2sd" there'
        ) from error


def prompts_of(arguments: Mapping[str, Any], batch: int) -> list[str | None]:
    """The prompt of each sample of a call, None where it has none as text; pipelines repeat each for its samples."""
    prompts = arguments.get("prompt")
    prompts = list(prompts) if isinstance(prompts, list | tuple) else [prompts]
    if not prompts or batch % len(prompts):
        return [None] * batch
    texts = [prompt if isinstance(prompt, str) else None for prompt in prompts]
    return [text for text in texts for _ in range(batch // len(texts))]


def evenly_spread(num_frames: int, most: int) -> list[int]:
    """The numbers of at most so many of a video's frames: the middle ones of as many equal parts."""
    count = min(most, num_frames)
    return [(2 * k + 1) * num_frames // (2 * count) for k in range(count)]


def _shortened(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
