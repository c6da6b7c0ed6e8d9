"""Videos of the bundled pair by every method, what the oracle reads in them, and the bars the pair is held to."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AnimateDiffSDXLPipeline
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from experiments.demo.time_gap import told_noisier
from experiments.engine import (
    Bar,
    Progress,
    Score,
    Scores,
    check_counts,
    chosen,
    fingerprint,
    make_folders,
    markdown,
    set_threads,
)
from w2sd_video.commands.rewards import oracle_share
from w2sd_video.core import OnReflect
from w2sd_video.core.placing import GapTurns
from w2sd_video.demo import WEIGHTS, oracle, world
from w2sd_video.demo.captions import CAPTIONS, parse_caption
from w2sd_video.errors import UserError
from w2sd_video.hosting import reflected
from w2sd_video.loading.differences import find_difference, write_difference
from w2sd_video.loading.loras import load_loras
from w2sd_video.loading.pair_description import describe_pair
from w2sd_video.loading.pairs import load_pair
from w2sd_video.pair import PRECISIONS, ModelSpec, ReflectionConfig, Selection
from w2sd_video.runs.video_io import read_video

STEPS, REFLECTIONS, BATCH = 20, 10, 24
RANK, NOISIER = "rank-", "noisier-"
Reward = Callable[[NDArray[np.uint8], str | None], float]


@dataclass(frozen=True)
class Method:
    """One way of making videos, by what it computes and nothing else: equal ones are made once.

    Attributes:
        sampled: "strong" or "weak", the side whose steps make the sample.
        partner: the side that inverts: "weak", "strong" (swapped roles) or "zero-gap"; a precision ("int4"), the strong
            network's own weights rounded to it; "rank-8", the weak one as its difference of that rank to the strong
            one (`add_difference`); "noisier-100", the strong one told a timestep that much later. None without
            reflections.
        algorithm: the `method` of `reflected`.
        settings: of `ReflectionConfig`, where not the paper's with lambda 10.
        steps: T.
        reward: of "w2sd-auto", a name that `reward_called` knows.
    """

    sampled: str = "strong"
    partner: str | None = None
    algorithm: str = "w2sd"
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: int = STEPS
    reward: str | None = None
    guidance: float = 1.0

    @property
    def config(self) -> ReflectionConfig:
        own = 0 if self.partner is None and self.algorithm == "w2sd" else REFLECTIONS
        lam = None if self.algorithm == "autoguided" else own
        return ReflectionConfig(**{"num_reflections": lam, **self.settings})

    @property
    def key(self) -> str:
        """A name for files, of these settings and no others."""
        own = {k: v for k, v in dataclasses.asdict(self).items() if (k, v) != ("guidance", 1.0)}
        return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:12]


def paper(partner: str = "weak", **settings: Any) -> Method:
    return Method(partner=partner, settings=settings)


def fused(partner: str = "weak", **settings: Any) -> Method:
    return paper(partner, mode="fused", **settings)


def zero_gap(**settings: Any) -> Method:
    return Method(partner="zero-gap", settings=settings)


METHODS: Mapping[str, tuple[str, Method]] = {
    "weak": ("weak", Method(sampled="weak")),
    "strong": ("strong", Method()),
    "strong-equal": ("strong, equal evaluations (T 40)", Method(steps=2 * STEPS)),
    "w2sd": ("W2SD, paper mode", paper()),
    "w2sd-fused": ("W2SD, fused", fused()),
    "w2sd-fused-2": ("W2SD, fused, strength 2", fused(strength=2.0)),
    "w2sd-release": ("W2SD, release coefficients", paper(mode="release")),
    "zero-gap": ("zero-gap, paper mode", zero_gap()),
    "zero-gap-fused": ("zero-gap, fused", zero_gap(mode="fused")),
    "zero-gap-release": ("zero-gap, release coefficients", zero_gap(mode="release")),
    "swapped": ("swapped roles, paper mode", Method(sampled="weak", partner="strong")),
    "autoguided": ("auto-guidance, weight 1", Method(partner="weak", algorithm="autoguided")),
    "cfg": ("strong with CFG 3", Method(guidance=3.0)),
}

BARS = (
    Bar("W2SD (paper mode) beats strong by 0.08", "w2sd", "strong", 0.08),
    Bar("W2SD (fused) beats strong by 0.05", "w2sd-fused", "strong", 0.05),
    Bar("W2SD beats its own zero-gap", "w2sd", "zero-gap"),
    Bar("W2SD beats strong at equal evaluations", "w2sd", "strong-equal"),
    Bar("swapped roles fall below strong", "swapped", "strong", side="below"),
    Bar("swapped roles fall below weak", "swapped", "weak", side="mean below"),
    Bar("fused zero-gap is strong, exactly", "zero-gap-fused", "strong", side="equal"),
)


# --- making and reading ---------------------------------------------------------------------------------------------


FIRST_SEED = 100_000
PLACED_ON = 700_000, 8  # the first noise seed, and how many, by which "auto" places the measurements of a gap


def prompts_and_seeds(count: int, first: int = FIRST_SEED) -> tuple[list[str], list[int]]:
    """The test set: the 120 captions in order, again and again; video i starts from noise seed `first` + i."""
    return [CAPTIONS[i % len(CAPTIONS)] for i in range(count)], [first + i for i in range(count)]


def load(weights: Path) -> dict[str, AnimateDiffSDXLPipeline]:
    """The two sides of a pair written by `export_pair`, each as a pipeline; everything but the UNet is shared."""
    return load_pair(describe_pair(str(weights), str(weights / "weak")), dtype=torch.float32, quiet=True)


def add_difference(sides: Mapping[str, Any], weights: Path, partner: str | None) -> None:
    """Gives the strong side the weak one as a difference, if that is the partner and it has not got it yet."""
    if partner is None or not partner.startswith(RANK) or partner in getattr(sides["strong"].unet, "peft_config", {}):
        return
    pair = describe_pair(str(weights), str(weights / "weak"))
    assert pair.weak is not None
    rank = int(partner.removeprefix(RANK))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "difference.safetensors"
        write_difference(file, *find_difference(pair.strong, pair.weak, rank=rank), {"rank": rank})
        load_loras(sides["strong"], {partner: file})


def reward_called(name: str) -> Reward:
    """A new reward: "oracle" (share of attributes right), "colour" (that alone) or "random" (seeded, blind)."""
    if name == "random":
        numbers = random.Random(0)
        return lambda frames, prompt: numbers.random()
    first = {"oracle": 3, "colour": 1}[name]
    return lambda frames, prompt: oracle_share(frames, prompt or "", first=first)


def placed(sides: Mapping[str, Any], method: Method) -> Method:
    """The method with the steps of its cached gaps in place of "auto", as found on PLACED_ON's seeds."""
    if method.settings.get("gap_every") != "auto":
        return method
    turns, own = GapTurns(), {name: value for name, value in method.settings.items() if name != "gap_every"}
    prompts, seeds = prompts_and_seeds(PLACED_ON[1], PLACED_ON[0])
    generate(sides, dataclasses.replace(method, settings=own), prompts, seeds, turns)
    return dataclasses.replace(method, settings={**own, "gap_every": turns.steps(method.config, method.steps)})


def generate(
    sides: Mapping[str, Any],
    method: Method,
    prompts: Sequence[str],
    seeds: Sequence[int],
    on_reflect: OnReflect | None = None,
) -> tuple[Tensor, Any]:
    """Frames [B, F, 3, H, W] in [0, 1] and the run that made them, for one batch of prompts and noise seeds."""
    pipe = sides[method.sampled]
    pipe.set_progress_bar_config(disable=True)
    weak: Any = method.partner
    if weak in ("strong", "weak"):
        weak = sides[weak].unet
    elif weak in PRECISIONS:
        weak = ModelSpec(precision=weak)
    elif weak is not None and weak.startswith(NOISIER):
        weak = told_noisier(pipe.unet, int(weak.removeprefix(NOISIER)))
    elif weak is not None and weak.startswith(RANK):
        weak = ModelSpec(loras=((weak, 1.0),))
    selection = None
    if method.reward is not None:
        selection = Selection(reward_called(method.reward), frames=world.NUM_FRAMES)
    settings: dict[str, Any] = {"config": method.config, "method": method.algorithm, "selection": selection}
    with reflected(pipe, weak=weak, on_reflect=on_reflect, **settings) as run:
        frames = pipe(
            list(prompts),
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
    sides: Mapping[str, Any],
    method: Method,
    count: int,
    progress: Progress = lambda finished: None,
    *,
    first: int = FIRST_SEED,
) -> tuple[Score, Tensor]:
    """`count` videos of a method and what is read in them; also the frames as [N, F, 3, H, W] uint8.

    Evaluations are those of a video made by itself: in a batch whose videos choose differently "w2sd-auto" makes more.
    The note "second" is the share of selections that took the weak side for the strong one.
    """
    prompts, seeds = prompts_and_seeds(count, first)
    wanted = torch.tensor([parse_caption(prompt) for prompt in prompts])
    videos, choices, start = [], [], time.perf_counter()
    for begin in range(0, count, BATCH):
        part = slice(begin, begin + BATCH)
        frames, run = generate(sides, method, prompts[part], seeds[part])
        videos.append((frames * 255).round().to(torch.uint8))  # as a file would hold it: 8 bits
        choices += [second for selection in run.choices for second in selection]
        progress(len(frames))
    seconds = (time.perf_counter() - start) / count
    evaluations, rows = run.num_evaluations, run.num_rows // len(frames)
    if method.reward is not None:  # unguided: a row each
        evaluations = rows = method.config.evaluations(method.steps, method.algorithm)
    notes = {"second": sum(choices) / len(choices)} if choices else {}
    made = torch.cat(videos)
    correct = torch.cat(
        [oracle.accuracy(part / 255, said) for part, said in zip(videos, wanted.split(BATCH), strict=True)]
    )
    return Score(correct, evaluations, rows, seconds, notes), made


def save_sheet(videos: Tensor, path: Path, rows: int = 12) -> None:
    """A picture of a few clips, one a row, its frames from left to right, four times as large."""
    clips = videos[:: len(videos) // rows + 1]  # one more than an even share, so that all attributes vary
    sheet = clips.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)  # [rows * H, F * W, 3]
    picture = Image.fromarray(sheet.numpy())
    picture.resize((picture.width * 4, picture.height * 4), Image.Resampling.NEAREST).save(path)


# --- scripts/score_demo.py ------------------------------------------------------------------------------------------


def table(scores: Mapping[str, Score]) -> str:
    """A row per finished method, in the order of METHODS."""
    head = ["method", "network rows", "colour", "shape", "motion", "all three", "all three, minus strong", "s / video"]
    rows = [
        [
            METHODS[name][0],
            score.num_rows,  # a guided evaluation has two: the honest unit
            *score.shares(),
            score.minus(scores.get("strong")),
            f"{score.seconds:.2f}",
        ]
        for name, score in scores.items()
    ]
    return markdown(head, rows)


def run(options: argparse.Namespace) -> int:
    names = chosen(options.methods, METHODS)
    check_counts(options)
    set_threads(options.threads)
    weights = options.weights or WEIGHTS
    make_folders(options.output)
    prints = fingerprint(weights)
    kept = Scores(options.output, Score, lambda method: (options.count, prints, method))
    sides: dict[str, Any] = {}

    def make(name: str, method: Method, progress: Progress) -> Score:
        sides.update(sides or load(weights))
        read, frames = score(sides, method, options.count, progress)
        save_sheet(frames, options.output / f"{name}.png")
        return read

    grid = {name: method for name, (_, method) in METHODS.items()}
    kept.fill({name: grid[name] for name in names}, make, count=options.count, quiet=options.quiet)
    scores = kept.finished(grid)
    print(table(scores), "", *(bar.verdict(scores) for bar in BARS), sep="\n")
    return 0


# --- reading the videos of a run of the program ---------------------------------------------------------------------


def read_run(folder: Path) -> dict[str, Tensor]:
    """Which attributes each method's finished videos show as their prompts say: booleans [N, 3] by method.

    Raises:
        UserError: there is no finished video in it, or a prompt is not a caption of the toy world.
    """
    journal = folder / "results.jsonl"
    if not journal.is_file():
        raise UserError(f"{folder} holds no results.jsonl; give the --output folder of scripts/generate_video.py")
    records = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines() if line.strip()]
    correct: dict[str, list[Tensor]] = {}
    for record in records:
        if record["status"] != "done" or not (folder / record["path"]).exists():
            continue
        try:
            wanted = parse_caption(record["prompt"])
        except ValueError as error:
            raise UserError(f"the oracle reads clips of the toy world only: {error}") from error
        frames = torch.from_numpy(read_video(folder / record["path"]).frames)  # [F, H, W, 3] uint8
        right = oracle.accuracy(frames.permute(0, 3, 1, 2)[None] / 255, torch.tensor([wanted]))
        correct.setdefault(record["method"], []).append(right)
    if not correct:
        raise UserError(f"{folder} holds no finished video; run the command that made it again")
    return {method: torch.cat(parts) for method, parts in correct.items()}


def read(folder: Path) -> int:
    """Prints a line per method of a run: how many videos show what their prompt says."""
    found = read_run(folder)
    print("what an oracle reads in the videos, against their prompts:")
    for method, right in found.items():
        counts = zip(("colour", "shape", "motion"), right.sum(dim=0).tolist(), strict=True)
        parts = ", ".join(f"{name} {count}" for name, count in counts)
        print(f"  {method:10s} {int(right.all(dim=1).sum())} of {len(right)} all right ({parts})")
    print("a few videos show, they do not prove: `make score` makes and reads 240 of each method")
    return 0
