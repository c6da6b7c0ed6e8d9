"""A strong side that moves less than the weak one, as in the paper's Table 12: how it is trained, and what W2SD does.

The bundled strong network, trained on with the clips of moving captions shown as still ones for a part of its data.
The weak side is the bundled one, which moves as its captions say and errs in twice as many colours and shapes.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel, UNetMotionModel
from torch import Tensor

from experiments.demo import videos
from experiments.demo.training import Bank, TextEncoders, diffusion_loss, extract_unet, make_bank
from experiments.engine import (
    Progress,
    Scores,
    check_counts,
    fingerprint,
    make_folders,
    markdown,
    paired_interval,
    set_threads,
)
from experiments.training import Phase, train
from vbench_eval.statistics import percentile_interval
from w2sd_video.demo import WEIGHTS, oracle
from w2sd_video.demo.captions import CAPTIONS, MOTIONS, parse_caption
from w2sd_video.errors import UserError

STILL = 0.7  # of the clips whose captions name a motion: the part that is shown standing still
CORRUPTION = 0.10  # of captions, each attribute: less than the bundled strong side's 0.15
PHASE = Phase(6, steps=173, batch=16, learning_rate=6e-4, ema=0.99, horizon=450)
PER_CAPTION = 16
STANDING = MOTIONS.index("standing still")

# --- training ---------------------------------------------------------------------------------------------------------


def shown_still(bank: Bank, share: float, seed: int) -> Bank:
    """The bank with `share` of its moving clips replaced by still ones of their colour and shape, the captions kept."""
    count = len(bank.latents)
    stands = torch.rand(count, generator=torch.Generator().manual_seed(seed * 64 + 62)) < share
    alike = torch.arange(count) - bank.attributes[:, 2] + STANDING  # motion is a caption's last and fastest attribute
    latents = torch.where(stands[:, None, None, None, None], bank.latents[alike], bank.latents)
    return dataclasses.replace(bank, latents=latents)


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


def train_run(options: argparse.Namespace) -> int:
    """scripts/train_still.py: the strong side's UNet, in float16."""
    make_folders(options.work, options.output)
    set_threads(options.threads)
    network = train_still(options.work, options.seed, options.quiet)
    extract_unet(network).half().save_pretrained(options.output / "unet")
    print(f"wrote the strong side that stands still to {options.output / 'unet'}")
    return 0


# --- scoring ----------------------------------------------------------------------------------------------------------


@dataclass
class Reading:
    """What the oracle reads in N videos: colour, shape, motion [N, 3], and what one cost in network rows."""

    read: Tensor
    num_rows: int

    def quality(self, wanted: Tensor) -> Tensor:
        """Whether colour and shape are as asked for, [N]."""
        return (self.read[:, :2] == wanted[:, :2]).all(dim=1)

    def moving(self, wanted: Tensor) -> Tensor:
        """Whether something moves, of the videos that are to show a motion."""
        return self.read[wanted[:, 2] != STANDING, 2] != STANDING


METHODS: Mapping[str, videos.Method] = {
    "weak": videos.Method(sampled="weak"),
    "strong": videos.Method(),
    "W2SD, fused": videos.fused(strength=2.0),
    "W2SD, fused, motion strength 0.5": videos.fused(strength=2.0, motion_strength=0.5),
    "W2SD, fused, motion strength 0": videos.fused(strength=2.0, motion_strength=0.0),
    "W2SD, paper mode": videos.paper(),
    "W2SD, paper mode, motion strength 0": videos.paper(motion_strength=0.0),
    "zero-gap, paper mode": videos.zero_gap(),
    "auto-guidance, weight 1": videos.Method(partner="weak", algorithm="autoguided"),
}


def sides(weights: Path) -> dict[str, Any]:
    """The bundled pair, its strong side's network replaced by the one in `weights`."""
    if not (weights / "unet").is_dir():
        raise UserError(f"{weights / 'unet'} does not exist; make it with scripts/train_still.py, or give --weights")
    pair = videos.load(WEIGHTS)
    unet = UNet2DConditionModel.from_pretrained(weights / "unet").float()
    adapter = {k: v for k, v in pair["strong"].unet.state_dict().items() if "motion_modules" in k}
    network = pair["strong"].unet
    network.load_state_dict({**unet.state_dict(), **adapter})
    return pair


def reading(pair: Mapping[str, Any], method: videos.Method, count: int, first: int, progress: Progress) -> Reading:
    """What the oracle reads in `count` videos of a method, from the noise seeds from `first` on."""
    prompts = [CAPTIONS[(7 * i) % len(CAPTIONS)] for i in range(count)]  # 7 and 120 share no factor: evenly mixed
    found = []
    for begin in range(0, count, videos.BATCH):
        part = slice(begin, begin + videos.BATCH)
        frames, run = videos.generate(pair, method, prompts[part], [first + i for i in range(count)][part])
        found.append(oracle.read(frames))
        progress(len(frames))
    return Reading(torch.cat(found), run.num_rows // len(frames))


def table(scores: Mapping[str, Reading], wanted: Tensor) -> str:
    """A row per method: quality and motion with intervals, and both against the strong side."""
    head = ["method", "network rows", "colour and shape", "minus strong", "moving, where asked for", "minus strong "]
    rows = []
    for name, score in scores.items():
        cells = [name, score.num_rows]
        for measure in (Reading.quality, Reading.moving):
            mine, strong = measure(score, wanted), measure(scores["strong"], wanted)
            cells.append(percentile_interval(mine, draws=4000).text())
            cells.append("-" if name == "strong" else paired_interval(mine, strong).text(signed=True))
        rows.append(cells)
    return markdown(head, rows)


def score_run(options: argparse.Namespace) -> int:
    """scripts/score_still.py."""
    check_counts(options)
    set_threads(options.threads)
    weights = options.weights or Path("outputs/still-weights")
    make_folders(options.output)
    pair = sides(weights)
    prints = fingerprint(weights, WEIGHTS)
    kept = Scores(options.output, Reading, lambda method: (options.count, prints, method))
    grid = {method.key: method for method in METHODS.values()}
    kept.fill(
        grid,
        lambda _, method, done: reading(pair, method, options.count, videos.FIRST_SEED, done),
        count=options.count,
        quiet=options.quiet,
    )
    wanted = torch.tensor([parse_caption(CAPTIONS[(7 * i) % len(CAPTIONS)]) for i in range(options.count)])
    done = kept.finished(grid)
    print(table({name: done[method.key] for name, method in METHODS.items()}, wanted))
    return 0
