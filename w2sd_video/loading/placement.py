"""Two whole pipelines on one device: their prompts encoded once, and where each waits (the memory plans)."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from w2sd_video.errors import UserError
from w2sd_video.loading.offload import check_offload

# Memory plans, as the kind of offloading that the strong and the weak pipeline get.
MEMORY_PLANS = {
    "resident": ("none", "none"),
    "weak-offload": ("none", "model"),
    "sequential": ("sequential", "sequential"),
}
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


def check_memory_plan(plan: str, device: str) -> None:
    """Raises `UserError` for an unknown plan, or one that offloads where there is nothing to offload from."""
    if plan not in MEMORY_PLANS:
        raise UserError(f"the memory plan is {plan!r}; choose one of {', '.join(MEMORY_PLANS)}")
    check_offload(MEMORY_PLANS[plan][1], device)


def place_pipelines(strong: Any, weak: Any, device: torch.device | str, plan: str) -> None:
    """Put both pipelines (`weak` may be None) where a memory plan wants them.

    "resident" keeps both on the device. "weak-offload" keeps the weak one on the host: its networks come to the device
    one at a time, the UNet for each of its evaluations. "sequential" fetches both layer by layer, which takes little
    memory and is many times slower.
    """
    for pipe, kind in zip((strong, weak), MEMORY_PLANS[plan], strict=True):
        if pipe is None:
            continue
        if kind == "none":
            pipe.to(device)
        elif kind == "model":
            pipe.enable_model_cpu_offload(device=device)
        else:
            pipe.enable_sequential_cpu_offload(device=device)


def can_encode(pipe: Any) -> bool:
    """Whether `encoded_prompts` knows this pipeline's family: Flux, SDXL, SD 1.5 (with ControlNets), AnimateDiff-SDXL.

    Others encode the prompt in each call, so that their text encoders must stay.
    """
    return type(pipe).__name__ in (
        "FluxPipeline",
        "StableDiffusionXLPipeline",
        "AnimateDiffSDXLPipeline",
        "StableDiffusionPipeline",
        "FluxControlNetPipeline",
        "StableDiffusionXLControlNetPipeline",
        "StableDiffusionControlNetPipeline",
    )


@torch.no_grad()
def encoded_prompts(
    pipe: Any,
    prompts: Iterable[str],
    negative_prompt: str | None,
    *,
    device: torch.device | str,
    max_sequence_length: int | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Returns, for each prompt, the arguments that stand for it in a call of `pipe`, on the host.

    The text encoders go to `device` for it, unless hooks of offloading fetch them. `negative_prompt` None is the
    pipeline's own empty one; Flux gets none then, so that it runs no true guidance.
    """
    encoders = [getattr(pipe, name) for name in TEXT_ENCODERS if getattr(pipe, name, None) is not None]
    for encoder in encoders:
        if not hasattr(encoder, "_hf_hook"):
            encoder.to(device)
    return {
        prompt: {
            name: tensor.cpu()
            for name, tensor in _encoded(pipe, prompt, negative_prompt, device, max_sequence_length).items()
        }
        for prompt in prompts
    }


def free_text_encoders(pipe: Any) -> None:
    """Drop the text encoders; calls must give embeddings from then on."""
    pipe.register_modules(**{name: None for name in TEXT_ENCODERS if hasattr(pipe, name)})
    pipe.maybe_free_model_hooks()  # so that no offloading hook keeps them alive
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _encoded(pipe: Any, prompt: str, negative: str | None, device: Any, length: int | None) -> dict[str, Tensor]:
    if type(pipe).__name__.startswith("Flux"):
        default = inspect.signature(pipe.__call__).parameters["max_sequence_length"].default
        settings = {"device": device, "max_sequence_length": length or default}
        embeds, pooled, _ = pipe.encode_prompt(prompt, None, **settings)
        found = {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
        if negative is not None:
            embeds, pooled, _ = pipe.encode_prompt(negative, None, **settings)
            found |= {"negative_prompt_embeds": embeds, "negative_pooled_prompt_embeds": pooled}
        return found
    if type(pipe).__name__ in ("StableDiffusionPipeline", "StableDiffusionControlNetPipeline"):
        tensors = pipe.encode_prompt(prompt, device, 1, True, negative_prompt=negative)
    else:
        tensors = pipe.encode_prompt(prompt, device=device, negative_prompt=negative)
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    return dict(zip(names, tensors, strict=False))  # SD 1.5 has the first two
