"""A weak/strong pair in memory: the pipeline, the weak side, and the prompts encoded once for both."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import AnimateDiffSDXLPipeline, UNetMotionModel
from torch import Tensor

from w2sd_video.errors import UserError
from w2sd_video.loading.offload import TEXT_ENCODERS
from w2sd_video.pair import Loras


@dataclass(frozen=True)
class PromptInputs:
    """Arguments of a pipeline call in place of `prompt` and `negative_prompt`, on the host.

    `weak` is None when both sides are told the same and encode alike, so that the strong side's serve both.
    """

    strong: dict[str, Tensor]
    weak: dict[str, Tensor] | None


@dataclass(frozen=True)
class PairReport:
    """What loading a pair came to: bytes on all devices, those the weak side shares, and what the user should know."""

    total_bytes: int
    shared_bytes: int
    notes: tuple[str, ...] = ()


@dataclass
class LoadedPair:
    """A pair ready to sample.

    `weak` is a bare network when both sides encode prompts alike, else a pipeline with the weak side's text encoders.
    The strong pipeline decodes in chunks of frames (`install_chunked_decode`).
    """

    pipe: AnimateDiffSDXLPipeline
    weak: UNetMotionModel | AnimateDiffSDXLPipeline
    report: PairReport
    _encodings: dict[tuple[str, str | None], tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def weak_unet(self) -> UNetMotionModel:
        """The weak side's network, also where `weak` is a pipeline."""
        return self.weak.unet if isinstance(self.weak, AnimateDiffSDXLPipeline) else self.weak

    def encode(
        self,
        prompt: str,
        negative_prompt: str | None = None,
        *,
        weak_prompt: str | None = None,
        weak_negative_prompt: str | None = None,
    ) -> PromptInputs:
        """Returns the embeddings of both sides, running each text encoder once per distinct text.

        `weak_prompt` and `weak_negative_prompt` are the weak side's where they differ.

        Raises:
            UserError: a text not encoded before, after `free_text_encoders`.
        """
        strong = self._encode_side("strong", self.pipe, prompt, negative_prompt)
        apart = isinstance(self.weak, AnimateDiffSDXLPipeline)
        if not apart and weak_prompt is None and weak_negative_prompt is None:
            return PromptInputs(strong, None)
        texts = (weak_prompt or prompt, negative_prompt if weak_negative_prompt is None else weak_negative_prompt)
        side, pipe = ("weak", self.weak) if apart else ("strong", self.pipe)
        return PromptInputs(strong, self._encode_side(side, pipe, *texts))

    def _encode_side(self, side: str, pipe: Any, prompt: str, negative: str | None) -> dict[str, Tensor]:
        embeds, pooled = self._encode_text(side, pipe, prompt)
        if negative is None and pipe.config.force_zeros_for_empty_prompt:
            negative_embeds, negative_pooled = torch.zeros_like(embeds), torch.zeros_like(pooled)
        else:
            negative_embeds, negative_pooled = self._encode_text(side, pipe, negative or "")
        return {
            "prompt_embeds": embeds,  # [1, tokens, channels]
            "negative_prompt_embeds": negative_embeds,
            "pooled_prompt_embeds": pooled,  # [1, channels]
            "negative_pooled_prompt_embeds": negative_pooled,
        }

    @torch.no_grad()
    def _encode_text(self, side: str, pipe: Any, text: str) -> tuple[Tensor, Tensor]:
        if (side, text) not in self._encodings:
            if pipe.text_encoder_2 is None:
                raise UserError(f"the text encoders are freed and {text!r} was not encoded before; encode it first")
            embeds, _, pooled, _ = pipe.encode_prompt(text, do_classifier_free_guidance=False)
            self._encodings[side, text] = (embeds.cpu(), pooled.cpu())
        return self._encodings[side, text]

    def free_text_encoders(self) -> None:
        """Drop the text encoders of both sides; texts encoded before stay available from `encode`."""
        for pipe in (self.pipe, self.weak):
            if isinstance(pipe, AnimateDiffSDXLPipeline):
                pipe.register_modules(**dict.fromkeys(TEXT_ENCODERS))
                pipe.maybe_free_model_hooks()  # so that no offloading hook keeps them alive
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def load_weak_loras(self, files: Mapping[str, str], scales: Loras) -> None:
        """Load LoRAs into the weak side's network alone, for good, at these scales; its text stays as encoded.

        Raises:
            UserError: as `load_loras`, or the text encoders are not freed yet.
        """
        from w2sd_video.loading.lora_files import load_loras, use_loras

        if self.pipe.text_encoder is not None:
            raise UserError("the text encoders would get the weak side's LoRAs too; free them first")
        own, network = self.pipe.unet, self.weak_unet
        self.pipe.unet = network
        try:
            load_loras(self.pipe, files)
            use_loras(self.pipe, scales)
        finally:
            self.pipe.unet = own
