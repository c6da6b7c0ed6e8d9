"""The demo's networks in diffusers' and transformers' own classes, at a size that two CPU cores can train."""

import json
from typing import Any

from diffusers import AutoencoderKL, DDIMScheduler, MotionAdapter, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from w2sd_video.demo.captions import CAPTIONS
from w2sd_video.demo.world import SIZE

TEXT_WIDTH = 32  # of each text encoder; the UNet attends to both, 64 channels
MAX_TOKENS = 12  # a caption has 5 words and two marks
CHANNELS = (48, 96)
LATENT_SIZE = SIZE // 4


def build_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer whose merges make each word of the toy world one token; any other text falls back to bytes."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=10_000, end_of_word_suffix="</w>", show_progress=False, min_frequency=1)
    tokenizer.train_from_iterator(CAPTIONS, trainer)
    learned = tokenizer.get_vocab()
    merges = _merges_of(tokenizer)
    pieces = sorted(alphabet) + [letter + "</w>" for letter in sorted(alphabet)]
    pieces += [piece for piece, _ in sorted(learned.items(), key=lambda item: item[1]) if piece not in pieces]
    vocab = {piece: index for index, piece in enumerate([*pieces, start, end])}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)


def _merges_of(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """The merge rules of a trained byte-pair model, most frequent first."""
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in merges]


def build_text_encoder(tokenizer: CLIPTokenizer, *, with_projection: bool) -> CLIPTextModel:
    """One of SDXL's two text encoders; the second one has the projection whose output is the pooled embedding."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=TEXT_WIDTH,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config) if with_projection else CLIPTextModel(config)


def build_vae(latent_channels: int = 4, **settings: Any) -> AutoencoderKL:
    """RGB [B, 3, 32, 32] in [-1, 1] to latents [B, latent_channels, 8, 8]; `scaling_factor` is 1 unless given."""
    settings = {"scaling_factor": 1.0, **settings}
    return AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=SIZE,
        force_upcast=False,
        **settings,
    )


def build_unet() -> UNet2DConditionModel:
    """An SDXL UNet (text_time conditioning) over [B, 4, 8, 8] latents, attending to text at its lower resolution."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=4,
        out_channels=4,
        block_out_channels=CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        transformer_layers_per_block=1,
        attention_head_dim=(3, 6),
        cross_attention_dim=2 * TEXT_WIDTH,
        use_linear_projection=True,
        norm_num_groups=8,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + TEXT_WIDTH,
    )


def build_motion_adapter() -> MotionAdapter:
    """Temporal attention for up to 16 frames, one motion module per block."""
    return MotionAdapter(
        block_out_channels=CHANNELS,
        motion_layers_per_block=1,
        motion_norm_num_groups=8,
        motion_num_attention_heads=4,
        motion_max_seq_length=16,
        use_motion_mid_block=True,
    )


def build_scheduler() -> DDIMScheduler:
    """DDIM over linear betas: SDXL's own would keep too much signal at the last level for so small a latent."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )
