"""Flux over SDXL with random weights, at full and at small size: what the bridge's benchmark measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from bridges.pixel.bridged import bridged
from bridges.pixel.noise_maps import Fixed
from w2sd_video.hosting import Run
from w2sd_video.pair import ModelSpec

PARTS = ("strong", "weak", "decode", "encode")
SIGMAS = (0.9, 0.7, 0.45, 0.2)  # of the steps: levels that SDXL knows


@dataclass(frozen=True)
class Size:
    """The networks: pixels of a side, and settings over those of Flux.1-dev, SDXL and their VAEs."""

    pixels: int
    flux: dict[str, Any]
    unet: dict[str, Any]
    vae: dict[str, Any]
    tiny: dict[str, Any]
    tokens: int


# Flux.1-dev and SDXL as published; the defaults of FluxTransformer2DModel are Flux's own.
FULL = Size(
    pixels=1024,
    flux={"guidance_embeds": True},
    unet={
        "block_out_channels": (320, 640, 1280),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "layers_per_block": 2,
        "cross_attention_dim": 2048,
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    vae={"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2},
    tiny={},
    tokens=512,
)
SMALL = Size(
    pixels=128,
    flux={
        "num_layers": 4,
        "num_single_layers": 8,
        "num_attention_heads": 12,
        "attention_head_dim": 32,
        "joint_attention_dim": 128,
        "pooled_projection_dim": 64,
        "axes_dims_rope": (8, 12, 12),
        "guidance_embeds": True,
    },
    unet={
        "block_out_channels": (96, 192, 384),
        "transformer_layers_per_block": (1, 1, 2),
        "attention_head_dim": (3, 6, 12),
        "layers_per_block": 1,
        "cross_attention_dim": 128,
        "addition_time_embed_dim": 32,
        "projection_class_embeddings_input_dim": 256,
    },
    vae={"block_out_channels": (32, 32, 64, 64), "layers_per_block": 1},
    tiny={"encoder_block_out_channels": (16,) * 4, "decoder_block_out_channels": (16,) * 4},
    tokens=32,
)


def flux_vae(size: Size) -> AutoencoderKL:
    return AutoencoderKL(
        latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False,
        use_post_quant_conv=False, **_blocks(size.vae),
    )  # fmt: skip


def sdxl_vae(size: Size) -> AutoencoderKL:
    return AutoencoderKL(latent_channels=4, scaling_factor=0.13025, force_upcast=False, **_blocks(size.vae))


def _blocks(vae: dict[str, Any]) -> dict[str, Any]:
    count = len(vae["block_out_channels"])
    return {**vae, "down_block_types": ("DownEncoderBlock2D",) * count, "up_block_types": ("UpDecoderBlock2D",) * count}


def tiny_vaes(size: Size) -> tuple[AutoencoderTiny, AutoencoderTiny]:
    """Of Flux and of SDXL."""
    return (
        AutoencoderTiny(latent_channels=16, **size.tiny).eval(),
        AutoencoderTiny(latent_channels=4, **size.tiny).eval(),
    )


def flux_transformer(size: Size) -> FluxTransformer2DModel:
    return FluxTransformer2DModel(**size.flux)


def sdxl_unet(size: Size) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=size.pixels // 8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        use_linear_projection=True,
        addition_embed_type="text_time",
        **size.unet,
    )


@contextmanager
def _made_in(dtype: torch.dtype) -> Iterator[None]:
    """Inside, networks are made in a dtype at once: Flux in float32 takes 48 GB."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def pipelines(size: Size, device: str, dtype: torch.dtype) -> tuple[FluxPipeline, StableDiffusionXLPipeline]:
    """Both with random weights and no text encoders."""
    torch.manual_seed(0)
    with torch.device(device), _made_in(dtype):
        flux = FluxPipeline(
            FlowMatchEulerDiscreteScheduler(), flux_vae(size).eval(), None, None, None, None,
            flux_transformer(size).eval(),
        )  # fmt: skip
        betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
        sdxl = StableDiffusionXLPipeline(
            sdxl_vae(size).eval(), None, None, None, None, sdxl_unet(size).eval(),
            DDIMScheduler(clip_sample=False, steps_offset=1, **betas), add_watermarker=False,
        )  # fmt: skip
    for pipe in (flux, sdxl):
        pipe.set_progress_bar_config(disable=True)
        pipe.to(device, dtype)
    return flux, sdxl


@torch.no_grad()
def call(flux: FluxPipeline, sdxl: StableDiffusionXLPipeline, size: Size, lam: int, **settings: Any) -> Run:
    """One picture's latents, reflected in the first `lam` steps; returns the run."""
    generator = torch.Generator("cpu").manual_seed(0)
    device, dtype = flux.transformer.device, flux.transformer.dtype

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    config, weak = flux.transformer.config, sdxl.unet.config
    pooled = weak.projection_class_embeddings_input_dim - 6 * weak.addition_time_embed_dim
    inputs = {
        "prompt_embeds": random(1, 77, weak.cross_attention_dim),
        "pooled_prompt_embeds": random(1, pooled),
    }
    side = (sdxl, ModelSpec(guidance=1.0))
    noise = Fixed(0)
    noise.scale = 1.0  # else from the spread of estimates, which random VAEs leave beyond what SDXL knows
    with bridged(flux, side, num_reflections=lam, noise_map=noise, weak_inputs=inputs, **settings) as run:
        flux(
            prompt_embeds=random(1, size.tokens, config.joint_attention_dim),
            pooled_prompt_embeds=random(1, config.pooled_projection_dim),
            height=size.pixels,
            width=size.pixels,
            num_inference_steps=len(SIGMAS),
            sigmas=list(SIGMAS),  # all of them levels that SDXL knows
            generator=torch.Generator("cpu").manual_seed(0),
            output_type="latent",
        )
    return run


@contextmanager
def timed_parts(flux: FluxPipeline, sdxl: StableDiffusionXLPipeline, clock: Callable[[], float]) -> Iterator[dict]:
    """Yields the seconds spent in each of PARTS while active."""
    spent = dict.fromkeys(PARTS, 0.0)
    places = [(flux.transformer, "forward", "strong"), (sdxl.unet, "forward", "weak")]
    places += [(vae, name, name) for vae in (flux.vae, sdxl.vae) for name in ("decode", "encode")]

    def wrapped(function: Callable, part: str) -> Callable:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = clock()
            result = function(*args, **kwargs)
            spent[part] += clock() - start
            return result

        return run

    for owner, name, part in places:
        setattr(owner, name, wrapped(getattr(owner, name), part))
    try:
        yield spent
    finally:
        for owner, name, _ in places:
            delattr(owner, name)


def own_work(flux: FluxPipeline, sdxl: StableDiffusionXLPipeline, size: Size, clock: Callable[[], float]) -> float:
    """Seconds per reflected step with networks and VAEs that do nothing: all steps reflected, minus none."""
    made: dict[tuple, Any] = {}

    def idle(owner: Any, name: str) -> Callable:
        real = getattr(owner, name)

        def run(*args: Any, **kwargs: Any) -> Any:
            key = (id(owner), name, tuple(args[0].shape) if args else ())
            if key not in made:
                made[key] = real(*args, **kwargs)
            return made[key]

        return run

    places = [(flux.transformer, "forward"), (sdxl.unet, "forward")]
    places += [(vae, name) for vae in (flux.vae, sdxl.vae) for name in ("decode", "encode")]
    for owner, name in places:
        setattr(owner, name, idle(owner, name))
    try:
        seconds = {}
        for lam in (0, len(SIGMAS)):
            call(flux, sdxl, size, lam)
            runs = []
            for _ in range(5):
                start = clock()
                call(flux, sdxl, size, lam)
                runs.append(clock() - start)
            seconds[lam] = min(runs)
    finally:
        for owner, name in places:
            delattr(owner, name)
    return (seconds[len(SIGMAS)] - seconds[0]) / len(SIGMAS)
