"""Tiny pipelines with ControlNets whose outputs are not zero, as trained ones' are."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AnimateDiffControlNetPipeline,
    ControlNetModel,
    FluxControlNetModel,
    FluxControlNetPipeline,
    SD3ControlNetModel,
    SD3Transformer2DModel,
    StableDiffusion3ControlNetPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
)

from tests.support import tiny, tiny_families


def _trained(seed: int, net: Any) -> Any:
    """The ControlNet with random weights where a new one has zeros."""
    with torch.no_grad():
        for name, weights in net.named_parameters():
            if not weights.any():
                noise = torch.randn(weights.shape, generator=tiny.generator(seed + len(name)))
                weights.copy_(0.3 * noise)
    return net.eval()


def controlnet(unet: Any, seed: int = 3) -> ControlNetModel:
    """A ControlNet for a 2-D UNet; its picture is twice as large as the latent, as with the tiny autoencoder."""
    net = tiny.seeded(
        seed,
        lambda: ControlNetModel.from_unet(
            unet, conditioning_embedding_out_channels=(8, 16), load_weights_from_unet=False
        ),
    )
    return _trained(seed, net)


def sd15(count: int = 1, *, seed: int = 1) -> StableDiffusionControlNetPipeline:
    pipe = tiny.sd15(seed)
    nets = [controlnet(pipe.unet, 3 + k) for k in range(count)]
    parts = {**pipe.components, "controlnet": nets[0] if count == 1 else nets}
    return tiny._quiet(StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False))


def sdxl(count: int = 1, *, seed: int = 1) -> StableDiffusionXLControlNetPipeline:
    pipe = tiny.sdxl(seed)
    nets = [controlnet(pipe.unet, 3 + k) for k in range(count)]
    parts = {**pipe.components, "controlnet": nets[0] if count == 1 else nets}
    return tiny._quiet(StableDiffusionXLControlNetPipeline(**parts, add_watermarker=False))


def flux(count: int = 1, *, seed: int = 1) -> FluxControlNetPipeline:
    pipe = tiny.flux(seed)
    nets = [
        _trained(3 + k, tiny.seeded(3 + k, lambda: FluxControlNetModel.from_config(pipe.transformer.config)))
        for k in range(count)
    ]
    return tiny._quiet(FluxControlNetPipeline(**pipe.components, controlnet=nets[0] if count == 1 else nets))


def sd3() -> StableDiffusion3ControlNetPipeline:
    settings: dict[str, Any] = {
        "sample_size": 8,
        "patch_size": 2,
        "in_channels": 4,
        "num_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "caption_projection_dim": 16,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
        "pos_embed_max_size": 8,
    }
    transformer = tiny.seeded(1, lambda: SD3Transformer2DModel(**settings, out_channels=4)).eval()
    net = tiny.seeded(3, lambda: SD3ControlNetModel(**{**settings, "num_layers": 1}, out_channels=4))
    parts = {**tiny_families.sd3().components, "transformer": transformer, "controlnet": _trained(3, net)}
    return tiny._quiet(StableDiffusion3ControlNetPipeline(**parts))


def animatediff() -> AnimateDiffControlNetPipeline:
    """AnimateDiff on SD1.5, whose ControlNet sees the frames as so many pictures."""
    parts = tiny_families.animatediff_sd15().components
    return tiny._quiet(AnimateDiffControlNetPipeline(**parts, controlnet=controlnet(tiny.sd15_unet())))


def picture(seed: int = 7, *, count: int = 1) -> torch.Tensor:
    """Control pictures [count, 3, 16, 16] from 0 to 1."""
    return torch.rand(count, 3, 16, 16, generator=tiny.generator(seed))
