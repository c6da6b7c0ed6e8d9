"""Videos of the bundled pair made in any way, and what the oracle reads in them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.demo.method_ways import Way
from experiments.demo.scoring import Score, prompts_and_seeds
from w2sd_video.commands.rewards import oracle_share
from w2sd_video.demo import oracle, world
from w2sd_video.demo.captions import parse_caption
from w2sd_video.hosting.hosting import reflected
from w2sd_video.pair import Selection

BATCH = 24
Reward = Callable[[NDArray[np.uint8], str | None], float]


def reward_called(name: str) -> Reward:
    """A new reward: "oracle" (share of attributes right), "colour" (that alone) or "random" (seeded, blind)."""
    if name == "random":
        numbers = random.Random(0)
        return lambda frames, prompt: numbers.random()
    first = {"oracle": 3, "colour": 1}[name]
    return lambda frames, prompt: oracle_share(frames, prompt or "", first=first)


def generate(sides: Mapping[str, Any], way: Way, prompts: Sequence[str], seeds: Sequence[int]) -> tuple[Tensor, Any]:
    """Frames [B, F, 3, H, W] in [0, 1] and the run that made them, for one batch of prompts and noise seeds."""
    pipe = sides[way.sampled]
    pipe.set_progress_bar_config(disable=True)
    weak: Any = way.partner
    if way.partner in ("strong", "weak"):
        weak = sides[way.partner].unet
    selection = None
    if way.reward is not None:
        selection = Selection(reward_called(way.reward), frames=world.NUM_FRAMES)
    with reflected(pipe, weak=weak, config=way.config, method=way.algorithm, selection=selection) as run:
        frames = pipe(
            list(prompts),
            num_frames=world.NUM_FRAMES,
            height=world.SIZE,
            width=world.SIZE,
            num_inference_steps=way.steps,
            guidance_scale=1.0,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="pt",
        ).frames
    return frames.float().clamp(0, 1), run


def score(
    sides: Mapping[str, Any], way: Way, count: int, progress: Callable[[int], object] = lambda finished: None
) -> tuple[Score, Mapping[str, float]]:
    """Generate `count` videos in one way and read them; also what else the runs say, by name.

    Evaluations are those of a video made by itself: in a batch whose videos choose differently "w2sd-auto" makes more.
    "second" is the share of selections that took the weak side for the strong one.

    Args:
        progress: called after each batch with the number of videos in it.
    """
    prompts, seeds = prompts_and_seeds(count)
    wanted = torch.tensor([parse_caption(prompt) for prompt in prompts])
    correct, choices, start = [], [], time.perf_counter()
    for first in range(0, count, BATCH):
        chosen = slice(first, first + BATCH)
        frames, run = generate(sides, way, prompts[chosen], seeds[chosen])
        correct.append(oracle.accuracy((frames * 255).round() / 255, wanted[chosen]))  # as a file would hold it: 8 bits
        choices += [second for selection in run.choices for second in selection]
        progress(len(frames))
    seconds = (time.perf_counter() - start) / count
    said = {"second": sum(choices) / len(choices)} if choices else {}
    evaluations = run.num_evaluations
    if way.reward is not None:
        evaluations = way.config.evaluations(way.steps, way.algorithm)
    return Score(torch.cat(correct), evaluations, evaluations, seconds), said  # unguided: a row each
