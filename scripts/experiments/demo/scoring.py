"""The sampling methods that are compared on the bundled pair, and what the oracle reads in their videos."""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AnimateDiffSDXLPipeline
from PIL import Image
from torch import Tensor

from w2sd_video.demo import oracle, world
from w2sd_video.demo.captions import CAPTIONS, parse_caption
from w2sd_video.hosting.hosting import reflected
from w2sd_video.loading.loading import load_pair

STEPS, REFLECTIONS = 20, 10


@dataclass(frozen=True)
class Method:
    """One row of the table: which side is sampled, what reflects, and how."""

    label: str
    sampled: str = "strong"  # the side whose steps make the sample
    partner: str | None = None  # the side that inverts: "weak", "strong" (swapped roles) or "zero-gap"
    mode: str = "paper"
    strength: float = 1.0
    steps: int = STEPS
    guidance: float = 1.0
    algorithm: str = "w2sd"


METHODS: Mapping[str, Method] = {
    "weak": Method("weak", sampled="weak"),
    "strong": Method("strong"),
    "strong-equal": Method("strong, equal evaluations (T 40)", steps=2 * STEPS),
    "w2sd": Method("W2SD, paper mode", partner="weak"),
    "w2sd-fused": Method("W2SD, fused", partner="weak", mode="fused"),
    "w2sd-fused-2": Method("W2SD, fused, strength 2", partner="weak", mode="fused", strength=2.0),
    "w2sd-release": Method("W2SD, release coefficients", partner="weak", mode="release"),
    "zero-gap": Method("zero-gap, paper mode", partner="zero-gap"),
    "zero-gap-fused": Method("zero-gap, fused", partner="zero-gap", mode="fused"),
    "zero-gap-release": Method("zero-gap, release coefficients", partner="zero-gap", mode="release"),
    "swapped": Method("swapped roles, paper mode", sampled="weak", partner="strong"),
    "autoguided": Method("auto-guidance, weight 1", partner="weak", algorithm="autoguided"),
    "cfg": Method("strong with CFG 3", guidance=3.0),
}


@dataclass(frozen=True)
class Score:
    """What the oracle read: booleans [N, 3] (colour, shape, motion), and what it cost."""

    correct: Tensor
    num_evaluations: int  # per video
    num_rows: int  # network rows per video (a guided evaluation has two)
    seconds: float  # per video

    @property
    def all(self) -> Tensor:
        """Videos with all three attributes right, [N] booleans."""
        return self.correct.all(dim=1)


def prompts_and_seeds(count: int) -> tuple[list[str], list[int]]:
    """The test set: the 120 captions in order, again and again; video i starts from noise seed 100 000 + i."""
    return [CAPTIONS[i % len(CAPTIONS)] for i in range(count)], [100_000 + i for i in range(count)]


def load(weights: Path) -> dict[str, AnimateDiffSDXLPipeline]:
    """The two sides of a pair written by `export_pair`, each as a pipeline; everything but the UNet is shared."""
    pair = load_pair(str(weights), str(weights / "weak"), None, dtype=torch.float32, device="cpu", quiet=True)
    weak = AnimateDiffSDXLPipeline(**{**pair.pipe.components, "unet": pair.weak})
    return {"strong": pair.pipe, "weak": weak}


def generate(sides: Mapping[str, AnimateDiffSDXLPipeline], method: Method, prompts: list[str], seeds: list[int]):
    """Frames [B, F, 3, H, W] in [0, 1] and the run that made them, for one batch of prompts and noise seeds."""
    partner = method.partner
    weak = sides[partner].unet if partner in ("strong", "weak") else partner
    pipe = sides[method.sampled]
    pipe.set_progress_bar_config(disable=True)
    lam = None if method.algorithm == "autoguided" else 0 if partner is None else REFLECTIONS
    with reflected(
        pipe,
        weak=weak,
        num_reflections=lam,
        mode=method.mode,
        strength=method.strength,
        method=method.algorithm,
    ) as run:
        frames = pipe(
            prompts,
            num_frames=world.NUM_FRAMES,
            height=world.SIZE,
            width=world.SIZE,
            num_inference_steps=method.steps,
            guidance_scale=method.guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="pt",
        ).frames
    return frames.float().clamp(0, 1), run


def score(
    sides: Mapping[str, AnimateDiffSDXLPipeline],
    method: Method,
    count: int,
    batch: int = 24,
    progress: Callable[[int], object] = lambda finished: None,
) -> tuple[Score, Tensor]:
    """Generate `count` videos with one method and read them; also the frames as [N, F, 3, H, W] uint8.

    Args:
        sides: from `load`.
        progress: called after each batch with the number of videos in it.
    """
    prompts, seeds = prompts_and_seeds(count)
    wanted = torch.tensor([parse_caption(prompt) for prompt in prompts])
    videos, correct, start = [], [], time.perf_counter()
    for first in range(0, count, batch):
        chosen = slice(first, first + batch)
        frames, run = generate(sides, method, prompts[chosen], seeds[chosen])
        videos.append((frames * 255).round().to(torch.uint8))
        correct.append(oracle.accuracy(videos[-1] / 255, wanted[chosen]))  # as a file would hold it: 8 bits
        progress(len(frames))
    seconds = (time.perf_counter() - start) / count
    return Score(torch.cat(correct), run.num_evaluations, run.num_rows // len(frames), seconds), torch.cat(videos)


def save_sheet(videos: Tensor, path: Path, rows: int = 12) -> None:
    """A picture of the first clips, one a row, its frames from left to right, four times as large."""
    clips = videos[:: len(videos) // rows + 1]  # one more than an even share, so that all attributes vary
    sheet = clips.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)  # [rows * H, F * W, 3]
    picture = Image.fromarray(sheet.numpy())
    picture.resize((picture.width * 4, picture.height * 4), Image.Resampling.NEAREST).save(path)


def fingerprint(weights: Path) -> str:
    """A hash of a pair's weight files, so that scores of other weights are not taken for these."""
    digest = hashlib.sha256()
    for path in sorted(weights.rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
