"""Tiny pipelines whose loops do more with the latent than pass it on: lists, masks, concatenation, sound, own guidance.

Their text is given as embeddings, so that none has a text encoder. `LOOPS` names them; each gives the pipeline and a
call of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, T2IAdapter
from PIL import Image
from torch import Tensor, nn

from tests.support import tiny

Made = tuple[Any, dict[str, Any]]


def _text(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=tiny.generator(seed))


def _alive(network: nn.Module, seed: int = 7) -> Any:
    """The network with no weights that are all alike, as diffusers starts the last layers with zeros."""
    noise = tiny.generator(seed)
    with torch.no_grad():
        for weight in network.parameters():
            flat = weight.dim() > 1 and weight.numel() > 1 and float(weight.std()) < 1e-3
            if flat or not bool(weight.isfinite().all()) or not bool(weight.any()):
                weight.copy_(0.1 * torch.randn(weight.shape, generator=noise))
    return network.eval()


def another(network: nn.Module, seed: int = 11) -> Any:
    """A network like this one of other weights."""
    other, noise = copy.deepcopy(network), tiny.generator(seed)
    with torch.no_grad():
        for weight in other.parameters():
            spread = weight.std() if weight.numel() > 1 else torch.tensor(0.1)
            weight.add_(0.5 * spread * torch.randn(weight.shape, generator=noise))
    return other


def _made(kind: Any, network: nn.Module, scheduler: Any = None, **parts: Any) -> Any:
    absent = dict.fromkeys(("text_encoder", "tokenizer"))
    scheduler = scheduler or FlowMatchEulerDiscreteScheduler(shift=3.0)
    parts = {**absent, "transformer": _alive(network), "scheduler": scheduler, **parts}
    return tiny._quiet(kind(**{name: part for name, part in parts.items() if part is not ...}))


def _qwen_vae() -> Any:
    return tiny.seeded(
        12,
        lambda: diffusers.AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
    ).eval()


def lumina2() -> Made:
    """Guidance brought to the conditional half's norm, the prediction's sign turned, time counted up."""
    network = tiny.seeded(
        1,
        lambda: diffusers.Lumina2Transformer2DModel(
            sample_size=4,
            patch_size=2,
            in_channels=4,
            hidden_size=8,
            num_layers=1,
            num_attention_heads=1,
            num_kv_heads=1,
            multiple_of=16,
            axes_dim_rope=[4, 2, 2],
            axes_lens=(64, 64, 64),
            cap_feat_dim=8,
        ),
    )
    mask = torch.ones(1, 5, dtype=torch.long)
    settings = {
        "prompt_embeds": _text(1, 5, 8),
        "negative_prompt_embeds": _text(1, 5, 8, seed=4),
        "prompt_attention_mask": mask,
        "negative_prompt_attention_mask": mask,
        "guidance_scale": 4.0,
    }
    vae = tiny.vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5)
    return _made(diffusers.Lumina2Pipeline, network, vae=vae), {**settings, **tiny.IMAGE_CALL}


def lumina_next() -> Made:
    """A variance that is learned and left out, three of four channels guided, the prediction's sign turned."""
    network = tiny.seeded(
        1,
        lambda: diffusers.LuminaNextDiT2DModel(
            sample_size=4,
            patch_size=2,
            in_channels=4,
            hidden_size=16,
            num_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=16,
            learn_sigma=True,
            qk_norm=True,
            cross_attention_dim=8,
        ),
    )
    mask = torch.ones(1, 5, dtype=torch.long)
    settings = {
        "prompt_embeds": _text(1, 5, 8),
        "negative_prompt_embeds": _text(1, 5, 8, seed=4),
        "prompt_attention_mask": mask,
        "negative_prompt_attention_mask": mask,
        "guidance_scale": 4.0,
    }
    return _made(diffusers.LuminaPipeline, network, vae=tiny.vae()), {**settings, **tiny.IMAGE_CALL}


def nucleus_moe() -> Made:
    """Guidance brought to the conditional half's norm, the prediction's sign turned."""
    network = tiny.seeded(
        1,
        lambda: diffusers.NucleusMoEImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=8,
            axes_dims_rope=(4, 2, 2),
            moe_enabled=False,
            capacity_factors=[8.0],
        ),
    )
    settings = {
        "prompt_embeds": _text(1, 5, 8),
        "negative_prompt_embeds": _text(1, 5, 8, seed=4),
        "prompt_embeds_mask": torch.ones(1, 5, dtype=torch.bool),
        "negative_prompt_embeds_mask": torch.ones(1, 5, dtype=torch.bool),
        "guidance_scale": 4.0,
    }
    parts = {"processor": None, "tokenizer": ..., "vae": _qwen_vae()}
    return _made(diffusers.NucleusMoEImagePipeline, network, **parts), {**settings, **tiny.IMAGE_CALL}


def krea2() -> Made:
    """cond + scale * (cond - uncond)."""
    network = tiny.seeded(
        1,
        lambda: diffusers.Krea2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=16,
            timestep_embed_dim=8,
            text_hidden_dim=8,
            num_text_layers=2,
            text_num_attention_heads=2,
            text_num_key_value_heads=1,
            text_intermediate_size=8,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=(4, 2, 2),
            rope_theta=1000.0,
        ),
    )
    settings = {
        "prompt_embeds": _text(1, 5, 2, 8),
        "negative_prompt_embeds": _text(1, 5, 2, 8, seed=4),
        "prompt_embeds_mask": torch.ones(1, 5, dtype=torch.bool),
        "negative_prompt_embeds_mask": torch.ones(1, 5, dtype=torch.bool),
        "guidance_scale": 1.0,
    }
    parts = {"vae": _qwen_vae(), "text_encoder_select_layers": (0, 1)}
    return _made(diffusers.Krea2Pipeline, network, **parts), {**settings, **tiny.IMAGE_CALL}


def t2i_adapter() -> Made:
    """Residuals of an adapter in a list, which the network empties."""
    pipe = tiny.sd15()
    channels = list(pipe.unet.config.block_out_channels)
    adapter = tiny.seeded(
        5, lambda: T2IAdapter(3, channels, num_res_blocks=1, downscale_factor=4, adapter_type="full_adapter_xl")
    )
    parts = {**pipe.components, "adapter": adapter.eval(), "requires_safety_checker": False}
    del parts["image_encoder"]
    pipe = tiny._quiet(diffusers.StableDiffusionAdapterPipeline(**parts))
    image = torch.rand(1, 3, 16, 16, generator=tiny.generator(4))
    return pipe, {"prompt": "a cat", "image": image, "guidance_scale": 3.0, **tiny.IMAGE_CALL}


def ltx2() -> Made:
    """A video and its sound from one network, stepped by two schedulers."""
    from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder

    network = tiny.seeded(
        1,
        lambda: diffusers.LTX2VideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            patch_size=1,
            patch_size_t=1,
            num_attention_heads=2,
            attention_head_dim=8,
            cross_attention_dim=16,
            audio_in_channels=4,
            audio_out_channels=4,
            audio_num_attention_heads=2,
            audio_attention_head_dim=4,
            audio_cross_attention_dim=8,
            num_layers=1,
            qk_norm="rms_norm_across_heads",
            caption_channels=8,
            rope_double_precision=False,
            rope_type="split",
        ),
    )
    connectors = tiny.seeded(
        2,
        lambda: LTX2TextConnectors(
            caption_channels=8,
            text_proj_in_factor=2,
            video_connector_num_attention_heads=2,
            video_connector_attention_head_dim=4,
            video_connector_num_layers=1,
            video_connector_num_learnable_registers=None,
            audio_connector_num_attention_heads=2,
            audio_connector_attention_head_dim=4,
            audio_connector_num_layers=1,
            audio_connector_num_learnable_registers=None,
            connector_rope_base_seq_len=32,
            rope_theta=10000.0,
            rope_double_precision=False,
            causal_temporal_positioning=False,
            rope_type="split",
        ),
    )
    vae = tiny.seeded(
        12,
        lambda: diffusers.AutoencoderKLLTX2Video(
            in_channels=3,
            out_channels=3,
            latent_channels=4,
            block_out_channels=(8,),
            decoder_block_out_channels=(8,),
            layers_per_block=(1,),
            decoder_layers_per_block=(1, 1),
            spatio_temporal_scaling=(True,),
            decoder_spatio_temporal_scaling=(True,),
            decoder_inject_noise=(False, False),
            downsample_type=("spatial",),
            upsample_residual=(False,),
            upsample_factor=(1,),
            timestep_conditioning=False,
            patch_size=1,
            patch_size_t=1,
        ),
    )
    audio_vae = tiny.seeded(
        13,
        lambda: diffusers.AutoencoderKLLTX2Audio(
            base_channels=4,
            output_channels=2,
            ch_mult=(1,),
            num_res_blocks=1,
            attn_resolutions=None,
            in_channels=2,
            resolution=32,
            latent_channels=2,
            norm_type="pixel",
            causality_axis="height",
            mid_block_add_attention=False,
            sample_rate=16000,
            mel_hop_length=160,
            mel_bins=8,
        ),
    )
    vocoder = tiny.seeded(
        14,
        lambda: LTX2Vocoder(
            in_channels=16,
            hidden_channels=8,
            out_channels=2,
            upsample_kernel_sizes=[4],
            upsample_factors=[2],
            resnet_kernel_sizes=[3],
            resnet_dilations=[[1]],
        ),
    )
    parts = {"connectors": connectors.eval(), "vae": vae.eval(), "audio_vae": audio_vae.eval(), "vocoder": vocoder}
    mask = torch.ones(1, 32, dtype=torch.long)
    settings = {
        "prompt_embeds": _text(1, 32, 16),
        "negative_prompt_embeds": _text(1, 32, 16, seed=4),
        "prompt_attention_mask": mask,
        "negative_prompt_attention_mask": mask,
        "guidance_scale": 3.0,
        "audio_guidance_scale": 3.0,
        **{f"{kind}stg_scale": 0.0 for kind in ("", "audio_")},
        **{f"{kind}modality_scale": 1.0 for kind in ("", "audio_")},
        **{f"{kind}guidance_rescale": 0.0 for kind in ("", "audio_")},
        "spatio_temporal_guidance_blocks": None,
        "use_cross_timestep": False,
        "height": 32,
        "width": 32,
        "num_frames": 5,
        "frame_rate": 25.0,
    }
    return _made(diffusers.LTX2Pipeline, network, **parts), settings


def ltx2_from_text() -> Any:
    """As `ltx2`, with a text encoder and its tokenizer."""
    from diffusers.pipelines.ltx2 import LTX2TextConnectors

    pipe, _ = ltx2()
    heads = {f"{kind}_connector_{name}": value for kind in ("video", "audio") for name, value in CONNECTED.items()}
    settings = {**pipe.connectors.config, **heads, "caption_channels": 32, "text_proj_in_factor": 3}
    parts = {
        **pipe.components,
        "connectors": tiny.seeded(2, lambda: LTX2TextConnectors.from_config(settings)).eval(),
        "text_encoder": tiny.t5_encoder(),
        "tokenizer": tiny.t5_tokenizer(),
    }
    network = {**pipe.transformer.config, "caption_channels": 32}
    return _made(
        diffusers.LTX2Pipeline,
        tiny.seeded(1, lambda: diffusers.LTX2VideoTransformer3DModel.from_config(network)),
        **{name: part for name, part in parts.items() if name not in ("transformer",)},
    )


CONNECTED = {"num_attention_heads": 2, "attention_head_dim": 16}


def ltx_i2v() -> Made:
    """A first frame that is no part of what its scheduler steps, put before the other frames after each step."""
    pipe, settings = ltx_condition()
    parts = {name: part for name, part in pipe.components.items() if name not in ("text_encoder", "tokenizer")}
    return _made(diffusers.LTXImageToVideoPipeline, parts.pop("transformer"), **parts), settings


def ltx_condition() -> Made:
    """A first frame as tokens of their own time, and noise on them that is drawn inside the loop."""
    network = tiny.seeded(
        1,
        lambda: diffusers.LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            patch_size=1,
            patch_size_t=1,
            num_attention_heads=2,
            attention_head_dim=8,
            cross_attention_dim=16,
            num_layers=1,
            caption_channels=8,
        ),
    )
    vae = tiny.seeded(
        12,
        lambda: diffusers.AutoencoderKLLTXVideo(
            latent_channels=8,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1,) * 5,
            decoder_layers_per_block=(1,) * 5,
            spatio_temporal_scaling=(True, True, False, False),
            decoder_spatio_temporal_scaling=(True, True, False, False),
            decoder_inject_noise=(False,) * 5,
            upsample_residual=(False,) * 4,
            upsample_factor=(1,) * 4,
            timestep_conditioning=False,
            patch_size=1,
            patch_size_t=1,
        ),
    )
    mask = torch.ones(1, 5, dtype=torch.long)
    settings = {
        "image": torch.rand(1, 3, 32, 32, generator=tiny.generator(4)),
        "prompt_embeds": _text(1, 5, 8),
        "negative_prompt_embeds": _text(1, 5, 8, seed=4),
        "prompt_attention_mask": mask,
        "negative_prompt_attention_mask": mask,
        "guidance_scale": 3.0,
        "height": 32,
        "width": 32,
        "num_frames": 9,
    }
    scheduler = FlowMatchEulerDiscreteScheduler()
    return _made(diffusers.LTXConditionPipeline, network, scheduler, vae=vae.eval()), settings


def _flux2_vae() -> Any:
    return tiny.seeded(
        12,
        lambda: diffusers.AutoencoderKLFlux2(
            sample_size=32,
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",),
            up_block_types=("UpDecoderBlock2D",),
            block_out_channels=(4,),
            layers_per_block=1,
            latent_channels=1,
            norm_num_groups=1,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
    ).eval()


def flux2_klein_kv() -> Made:
    """The first evaluation returns a cache beside its prediction, which those that follow are given."""
    network = tiny.seeded(
        1,
        lambda: diffusers.Flux2Transformer2DModel(
            patch_size=1,
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            timestep_guidance_channels=256,
            axes_dims_rope=[4, 4, 4, 4],
            guidance_embeds=False,
        ),
    )
    vae = _flux2_vae()
    image = Image.new("RGB", (64, 64), (200, 30, 90))
    pipe = _made(diffusers.Flux2KleinKVPipeline, network, vae=vae)
    return pipe, {"prompt_embeds": _text(1, 5, 16), "image": image, "height": 8, "width": 8}


def ideogram4() -> Made:
    """A network of its own for the unconditional prediction, the prediction's sign turned, time counted up."""
    settings: dict[str, Any] = {
        "in_channels": 4,
        "num_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "adaln_dim": 16,
        "llm_features_dim": 16,
        "mrope_section": (4, 2, 2),
    }
    networks = [tiny.seeded(seed, lambda: diffusers.Ideogram4Transformer2DModel(**settings)) for seed in (1, 2)]
    parts = {"unconditional_transformer": _alive(networks[1]).eval(), "prompt_enhancer_head": None}
    pipe = _made(diffusers.Ideogram4Pipeline, networks[0], vae=_flux2_vae(), **parts)

    def encoded(prompt: Any, grid_h: int, grid_w: int, max_sequence_length: int, device: Any) -> Any:
        text = torch.cat([_text(1, max_sequence_length, 16), torch.zeros(1, grid_h * grid_w, 16)], dim=1)
        return text, *pipe._prepare_ids([max_sequence_length], grid_h, grid_w, max_sequence_length, device)

    pipe.encode_prompt = encoded
    return pipe, {"prompt": "a", "height": 8, "width": 8, "max_sequence_length": 5,
                  "guidance_scale": 3.0, "guidance_schedule": None}  # fmt: skip


def z_image() -> Made:
    """Latents in a list, one call for both halves, the prediction's sign turned, cond + scale * (cond - uncond)."""
    network = tiny.seeded(
        1,
        lambda: diffusers.ZImageTransformer2DModel(
            all_patch_size=(2,),
            all_f_patch_size=(1,),
            in_channels=4,
            dim=16,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            qk_norm=True,
            cap_feat_dim=8,
            axes_dims=[4, 2, 2],
            axes_lens=[64, 16, 16],
        ),
    )
    with torch.no_grad():  # made without values
        network.x_pad_token.fill_(1.0)
        network.cap_pad_token.fill_(1.0)
    settings = {
        "prompt_embeds": [_text(5, 8)],
        "negative_prompt_embeds": [_text(5, 8, seed=4)],
        "guidance_scale": 3.0,
        **tiny.IMAGE_CALL,
    }
    vae = tiny.vae(shift_factor=0.1, scaling_factor=0.36)
    return _made(diffusers.ZImagePipeline, network, vae=vae), settings


def qwen_image() -> Made:
    """Guidance brought to the conditional half's norm, token by token."""
    network = tiny.seeded(
        1,
        lambda: diffusers.QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=8,
            guidance_embeds=False,
            axes_dims_rope=(4, 2, 2),
        ),
    )
    mask = torch.ones(1, 5, dtype=torch.long)
    settings = {
        "prompt_embeds": _text(1, 5, 8),
        "negative_prompt_embeds": _text(1, 5, 8, seed=4),
        "prompt_embeds_mask": mask,
        "negative_prompt_embeds_mask": mask,
        "true_cfg_scale": 3.0,
        **tiny.IMAGE_CALL,
    }
    return _made(diffusers.QwenImagePipeline, network, vae=_qwen_vae()), settings


def svd() -> Made:
    """The first frame's latent beside the noisy ones, a guidance scale for each frame, v-predictions of Euler."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    network = tiny.seeded(
        1,
        lambda: diffusers.UNetSpatioTemporalConditionModel(
            block_out_channels=(32, 32),
            layers_per_block=1,
            sample_size=8,
            in_channels=8,
            out_channels=4,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            cross_attention_dim=8,
            num_attention_heads=2,
            projection_class_embeddings_input_dim=24,
            addition_time_embed_dim=8,
        ),
    )
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        sigma_max=700.0,
        sigma_min=0.002,
        timestep_spacing="leading",
        timestep_type="continuous",
        use_karras_sigmas=True,
        steps_offset=1,
    )
    vae = tiny.seeded(
        12,
        lambda: diffusers.AutoencoderKLTemporalDecoder(
            block_out_channels=[32, 32],
            down_block_types=["DownEncoderBlock2D"] * 2,
            latent_channels=4,
        ),
    )
    config = CLIPVisionConfig(
        hidden_size=8,
        projection_dim=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        intermediate_size=8,
        patch_size=8,
    )
    encoder = tiny.seeded(14, lambda: CLIPVisionModelWithProjection(config)).eval()
    from transformers import CLIPImageProcessorPil

    parts = {"image_encoder": encoder, "vae": vae.eval(), "unet": _alive(network), "scheduler": scheduler}
    processor = CLIPImageProcessorPil(crop_size=16, size=16)
    pipe = tiny._quiet(diffusers.StableVideoDiffusionPipeline(**parts, feature_extractor=processor))
    image = torch.rand(1, 3, 16, 16, generator=tiny.generator(4))
    return pipe, {"image": image, "max_guidance_scale": 2.5, "num_frames": 2, **tiny.IMAGE_CALL}


def wan_i2v() -> Made:
    """A mask and the first frame's latent beside the noisy ones."""
    wan = tiny.wan()
    network = tiny.seeded(
        1,
        lambda: diffusers.WanTransformer3DModel(
            **{**wan.transformer.config, "in_channels": 36},
        ),
    )
    settings = {
        "image": Image.new("RGB", (16, 16), (200, 30, 90)),
        "prompt": "a cat",
        "guidance_scale": 3.0,
        **tiny.WAN_CALL,
    }
    parts = {"vae": wan.vae, "text_encoder": wan.text_encoder, "tokenizer": wan.tokenizer}
    parts |= {"image_encoder": None, "image_processor": None}
    return _made(diffusers.WanImageToVideoPipeline, network, **parts), settings


LOOPS: dict[str, Callable[[], Made]] = {
    made.__name__: made
    for made in (
        *(lumina2, lumina_next, nucleus_moe, krea2, t2i_adapter, ltx2, flux2_klein_kv, ideogram4),
        *(z_image, qwen_image, svd, wan_i2v, ltx_condition, ltx_i2v),
    )
}
