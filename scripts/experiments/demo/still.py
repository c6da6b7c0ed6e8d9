"""A strong side that moves less than the weak one, as in the paper's Table 12: how it is trained, and what W2SD does.

The bundled strong network, trained on with the clips of moving captions shown as still ones for a part of its data.
The weak side is the bundled one, which moves as its captions say and errs in twice as many colours and shapes.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

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
from w2sd_video.core import mean_over_frames
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


def _shuffled(mean: Tensor) -> Tensor:
    return mean.roll(1, 0)


def _as_noise(mean: Tensor) -> Tensor:
    """Noise of each mean's size, seeded by the mean itself."""
    seed = int(mean.abs().sum().item() * 1e6) % 2**31
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))
    ratio = mean.flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1)
    return noise * ratio[:, None, None, None, None]


PARTS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "none: the strong side alone": lambda mean, rest: 0 * rest,
    "all of it": lambda mean, rest: mean + rest,
    "the mean over frames (motion strength 0)": lambda mean, rest: mean.expand_as(rest),
    "the differences between frames": lambda mean, rest: rest,
    "the mean of another video's": lambda mean, rest: _shuffled(mean).expand_as(rest),
    "noise of the mean's size, alike in all frames": lambda mean, rest: _as_noise(mean).expand_as(rest),
    "the mean, turned round": lambda mean, rest: -mean.expand_as(rest),
    "the mean, with the differences turned round": lambda mean, rest: mean - rest,
}
"""What a reflection's move is replaced by, from its mean over frames [B, C, 1, h, w] and the rest [B, C, F, h, w]."""


def parts_table(pair: Mapping[str, Any], strong: Reading) -> str:
    """Of the videos in which the strong side moves as asked to: which of them still move, by what each reflection of
    fused mode at strength 2 moves by."""
    prompts, wanted = _asked(len(strong.read))
    moving = ((wanted[:, 2] != STANDING) & (strong.read[:, 2] != STANDING)).nonzero().flatten().tolist()
    rows = []
    for name, part in PARTS.items():

        def moved(x: Tensor, tilde: Tensor, *rest: Any, part: Callable[[Tensor, Tensor], Tensor] = part) -> Tensor:
            mean = mean_over_frames(tilde - x)
            return x + part(mean, tilde - x - mean)

        with patch("w2sd_video.core.algorithms.bounded", moved):
            seeds = [videos.FIRST_SEED + i for i in moving]
            frames, _ = videos.generate(pair, videos.fused(strength=2.0), [prompts[i] for i in moving], seeds)
        found = Reading(oracle.read(frames), 40)
        shares = (
            measure(found, wanted[moving]).double().mean().item() for measure in (Reading.moving, Reading.quality)
        )
        rows.append([name, *(f"{share:.3f}" for share in shares)])
    return markdown(["each reflection moves by", f"moving, of {len(moving)}", "colour and shape"], rows)


def _asked(count: int) -> tuple[list[str], Tensor]:
    """The captions of `count` videos, evenly mixed (7 and 120 share no factor), and their attributes [N, 3]."""
    prompts = [CAPTIONS[(7 * i) % len(CAPTIONS)] for i in range(count)]
    return prompts, torch.tensor([parse_caption(prompt) for prompt in prompts])


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
    prompts, found = _asked(count)[0], []
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
    done = kept.finished(grid)
    print(table({name: done[method.key] for name, method in METHODS.items()}, _asked(options.count)[1]))
    if options.parts:
        print(f"\nwhat takes the motion\n\n{parts_table(pair, done[METHODS['strong'].key])}")
    return 0
