"""Modular pipelines of diffusers and the classic ones that do the same, tiny, without text encoders or VAEs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    AutoencoderKLHunyuanVideo15,
    ClassifierFreeGuidance,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    LTX2Guidance,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from torch import Tensor

from tests.support import tiny, tiny_loops
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
    classic_call: dict[str, Any] = field(default_factory=dict)  # what the classic pipeline calls otherwise
    as_modular: Callable[[Tensor], Tensor] = lambda latents: latents  # from the classic pipeline's form
    guider: Callable[..., Any] = ClassifierFreeGuidance
    prompt: str = "prompt_embeds"  # what a weak side's other prompt is told as
    own_scale: bool = False  # its guidance is not one that `ModelSpec` and the guider number alike

    def modular(self, block: ReflectionBlock | None = None) -> Any:
        module, name = self.blocks
        blocks = getattr(importlib.import_module(f"diffusers.modular_pipelines.{module}"), name)()
        for part in self.without:
            blocks.sub_blocks.pop(part)
        if block is not None:
            blocks = block.install(blocks)
        pipe, classic = blocks.init_pipeline(), self.classic()
        held = {part: value for part, value in classic.components.items() if part in pipe.component_names}
        pipe.update_components(**{part: value for part, value in held.items() if value is not None})
        if self.guiders == ("guider", "guider_2"):
            pipe.update_components(boundary_ratio=0.8)
        for guider in self.guiders:
            pipe.update_components(**{guider: self.guider(guidance_scale=self.guidance)})
        return pipe

    def call(self, pipe: Any, **given: Any) -> Tensor:
        """Latents of a modular pipeline."""
        return pipe(**self.inputs(), num_inference_steps=STEPS, output="latents", **given)

    def call_classic(self, pipe: Any) -> Tensor:
        given = {"guidance_scale": self.guidance, **self.inputs(), **self.classic_call}
        given = {name: value for name, value in given.items() if value is not None}
        return self.as_modular(pipe(**given, num_inference_steps=STEPS, output_type="latent", return_dict=False)[0])


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


def z_image_inputs() -> dict[str, Any]:
    return {
        "prompt_embeds": [random(8, 16, seed=1)],
        "negative_prompt_embeds": [random(8, 16, seed=2)],
        "latents": random(1, 16, 8, 8, seed=3),
        "height": 64,
        "width": 64,
    }


def qwen_inputs() -> dict[str, Any]:
    everything = torch.ones(1, 8, dtype=torch.long)
    return {
        "prompt_embeds": random(1, 8, 16, seed=1),
        "prompt_embeds_mask": everything,
        "negative_prompt_embeds": random(1, 8, 16, seed=2),
        "negative_prompt_embeds_mask": everything,
        "latents": random(1, 16, 16, seed=3),
        "height": 64,
        "width": 64,
    }


def z_image(seed: int) -> ZImagePipeline:
    parts = {"vae": tiny.vae(), "text_encoder": None, "tokenizer": None, "transformer": z_image_transformer(seed)}
    return ZImagePipeline(scheduler=FlowMatchEulerDiscreteScheduler(), **parts)


def z_image_transformer(seed: int) -> ZImageTransformer2DModel:
    size: dict[str, Any] = {"all_patch_size": (2,), "all_f_patch_size": (1,), "in_channels": 16, "dim": 32}
    size |= {"n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 16}
    size |= {"axes_dims": [8, 4, 4], "axes_lens": [256, 32, 32]}
    return tiny.seeded(seed, lambda: ZImageTransformer2DModel(**size)).eval()


def qwen_image(seed: int) -> QwenImagePipeline:
    parts = {"vae": None, "text_encoder": None, "tokenizer": None, "transformer": qwen_transformer(seed)}
    return QwenImagePipeline(scheduler=FlowMatchEulerDiscreteScheduler(), **parts)


def qwen_transformer(seed: int) -> QwenImageTransformer2DModel:
    size: dict[str, Any] = {"patch_size": 2, "in_channels": 16, "out_channels": 4, "num_layers": 2}
    size |= {"attention_head_dim": 16, "num_attention_heads": 3, "joint_attention_dim": 16, "axes_dims_rope": (8, 4, 4)}
    return tiny.seeded(seed, lambda: QwenImageTransformer2DModel(**size)).eval()


def klein_inputs() -> dict[str, Any]:
    return {
        "prompt_embeds": random(1, 8, 16, seed=1),
        "negative_prompt_embeds": random(1, 8, 16, seed=2),
        "latents": random(1, 16, 4, 4, seed=3),
        "height": 64,
        "width": 64,
    }


def flux2_klein(seed: int) -> Flux2KleinPipeline:
    size: dict[str, Any] = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    size |= {"block_out_channels": (4,), "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 1}
    vae = tiny.seeded(3, lambda: AutoencoderKLFlux2(**size, batch_norm_eps=0.0)).eval()
    parts = {"vae": vae, "text_encoder": None, "tokenizer": None, "transformer": flux2_transformer(seed)}
    return Flux2KleinPipeline(scheduler=FlowMatchEulerDiscreteScheduler(), **parts)


def hunyuan_inputs() -> dict[str, Any]:
    masks = {"prompt_embeds_mask": torch.ones(1, 6, dtype=torch.long)}
    masks |= {"prompt_embeds_mask_2": torch.ones(1, 4, dtype=torch.long)}
    return {
        "prompt_embeds": random(1, 6, 16, seed=1),
        "negative_prompt_embeds": random(1, 6, 16, seed=2),
        "prompt_embeds_2": random(1, 4, 8, seed=4),
        "negative_prompt_embeds_2": random(1, 4, 8, seed=5),
        **masks,
        **{f"negative_{name}": mask for name, mask in masks.items()},
        "latents": random(1, 4, 2, 4, 4, seed=3),
        "height": 64,
        "width": 64,
        "num_frames": 5,
    }


def hunyuan_video(seed: int) -> HunyuanVideo15Pipeline:
    size: dict[str, Any] = {"latent_channels": 4, "block_out_channels": (8, 8), "layers_per_block": 1}
    size |= {"downsample_match_channel": False, "upsample_match_channel": False}
    parts: dict[str, Any] = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    parts["vae"] = tiny.seeded(3, lambda: AutoencoderKLHunyuanVideo15(**size)).eval()
    parts |= {"transformer": hunyuan_transformer(seed), "guider": ClassifierFreeGuidance(guidance_scale=3.0)}
    pipe = HunyuanVideo15Pipeline(scheduler=FlowMatchEulerDiscreteScheduler(), **parts)
    pipe.vision_num_semantic_tokens = 3
    return pipe


def hunyuan_transformer(seed: int) -> HunyuanVideo15Transformer3DModel:
    size: dict[str, Any] = {"in_channels": 9, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 16}
    size |= {"num_layers": 1, "num_refiner_layers": 1, "rope_axes_dim": (4, 6, 6), "text_embed_dim": 16}
    size |= {"text_embed_2_dim": 8, "image_embed_dim": 8, "mlp_ratio": 1.0}
    return tiny.seeded(seed, lambda: HunyuanVideo15Transformer3DModel(**size)).eval()


def ltx2(seed: int) -> Any:
    pipe, _ = tiny_loops.ltx2()
    pipe.transformer = ltx2_transformer(seed)
    pipe.vae_spatial_compression_ratio, pipe.vae_temporal_compression_ratio = 32, 8  # as the modular one, without VAE
    return pipe


def ltx2_transformer(seed: int) -> Any:
    network = tiny_loops.ltx2()[0].transformer
    return tiny.seeded(seed, lambda: type(network).from_config(network.config)).eval()


def ltx2_inputs() -> dict[str, Any]:
    pipe, settings = tiny_loops.ltx2()
    both = [torch.cat([settings[f"{sign}prompt_{of}"] for sign in ("negative_", "")]) for of in LTX2_TEXT]
    with torch.no_grad():
        made = pipe.connectors(*both, padding_side="left")
    inputs = {name: value[1:] for name, value in zip(LTX2_CONNECTED, made, strict=True)}
    inputs |= {f"negative_{name}": value[:1] for name, value in zip(LTX2_CONNECTED, made, strict=True)}
    inputs |= {"latents": random(1, 8, 4, seed=3), "audio_latents": random(1, 9, 4, seed=4)}
    inputs |= {"height": 64, "width": 64, "num_frames": 9, "frame_rate": 25.0, "use_cross_timestep": False}
    return {**inputs, "batch_size": 1, "dtype": torch.float32}


LTX2_SIZE = ("height", "width", "num_frames", "frame_rate")
LTX2_TEXT = ("embeds", "attention_mask")
LTX2_CONNECTED = ("connector_prompt_embeds", "connector_audio_prompt_embeds", "connector_attention_mask")


def as_tokens(latents: Tensor) -> Tensor:
    """Latents [B, C, H, W] as tokens of 2 x 2 cells, as the loop has them."""
    folded = latents.unfold(2, 2, 2).unfold(3, 2, 2)  # [B, C, H / 2, W / 2, 2, 2]
    return folded.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def flux2_transformer(seed: int) -> Flux2Transformer2DModel:
    size: dict[str, Any] = {"patch_size": 1, "in_channels": 16, "num_layers": 1, "num_single_layers": 1}
    size |= {"attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 16, "guidance_embeds": False}
    size |= {"axes_dims_rope": [4, 4, 4, 4], "timestep_guidance_channels": 256}
    return tiny.seeded(seed, lambda: Flux2Transformer2DModel(**size)).eval()


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
    "z-image": Family(
        lambda: eights(z_image(1)),
        lambda: z_image_transformer(2),
        ("z_image.modular_blocks_z_image", "ZImageCoreDenoiseStep"),
        z_image_inputs,
        classic_call={"guidance_scale": 2.0},  # of c + scale * (c - u)
        own_scale=True,
    ),
    "qwen-image": Family(
        lambda: eights(qwen_image(1)),
        lambda: qwen_transformer(2),
        ("qwenimage.modular_blocks_qwenimage", "QwenImageCoreDenoiseStep"),
        qwen_inputs,
        without=("after_denoise",),
        classic_call={"guidance_scale": None, "true_cfg_scale": 3.0},
        own_scale=True,
    ),
    "flux2-klein": Family(
        lambda: eights(flux2_klein(1)),
        lambda: flux2_transformer(2),
        ("flux2.modular_blocks_flux2_klein_base", "Flux2KleinBaseCoreDenoiseStep"),
        klein_inputs,
        without=("after_denoise",),
        as_modular=as_tokens,
    ),
    "hunyuan-video-1.5": Family(
        lambda: hunyuan_video(1),
        lambda: hunyuan_transformer(2),
        ("hunyuan_video1_5.modular_blocks_hunyuan_video1_5", "HunyuanVideo15CoreDenoiseStep"),
        hunyuan_inputs,
        classic_call={"guidance_scale": None},  # a guider's
        own_scale=True,
    ),
    "ltx2": Family(
        lambda: ltx2(1),
        lambda: ltx2_transformer(2),
        ("ltx2.modular_blocks_ltx2", "LTX2CoreDenoiseStep"),
        ltx2_inputs,
        guiders=("guider", "audio_guider"),
        guider=LTX2Guidance,
        prompt="connector_prompt_embeds",
        classic_call={
            **{name: value for name, value in tiny_loops.ltx2()[1].items() if name not in LTX2_SIZE},
            **dict.fromkeys([*LTX2_CONNECTED, *(f"negative_{name}" for name in LTX2_CONNECTED), "batch_size", "dtype"]),
        },
        as_modular=lambda latents: latents.flatten(2).transpose(1, 2),
    ),
}


def assert_near(one: Tensor, other: Tensor) -> None:
    """To 1e-5 of the largest value (an untrained UNet goes to 200 where a trained one stays near 1)."""
    largest = max(1.0, float(other.abs().max()))
    torch.testing.assert_close(one.float() / largest, other.float() / largest, rtol=0, atol=1e-5)
