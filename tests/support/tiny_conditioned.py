"""Tiny image-to-video pipelines and others conditioned on frames: what they are given must stay as it is.

`CONDITIONED` names them; each gives the pipeline, a call of it, and what of its network's arguments is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import diffusers
import torch
from PIL import Image
from torch import Tensor

from tests.support import tiny, tiny_loops
from tests.support.tiny_loops import _made, _text

Given = Callable[[Mapping[str, Any]], Tensor]  # of a network's arguments
Conditioned = tuple[Any, dict[str, Any], Given]
VIDEO: dict[str, Any] = {"height": 16, "width": 16, "num_frames": 5}
GUIDED = {"prompt": "a cat", "guidance_scale": 3.0}


def picture(size: int = 16, seed: int = 4) -> Image.Image:
    pixels = torch.rand(size, size, 3, generator=tiny.generator(seed)).mul(255).byte()
    return Image.fromarray(pixels.numpy())


def _channels(first: int, name: str = "hidden_states", dim: int = 1) -> Given:
    """The channels from `first` on of what a network is given beside its latents."""
    return lambda given: given[name].narrow(dim, first, given[name].shape[dim] - first)


def _wan(kind: Any, network: Any = None, **parts: Any) -> Any:
    pipe = tiny.wan()
    own = {"vae": pipe.vae, "text_encoder": pipe.text_encoder, "tokenizer": pipe.tokenizer}
    return _made(kind, network, **{**own, **parts})


def _wan_network(kind: Any = diffusers.WanTransformer3DModel, **changes: Any) -> Any:
    config = {n: v for n, v in tiny.wan().transformer.config.items() if not n.startswith("_")}
    return tiny.seeded(1, lambda: kind(**{**config, **changes}))


def _no_encoder() -> dict[str, Any]:
    return {"image_encoder": None, "image_processor": None}


def wan_flf() -> Conditioned:
    """A first and a last frame, with a mask that says which frames are given."""
    pipe = _wan(diffusers.WanImageToVideoPipeline, _wan_network(in_channels=36), **_no_encoder())
    settings = {"image": picture(), "last_image": picture(seed=5), **GUIDED, **tiny.WAN_CALL}
    return pipe, settings, _channels(16)


def wan_i2v_5b() -> Conditioned:
    """A clean first frame in the place of the latents' own, whose tokens are told timestep 0 (Wan 2.2 5B)."""
    vae = tiny.seeded(
        12,
        lambda: diffusers.AutoencoderKLWan(
            base_dim=3,
            z_dim=16,
            in_channels=12,
            out_channels=12,
            is_residual=True,
            patch_size=2,
            latents_mean=[0.0] * 16,
            latents_std=[1.0] * 16,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            scale_factor_spatial=16,
            scale_factor_temporal=4,
            temperal_downsample=[False, True, True],
        ),
    )
    kind = diffusers.WanImageToVideoPipeline
    pipe = _wan(kind, _wan_network(), **_no_encoder(), vae=vae.eval(), expand_timesteps=True)
    settings = {"image": picture(32), **GUIDED, **tiny.WAN_CALL, "height": 32, "width": 32}

    def given(arguments: Mapping[str, Any]) -> Tensor:
        assert float(arguments["timestep"][:, 0].abs().max()) == 0
        return arguments["hidden_states"][:, :, :1]

    return pipe, settings, given


def wan_vace() -> Conditioned:
    """A video of which a mask says what is kept, given to layers of its own."""
    network = _wan_network(
        diffusers.WanVACETransformer3DModel, num_layers=2, vace_layers=[0], vace_in_channels=96, image_dim=None
    )
    pipe = _wan(diffusers.WanVACEPipeline, network)
    half = Image.new("L", (16, 16), 0)
    half.paste(255, (8, 0, 16, 16))
    settings = {"video": [picture()] * 5, "mask": [half] * 5, **GUIDED, **tiny.WAN_CALL}
    return pipe, settings, lambda given: given["control_hidden_states"]


def wan_animate() -> Conditioned:
    """A person's picture, poses and faces beside the latents, made segment by segment."""
    network = _wan_network(
        diffusers.WanAnimateTransformer3DModel,
        in_channels=36,
        latent_channels=16,
        image_dim=4,
        motion_encoder_channel_sizes={"4": 16, "8": 16, "16": 16},
        motion_encoder_size=16,
        motion_style_dim=8,
        motion_dim=4,
        motion_encoder_dim=16,
        face_encoder_hidden_dim=16,
        face_encoder_num_heads=2,
        inject_face_latents_blocks=1,
    )
    pipe = _wan(diffusers.WanAnimatePipeline, network, **_no_encoder())
    pipe.encode_image = lambda *_: _text(1, 3, 4)
    frames = [picture(seed=6)] * 5
    settings = {
        "image": picture(),
        "pose_video": frames,
        "face_video": frames,
        "mode": "animate",
        "segment_frame_length": 5,
        "prev_segment_conditioning_frames": 1,
        **GUIDED,
        **tiny.WAN_CALL,
    }
    del settings["num_frames"]
    return (
        pipe,
        settings,
        lambda given: torch.cat([_channels(16)(given).flatten(), given["pose_hidden_states"].flatten()]),
    )


def skyreels_v2_i2v() -> Conditioned:
    """A first frame beside the latents, on UniPC as its checkpoints have it."""
    network = _wan_network(diffusers.SkyReelsV2Transformer3DModel, in_channels=36, image_dim=4)
    scheduler = diffusers.UniPCMultistepScheduler(
        flow_shift=5.0, use_flow_sigmas=True, prediction_type="flow_prediction"
    )
    pipe = _wan(diffusers.SkyReelsV2ImageToVideoPipeline, network, scheduler=scheduler, **_no_encoder())
    pipe.encode_image = lambda *_: _text(1, 3, 4)
    return pipe, {"image": picture(), **GUIDED, **tiny.WAN_CALL}, _channels(16)


def hunyuan_video15_i2v() -> Conditioned:
    """A first frame and a mask beside the latents, an object that guides."""
    network = tiny.seeded(
        1,
        lambda: diffusers.HunyuanVideo15Transformer3DModel(
            in_channels=9,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=1,
            num_refiner_layers=1,
            mlp_ratio=2.0,
            patch_size=1,
            patch_size_t=1,
            text_embed_dim=8,
            text_embed_2_dim=8,
            image_embed_dim=12,
            rope_axes_dim=(2, 2, 4),
            target_size=16,
            task_type="i2v",
        ),
    )
    vae = tiny.seeded(
        12,
        lambda: diffusers.AutoencoderKLHunyuanVideo15(
            in_channels=3,
            out_channels=3,
            latent_channels=4,
            block_out_channels=(16, 16),
            layers_per_block=1,
            spatial_compression_ratio=4,
            temporal_compression_ratio=2,
            downsample_match_channel=False,
            upsample_match_channel=False,
        ),
    )
    parts = dict.fromkeys(("text_encoder_2", "tokenizer_2", "image_encoder", "feature_extractor"))
    guider = diffusers.ClassifierFreeGuidance(guidance_scale=3.0)
    pipe = _made(diffusers.HunyuanVideo15ImageToVideoPipeline, network, vae=vae.eval(), guider=guider, **parts)
    pipe.encode_image = lambda image, batch_size, device, dtype: _text(batch_size, 3, 12)
    settings: dict[str, Any] = {"image": picture(), "num_frames": 5}
    for half, seed in (("", 3), ("negative_", 4)):
        for number in ("", "_2"):
            settings[f"{half}prompt_embeds{number}"] = _text(1, 5, 8, seed=seed)
            settings[f"{half}prompt_embeds_mask{number}"] = torch.ones(1, 5)
    return pipe, settings, lambda given: torch.cat([_channels(4)(given).flatten(), given["image_embeds"].flatten()])


def cogvideox_i2v() -> Conditioned:
    """A first frame beside the latents, frames before channels."""
    network = tiny.seeded(
        1,
        lambda: diffusers.CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=8,
            out_channels=4,
            time_embed_dim=2,
            text_embed_dim=8,
            num_layers=1,
            sample_width=2,
            sample_height=2,
            sample_frames=9,
            max_text_seq_length=5,
            use_rotary_positional_embeddings=True,
            use_learned_positional_embeddings=True,
        ),
    )
    vae = tiny.seeded(
        12,
        lambda: diffusers.AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
        ),
    )
    scheduler = diffusers.CogVideoXDDIMScheduler(clip_sample=False)
    pipe = _made(diffusers.CogVideoXImageToVideoPipeline, network, scheduler, vae=vae.eval())
    embeds = {"prompt_embeds": _text(1, 5, 8), "negative_prompt_embeds": _text(1, 5, 8, seed=4)}
    settings = {"image": picture(), "guidance_scale": 3.0, "max_sequence_length": 5, **embeds}
    return pipe, {**settings, **VIDEO, "num_frames": 9}, _channels(4, dim=2)


def kandinsky5_i2v() -> Conditioned:
    """A clean first frame in the latents themselves, with channels that say so."""
    network = tiny.seeded(
        1,
        lambda: diffusers.Kandinsky5Transformer3DModel(
            in_visual_dim=4,
            in_text_dim=8,
            in_text_dim2=8,
            time_dim=8,
            out_visual_dim=4,
            patch_size=(1, 2, 2),
            model_dim=16,
            ff_dim=16,
            num_text_blocks=1,
            num_visual_blocks=1,
            axes_dims=(2, 2, 4),
            visual_cond=True,
            attention_type="regular",
        ),
    )
    parts = dict.fromkeys(("text_encoder_2", "tokenizer_2"))
    pipe = _made(diffusers.Kandinsky5I2VPipeline, network, vae=_hunyuan_vae(), **parts)
    settings: dict[str, Any] = {"image": picture(32), "guidance_scale": 3.0, "height": 32, "width": 32}
    for half, seed in (("", 3), ("negative_", 4)):
        settings[f"{half}prompt_embeds_qwen"] = _text(1, 5, 8, seed=seed)
        settings[f"{half}prompt_embeds_clip"] = _text(1, 8, seed=seed)
        settings[f"{half}prompt_cu_seqlens"] = torch.tensor([0, 5], dtype=torch.int32)

    def given(arguments: Mapping[str, Any]) -> Tensor:
        frames = arguments["hidden_states"]
        return torch.cat([frames[:, :1, ..., :4].flatten(), frames[..., 4:].flatten()])

    return pipe, {**settings, "num_frames": 17, "max_sequence_length": 5}, given


def _hunyuan_vae() -> Any:
    return tiny.seeded(
        12,
        lambda: diffusers.AutoencoderKLHunyuanVideo(
            latent_channels=4,
            down_block_types=("HunyuanVideoDownBlock3D",) * 4,
            up_block_types=("HunyuanVideoUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=4,
            mid_block_add_attention=False,
        ),
    ).eval()


def framepack() -> Conditioned:
    """A video made section by section, each a loop of its own that sees the sections before it."""
    network = tiny.seeded(
        1,
        lambda: diffusers.HunyuanVideoFramepackTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=10,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            patch_size=2,
            patch_size_t=1,
            guidance_embeds=True,
            text_embed_dim=8,
            pooled_projection_dim=8,
            rope_axes_dim=(2, 4, 4),
            image_condition_type=None,
            has_image_proj=True,
            image_proj_dim=8,
            has_clean_x_embedder=True,
        ),
    )
    parts = dict.fromkeys(("text_encoder_2", "tokenizer_2", "image_encoder", "feature_extractor"))
    pipe = _made(diffusers.HunyuanVideoFramepackPipeline, network, vae=_hunyuan_vae(), **parts)
    pipe.encode_image = lambda *_, **__: _text(1, 3, 8)
    settings = {
        "image": picture(32),
        "prompt_embeds": _text(1, 5, 8),
        "pooled_prompt_embeds": _text(1, 8),
        "prompt_attention_mask": torch.ones(1, 5),
        "guidance_scale": 4.5,
        "height": 32,
        "width": 32,
        "num_frames": 17,
        "latent_window_size": 3,
    }
    return pipe, settings, lambda given: given["latents_clean"]


def ltx2_i2v() -> Conditioned:
    """A first frame in the video's latents, with sound beside it."""
    pipe, settings = tiny_loops.ltx2()
    parts = {n: part for n, part in pipe.components.items() if n not in ("text_encoder", "tokenizer", "transformer")}
    made = _made(diffusers.LTX2ImageToVideoPipeline, pipe.transformer, **parts)
    return made, {**settings, "image": picture(32)}, lambda given: given["hidden_states"][:, : 16 * 16]


def instruct_pix2pix() -> tuple[Any, dict[str, Any]]:
    """A picture beside the latents, and three branches: guided by the text and by the picture."""
    parts = tiny.sd15().components
    network = tiny.seeded(1, lambda: diffusers.UNet2DConditionModel(**{**parts["unet"].config, "in_channels": 8}))
    pipe = diffusers.StableDiffusionInstructPix2PixPipeline(
        **{**parts, "unet": network.eval(), "safety_checker": None}, requires_safety_checker=False
    )
    return tiny._quiet(pipe), {"image": picture(), "image_guidance_scale": 1.5, **GUIDED}


def diffusion_forcing() -> tuple[Any, dict[str, Any]]:
    """Each frame stepped by a scheduler of its own."""
    scheduler = diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    network = _wan_network(diffusers.SkyReelsV2Transformer3DModel, inject_sample_info=False)
    pipe = _wan(diffusers.SkyReelsV2DiffusionForcingPipeline, network, scheduler=scheduler)
    return pipe, {**GUIDED, **tiny.WAN_CALL}


def z_image_inpaint() -> Conditioned:
    """The known part of a picture is put back, with noise, after each step."""
    pipe, settings = tiny_loops.z_image()
    parts = {n: part for n, part in pipe.components.items() if n not in ("text_encoder", "tokenizer", "transformer")}
    made = _made(diffusers.ZImageInpaintPipeline, pipe.transformer, **parts)
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (8, 0, 16, 16))
    settings = {**settings, "image": picture(), "mask_image": mask, "strength": 1.0}
    return made, settings, lambda given: torch.stack(list(given["x"]))[..., :4]


CONDITIONED: dict[str, Callable[[], Conditioned]] = {
    made.__name__: made
    for made in (
        *(wan_flf, wan_i2v_5b, wan_vace, wan_animate, skyreels_v2_i2v, hunyuan_video15_i2v, cogvideox_i2v),
        *(kandinsky5_i2v, framepack, ltx2_i2v, z_image_inpaint),
    )
}
