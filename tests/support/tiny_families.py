"""More of the tiny pipelines: Stable Diffusion 3.5, AnimateDiff on Stable Diffusion 1.5, Chroma."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AnimateDiffPipeline,
    ChromaPipeline,
    ChromaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    UNetMotionModel,
)

from tests.support import tiny

SD3_CALL: dict[str, Any] = {"height": 16, "width": 16, "max_sequence_length": 16}


def sd3_transformer(seed: int = 1) -> SD3Transformer2DModel:
    """As in 3.5: normalised queries and keys, and (as in medium) a block with two attentions."""
    return tiny.seeded(
        seed,
        lambda: SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_projection_dim=16,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            pos_embed_max_size=8,
            qk_norm="rms_norm",
            dual_attention_layers=(0,),
        ),
    ).eval()


def sd3(seed: int = 1) -> StableDiffusion3Pipeline:
    return tiny._quiet(
        StableDiffusion3Pipeline(
            transformer=sd3_transformer(seed),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=tiny.vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.0609, scaling_factor=1.5305),
            text_encoder=tiny.clip_text_encoder(10, projection=True),
            tokenizer=tiny.clip_tokenizer(),
            text_encoder_2=tiny.clip_text_encoder(13, projection=True),
            tokenizer_2=tiny.clip_tokenizer(),
            text_encoder_3=tiny.t5_encoder(),
            tokenizer_3=tiny.t5_tokenizer(),
        )
    )


def sd15_motion_unet(seed: int = 1, adapter_seed: int = 2) -> UNetMotionModel:
    unet, adapter = tiny.sd15_unet(seed), tiny.motion_adapter(adapter_seed)
    return tiny.seeded(0, lambda: UNetMotionModel.from_unet2d(unet, adapter)).eval()


def animatediff_sd15(seed: int = 1, *, scheduler: Any = None) -> AnimateDiffPipeline:
    return tiny._quiet(
        AnimateDiffPipeline(
            vae=tiny.vae(scaling_factor=0.18215),
            text_encoder=tiny.clip_text_encoder(10),
            tokenizer=tiny.clip_tokenizer(),
            unet=sd15_motion_unet(seed),
            motion_adapter=tiny.motion_adapter(),
            scheduler=scheduler or tiny.ddim(),
        )
    )


def chroma(seed: int = 1) -> ChromaPipeline:
    """Latents packed as Flux's, guided by two halves."""
    network = tiny.seeded(
        seed,
        lambda: ChromaTransformer2DModel(
            **tiny.FLUX_SIZES, approximator_hidden_dim=32, approximator_layers=1, approximator_num_channels=64
        ),
    )
    return tiny._quiet(
        ChromaPipeline(
            vae=tiny.flux().vae,
            text_encoder=tiny.t5_encoder(),
            tokenizer=tiny.t5_tokenizer(),
            transformer=network.eval(),
            scheduler=tiny.flux().scheduler,
        )
    )
