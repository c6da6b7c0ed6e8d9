"""Real diffusers pipelines small enough to run in a test: random weights from fixed seeds, nothing downloaded.

One call of a network takes a few milliseconds on one CPU thread. Calls as in `ANIMATEDIFF_CALL` etc. keep them fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from diffusers import (
    AnimateDiffSDXLPipeline,
    AutoencoderKL,
    AutoencoderKLWan,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    MotionAdapter,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNetMotionModel,
    WanPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789 .,-'"
T = TypeVar("T")

# Keyword arguments that make a quick call; add generator, guidance_scale and num_inference_steps.
ANIMATEDIFF_CALL: dict[str, Any] = {"num_frames": 2, "height": 16, "width": 16}
IMAGE_CALL: dict[str, Any] = {"height": 16, "width": 16}
FLUX_CALL: dict[str, Any] = {"height": 16, "width": 16, "max_sequence_length": 16}
WAN_CALL: dict[str, Any] = {"height": 16, "width": 16, "num_frames": 5, "max_sequence_length": 16}


def seeded(seed: int, build: Callable[[], T]) -> T:
    """Returns build() with torch's generator at `seed`, leaving the generator of the caller alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


# -- text -----------------------------------------------------------------------------------------------------------


def clip_tokenizer() -> CLIPTokenizer:
    pieces = list(CHARACTERS) + [c + "</w>" for c in CHARACTERS] + ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def clip_text_encoder(seed: int = 10, *, projection: bool = False, hidden: int = 16) -> Any:
    tokenizer = clip_tokenizer()
    config = CLIPTextConfig(
        hidden_size=hidden,
        intermediate_size=24,
        num_attention_heads=2,
        num_hidden_layers=2,
        vocab_size=len(tokenizer),
        projection_dim=16,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    kind = CLIPTextModelWithProjection if projection else CLIPTextModel
    return seeded(seed, lambda: kind(config)).eval()


def t5_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {piece: index for index, piece in enumerate(["<pad>", "</s>", "<unk>", *CHARACTERS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split("", "isolated")
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )


def t5_encoder(seed: int = 11, *, umt5: bool = False) -> Any:
    settings: dict[str, Any] = {
        "vocab_size": 200,
        "d_model": 32,
        "d_ff": 37,
        "d_kv": 8,
        "num_layers": 2,
        "num_heads": 4,
    }
    if umt5:
        return seeded(seed, lambda: UMT5EncoderModel(UMT5Config(**settings))).eval()
    return seeded(seed, lambda: T5EncoderModel(T5Config(**settings))).eval()


# -- UNet families --------------------------------------------------------------------------------------------------


def vae(seed: int = 12, *, scaling_factor: float = 0.13025, **settings: Any) -> AutoencoderKL:
    """A KL autoencoder with 4 latent channels that halves each side."""
    settings = {"latent_channels": 4, **settings}
    return seeded(
        seed,
        lambda: AutoencoderKL(
            block_out_channels=[8, 16],
            in_channels=3,
            out_channels=3,
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
            layers_per_block=1,
            norm_num_groups=4,
            sample_size=16,
            scaling_factor=scaling_factor,
            **settings,
        ),
    ).eval()


def ddim(prediction_type: str = "epsilon", **settings: Any) -> DDIMScheduler:
    """SDXL's DDIM: scaled-linear betas, leading spacing, offset 1, final alpha of level 0."""
    settings = {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False, **settings}
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type=prediction_type,
        **settings,
    )


def sdxl_unet(seed: int = 1) -> UNet2DConditionModel:
    """A 2-D UNet with SDXL's conditioning (text, pooled text and time ids)."""
    return seeded(
        seed,
        lambda: UNet2DConditionModel(
            block_out_channels=(8, 16),
            layers_per_block=1,
            sample_size=8,
            in_channels=4,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(1, 2),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            transformer_layers_per_block=(1, 1),
            projection_class_embeddings_input_dim=6 * 8 + 16,
            cross_attention_dim=32,
            norm_num_groups=4,
        ),
    ).eval()


def sd15_unet(seed: int = 1) -> UNet2DConditionModel:
    return seeded(
        seed,
        lambda: UNet2DConditionModel(
            block_out_channels=(8, 16),
            layers_per_block=1,
            sample_size=8,
            in_channels=4,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=2,
            cross_attention_dim=16,
            norm_num_groups=4,
        ),
    ).eval()


def motion_adapter(seed: int = 2) -> MotionAdapter:
    """The motion modules that fit `sdxl_unet`."""
    return seeded(
        seed,
        lambda: MotionAdapter(
            block_out_channels=(8, 16),
            motion_layers_per_block=1,
            motion_norm_num_groups=4,
            motion_num_attention_heads=2,
            motion_max_seq_length=16,
            use_motion_mid_block=False,
        ),
    ).eval()


def motion_unet(seed: int = 1, adapter_seed: int = 2) -> UNetMotionModel:
    """`sdxl_unet(seed)` with `motion_adapter(adapter_seed)`, `add_embedding` copied (diffusers leaves it random)."""
    unet = sdxl_unet(seed)
    motion = seeded(0, lambda: UNetMotionModel.from_unet2d(unet, motion_adapter(adapter_seed)))
    motion.add_embedding.load_state_dict(unet.add_embedding.state_dict())
    return motion.eval()


def _quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _sdxl_parts(prediction_type: str, scheduler: Any) -> dict[str, Any]:
    return {
        "vae": vae(),
        "text_encoder": clip_text_encoder(10),
        "text_encoder_2": clip_text_encoder(13, projection=True),
        "tokenizer": clip_tokenizer(),
        "tokenizer_2": clip_tokenizer(),
        "scheduler": scheduler or ddim(prediction_type),
    }


def animatediff_sdxl(
    seed: int = 1, *, prediction_type: str = "epsilon", scheduler: Any = None
) -> AnimateDiffSDXLPipeline:
    """AnimateDiff on SDXL; `seed` chooses the 2-D UNet's weights, everything else is the same for all seeds."""
    networks = {"unet": motion_unet(seed), "motion_adapter": motion_adapter()}
    return _quiet(AnimateDiffSDXLPipeline(**networks, **_sdxl_parts(prediction_type, scheduler)))


def sdxl(seed: int = 1, *, prediction_type: str = "epsilon", scheduler: Any = None) -> StableDiffusionXLPipeline:
    parts = _sdxl_parts(prediction_type, scheduler)
    return _quiet(StableDiffusionXLPipeline(**parts, unet=sdxl_unet(seed), add_watermarker=False))


def sd15(seed: int = 1, *, prediction_type: str = "epsilon", scheduler: Any = None) -> StableDiffusionPipeline:
    return _quiet(
        StableDiffusionPipeline(
            vae=vae(scaling_factor=0.18215),
            text_encoder=clip_text_encoder(10),
            tokenizer=clip_tokenizer(),
            unet=sd15_unet(seed),
            scheduler=scheduler or ddim(prediction_type),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


# -- transformers ---------------------------------------------------------------------------------------------------


FLUX_SIZES: dict[str, Any] = {  # of Flux, and of Chroma, which is made of its blocks
    "patch_size": 1,
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "axes_dims_rope": [4, 4, 8],
}


def flux_transformer(seed: int = 1, *, guidance_embeds: bool = True) -> FluxTransformer2DModel:
    return seeded(
        seed,
        lambda: FluxTransformer2DModel(**FLUX_SIZES, pooled_projection_dim=16, guidance_embeds=guidance_embeds),
    ).eval()


def flux(seed: int = 1, *, guidance_embeds: bool = True) -> FluxPipeline:
    return _quiet(
        FluxPipeline(
            vae=vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.0609, scaling_factor=1.5035),
            text_encoder=clip_text_encoder(10),
            text_encoder_2=t5_encoder(),
            tokenizer=clip_tokenizer(),
            tokenizer_2=t5_tokenizer(),
            transformer=flux_transformer(seed, guidance_embeds=guidance_embeds),
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        )
    )


def wan_transformer(seed: int = 1) -> WanTransformer3DModel:
    return seeded(
        seed,
        lambda: WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=32,
            freq_dim=256,
            ffn_dim=32,
            num_layers=1,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32,
        ),
    ).eval()


def wan(seed: int = 1) -> WanPipeline:
    autoencoder = seeded(
        12,
        lambda: AutoencoderKLWan(
            base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
        ),
    )
    return _quiet(
        WanPipeline(
            tokenizer=t5_tokenizer(),
            text_encoder=t5_encoder(umt5=True),
            vae=autoencoder.eval(),
            transformer=wan_transformer(seed),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        )
    )


def wan22(seed: int = 1) -> WanPipeline:
    """`wan(seed)` with a second transformer for timesteps under 800, as in Wan 2.2."""
    parts = {**wan(seed).components, "transformer_2": wan_transformer(seed + 10)}
    return _quiet(WanPipeline(**parts, boundary_ratio=0.8))
