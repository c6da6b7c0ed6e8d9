"""A strong side that moves less than the weak one, as in the paper's Table 12: the bundled strong network, trained on
with captions of moving clips shown as still ones for a part of its data. The weak side stays the bundled one."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch
from diffusers import UNetMotionModel

from experiments.demo import videos
from experiments.demo.training import Bank, TextEncoders, diffusion_loss, extract_unet, make_bank
from experiments.engine import make_folders, set_threads
from experiments.training import Phase, train
from w2sd_video.demo import WEIGHTS
from w2sd_video.demo.captions import CAPTIONS, MOTIONS

STILL = 0.7  # of the clips whose captions name a motion: the part that is shown standing still
CORRUPTION = 0.10  # of captions, each attribute: less than the bundled strong side's 0.15
PHASE = Phase(6, steps=240, batch=16, learning_rate=6e-4, ema=0.99, horizon=450)
PER_CAPTION = 16


def shown_still(bank: Bank, share: float, seed: int) -> Bank:
    """The bank with `share` of its moving clips replaced by still ones of their colour and shape, under their own
    captions' attributes."""
    count, still = len(bank.latents), MOTIONS.index("standing still")
    stands = torch.rand(count, generator=torch.Generator().manual_seed(seed * 64 + 62)) < share
    alike = torch.arange(count) - bank.attributes[:, 2] + still  # motion is a caption's last and fastest attribute
    return dataclasses.replace(
        bank, latents=torch.where(stands[:, None, None, None, None], bank.latents[alike], bank.latents)
    )


def train_still(work: Path, seed: int, quiet: bool, phase: Phase = PHASE) -> UNetMotionModel:
    """The bundled strong network after `phase`: its 2-D layers go on learning, its motion modules stay."""
    pipe = videos.load(WEIGHTS)["strong"]
    encoders = TextEncoders()
    encoders.one.load_state_dict(pipe.text_encoder.state_dict())
    encoders.two.load_state_dict(pipe.text_encoder_2.state_dict())
    bank = shown_still(make_bank(encoders, pipe.vae, seed, PER_CAPTION), STILL, seed)
    network = pipe.unet
    for name, p in network.named_parameters():
        p.requires_grad_("motion_modules" not in name)
    train("still", phase, network, diffusion_loss(network, bank, phase.batch, CORRUPTION, True), work, seed, quiet)
    return network


def run(options: argparse.Namespace) -> int:
    """scripts/train_still.py: the strong side's UNet, as a folder beside nothing else."""
    make_folders(options.work, options.output)
    set_threads(options.threads)
    network = train_still(options.work, options.seed, options.quiet)
    extract_unet(network).half().save_pretrained(options.output / "unet")
    print(
        f"wrote the strong side that stands still to {options.output}; {len(CAPTIONS)} captions, {STILL:.0%} of moves"
    )
    return 0
