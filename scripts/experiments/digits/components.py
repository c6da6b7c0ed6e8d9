"""The bundled networks in their own classes, at a size that a CPU core can train and sample."""

from __future__ import annotations

from diffusers import AutoencoderKL

from bridges.dit_moe.demo.digits import NUM_CLASSES, SIZE
from bridges.dit_moe.network import DiTMoE

LATENT_SIZE = SIZE // 4
LATENT_SCALE = 0.18215  # Stable Diffusion's, which DiT-MoE's latents have: times it, they have unit variance


def build_vae() -> AutoencoderKL:
    """Pictures [B, 3, 32, 32] in [-1, 1] to latents [B, 4, 8, 8]."""
    return AutoencoderKL(
        block_out_channels=(8, 16, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        mid_block_add_attention=False,
        sample_size=SIZE,
        force_upcast=False,
        scaling_factor=LATENT_SCALE,
    )


def build_network() -> DiTMoE:
    """A DiT-MoE over latents [B, 4, 8, 8]: 16 tokens, 8 experts, the top 2 of them for each token.

    It predicts the noise only: the published networks' learned variances serve no sampler here.
    """
    return DiTMoE(
        sample_size=LATENT_SIZE,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=4,
        hidden_size=64,
        num_attention_heads=4,
        num_experts=8,
        num_experts_per_tok=2,
        num_classes=NUM_CLASSES,
        expert_hidden_size=128,
        shared_expert_hidden_size=128,
    )
