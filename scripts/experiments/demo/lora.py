"""A small LoRA for the picture pair's SDXL: what its biased captions taught it wrong, taught right."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict

from experiments.demo.picture_training import PictureBank, noise_loss
from experiments.engine import make_folders, set_threads
from experiments.training import Phase, train
from w2sd_video.demo import PICTURE_WEIGHTS, world
from w2sd_video.demo.pictures import PICTURE_CAPTIONS
from w2sd_video.errors import UserError

PHASE = Phase(18, steps=300, batch=96, learning_rate=2e-3, ema=0.99)
RANK = 4
LAYERS = ("to_q", "to_k", "to_v", "to_out.0")
PICTURES = 4096  # encoded once and drawn from


def load_pipeline(folder: Path) -> StableDiffusionXLPipeline:
    """The picture pair's SDXL in float32, without a progress bar; `UserError` where the folder holds none."""
    if not (folder / "model_index.json").is_file():
        raise UserError(f"{folder} holds no pipeline; give the folder `weak` of a pair train_bridge_demo.py made")
    pipe = StableDiffusionXLPipeline.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def bank_of(pipe: Any, seed: int, count: int = PICTURES) -> PictureBank:
    """`count` random pictures in the pipeline's latents, and the captions as it embeds them; its empty one is zeros."""
    pictures = world.random_frames(count, torch.Generator().manual_seed(seed * 64 + 63))
    encoded = [pipe.vae.encode(part[:, 0] * 2 - 1).latent_dist.mean for part in pictures.frames.split(128)]
    latents = torch.cat(encoded) * pipe.vae.config.scaling_factor
    hidden, _, pooled, _ = pipe.encode_prompt(list(PICTURE_CAPTIONS), do_classifier_free_guidance=False)
    hidden, pooled = (torch.cat([part, torch.zeros_like(part[:1])]) for part in (hidden, pooled))
    return PictureBank(latents, pictures.attributes, hidden, pooled)


def train_lora(
    pipe: Any, work: Path, seed: int, phase: Phase = PHASE, *, pictures: int = PICTURES, quiet: bool
) -> None:
    """Train a LoRA on the pipeline's attention layers with captions that are all correct, in place; resumable.

    Args:
        work: the folder of the checkpoint that an interrupted training continues from.
    """
    torch.manual_seed(seed + 3)
    pipe.unet.requires_grad_(False)
    # alpha = rank, so that the file alone says what a scale of 1 is
    pipe.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights=True, target_modules=list(LAYERS)))
    bank = bank_of(pipe, seed, pictures)
    train("lora", phase, pipe.unet, noise_loss(pipe.unet, bank, phase.batch, 0.0), work, seed, quiet)


def save_lora(pipe: Any, folder: Path) -> Path:
    """Write the pipeline's LoRA as `folder`/pytorch_lora_weights.safetensors, in diffusers' format and float16."""
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.unet))
    halved = {name: tensor.half().contiguous() for name, tensor in layers.items()}
    StableDiffusionXLPipeline.save_lora_weights(folder, unet_lora_layers=halved)
    return folder / "pytorch_lora_weights.safetensors"


def run(options: argparse.Namespace) -> int:
    """scripts/train_demo_lora.py."""
    make_folders(options.work, options.output)
    set_threads(1)
    pipe = load_pipeline(options.weights or PICTURE_WEIGHTS / "weak")
    train_lora(pipe, options.work, options.seed, quiet=options.quiet)
    print(f"wrote {save_lora(pipe, options.output)}")
    return 0
