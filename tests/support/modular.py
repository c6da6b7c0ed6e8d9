"""Modular pipelines of diffusers and the classic ones that do the same, tiny, without text encoders or VAEs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ClassifierFreeGuidance, EulerDiscreteScheduler
from torch import Tensor

from tests.support import tiny
from w2sd_video.hosting.reflection_block import ReflectionBlock

STEPS = 5


@dataclass
class Family:
    """A classic pipeline, the blocks of the modular one, and the arguments that ask the same of both."""

    classic: Callable[[], Any]
    weak: Callable[[], Any]
    blocks: tuple[str, str]
    inputs: Callable[[], dict[str, Any]]
    guidance: float = 3.0
    networks: tuple[str, ...] = ("transformer",)
    without: tuple[str, ...] = ()
    guiders: tuple[str, ...] = ("guider",)

    def modular(self, block: ReflectionBlock | None = None) -> Any:
        module, name = self.blocks
        blocks = getattr(importlib.import_module(f"diffusers.modular_pipelines.{module}"), name)()
        for part in self.without:
            blocks.sub_blocks.pop(part)
        if block is not None:
            block.install(blocks)
        pipe, classic = blocks.init_pipeline(), self.classic()
        held = {part: value for part, value in classic.components.items() if part in pipe.component_names}
        pipe.update_components(**{part: value for part, value in held.items() if value is not None})
        if self.guiders == ("guider", "guider_2"):
            pipe.update_components(boundary_ratio=0.8)
        for guider in self.guiders:
            pipe.update_components(**{guider: ClassifierFreeGuidance(guidance_scale=self.guidance)})
        return pipe

    def call(self, pipe: Any, **given: Any) -> Tensor:
        """Latents of a modular pipeline."""
        return pipe(**self.inputs(), num_inference_steps=STEPS, output="latents", **given)

    def call_classic(self, pipe: Any) -> Tensor:
        given = {"guidance_scale": self.guidance, **self.inputs()}
        return pipe(**given, num_inference_steps=STEPS, output_type="latent", return_dict=False)[0]


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def wan_inputs() -> dict[str, Any]:
    return {
        "prompt_embeds": random(1, 8, 32, seed=1),
        "negative_prompt_embeds": random(1, 8, 32, seed=2),
        "latents": random(1, 16, 2, 4, 4, seed=3),
        "height": 32,
        "width": 32,
        "num_frames": 5,
    }


def flux_inputs() -> dict[str, Any]:
    return {
        "prompt_embeds": random(1, 8, 32, seed=1),
        "pooled_prompt_embeds": random(1, 16, seed=2),
        "latents": random(1, 16, 16, seed=3),
        "height": 64,
        "width": 64,
        "guidance_scale": 3.0,
    }


def sdxl_inputs() -> dict[str, Any]:
    return {
        "prompt_embeds": random(1, 8, 32, seed=1),
        "negative_prompt_embeds": random(1, 8, 32, seed=2),
        "pooled_prompt_embeds": random(1, 16, seed=4),
        "negative_pooled_prompt_embeds": random(1, 16, seed=5),
        "latents": random(1, 4, 8, 8, seed=3),
        "height": 16,
        "width": 16,
    }


def eights(pipe: Any) -> Any:
    """Sizes as the modular pipeline has them, which knows no VAE here."""
    pipe.vae_scale_factor = 8
    return pipe


FAMILIES = {
    "wan": Family(
        lambda: tiny.wan(1),
        lambda: tiny.wan_transformer(2),
        ("wan.modular_blocks_wan", "WanCoreDenoiseStep"),
        wan_inputs,
    ),
    "flux": Family(
        lambda: eights(tiny.flux(1)),
        lambda: tiny.flux_transformer(2),
        ("flux.modular_blocks_flux", "FluxCoreDenoiseStep"),
        flux_inputs,
        without=("unpack_latents",),
        guiders=(),
    ),
    "sdxl": Family(
        lambda: tiny.sdxl(1, scheduler=EulerDiscreteScheduler()),
        lambda: tiny.sdxl_unet(2),
        ("stable_diffusion_xl.modular_blocks_stable_diffusion_xl", "StableDiffusionXLCoreDenoiseStep"),
        sdxl_inputs,
        networks=("unet",),
    ),
    "wan22": Family(
        lambda: tiny.wan22(1),
        lambda: tiny.wan_transformer(2),
        ("wan.modular_blocks_wan22", "Wan22CoreDenoiseStep"),
        wan_inputs,
        guiders=("guider", "guider_2"),
        networks=("transformer", "transformer_2"),
    ),
}


def assert_near(one: Tensor, other: Tensor) -> None:
    """To 1e-5 of the largest value (an untrained UNet goes to 200 where a trained one stays near 1)."""
    largest = max(1.0, float(other.abs().max()))
    torch.testing.assert_close(one.float() / largest, other.float() / largest, rtol=0, atol=1e-5)
