"""The sampling methods that are compared on the bundled DiT-MoE, and what the judge sees in their pictures."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from bridges.dit_moe.demo.digits import NUM_CLASSES, to_pictures
from bridges.dit_moe.demo.digits import load as load_digits
from bridges.dit_moe.pipeline import DiTMoEPipeline
from experiments.digits.judge import Judge, Reading
from experiments.digits.measures import Moments, Sample, moments
from w2sd_video.errors import UserError
from w2sd_video.gaps.routing import routed
from w2sd_video.hosting.hosting import reflected
from w2sd_video.pair import ModelSpec, Routing

STEPS, REFLECTIONS, GUIDANCE = 50, 49, 1.5  # the paper's for DiT-MoE
EQUAL_STEPS = STEPS + 2 * REFLECTIONS
FIRST_SEED = 300_000

TOP, BOTTOM = Routing("top", 2), Routing("bottom", 2)
RENORMALIZED = Routing("bottom", 2, renormalize=True)


@dataclass(frozen=True)
class Method:
    """One row of the table: how the sampled side routes and guides, and what reflects.

    `weak` is what differs on the weak side, "zero-gap", or None for plain sampling; `routing` is that of the sampling
    steps (None: the network's own, top 2).
    """

    label: str
    weak: ModelSpec | str | None = None
    routing: Routing | None = None
    guidance: float = GUIDANCE
    steps: int = STEPS
    num_reflections: int = REFLECTIONS
    mode: str = "paper"
    algorithm: str = "w2sd"

    def settings(self) -> dict[str, Any]:
        """What determines the pictures: all but the label, of a spec only what it says."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "label"}
        return fields | {"weak": self.weak.settings() if isinstance(self.weak, ModelSpec) else self.weak}


WEAK = ModelSpec(routing=BOTTOM)
LAMBDAS = (5, 10, 20, 30, REFLECTIONS)  # of the sweeps
EARLY = 20  # lambda of the unguided rows: reflections at the noisiest 20 of 50 levels only


def swept(name: str, lam: int, weak: ModelSpec | str, guidance: float) -> tuple[str, Method]:
    """One point of a sweep over lambda, under the name that the plot asks for."""
    about = f"{name}, lambda {lam}" + ("" if guidance == GUIDANCE else f", guidance {guidance:g}")
    return sweep_name(weak, lam, guidance), Method(about, weak, guidance=guidance, num_reflections=lam)


def sweep_name(weak: ModelSpec | str | None, lam: int, guidance: float) -> str:
    """The name in METHODS of what reflects `lam` times with this weak side and guidance."""
    if lam == 0 or weak is None:
        return "strong" if guidance == GUIDANCE else "strong-unguided"
    base = "zero-gap" if weak == "zero-gap" else "w2sd"
    named = base if guidance == GUIDANCE else f"{base}-unguided"
    return named if lam == REFLECTIONS and guidance == GUIDANCE else f"{named}-{lam}"


METHODS: Mapping[str, Method] = {
    "weak": Method("weak: bottom 2 of 8 experts", routing=BOTTOM),
    "strong": Method("strong: top 2 of 8 experts"),
    "strong-equal": Method(f"strong, equal evaluations (T {EQUAL_STEPS})", steps=EQUAL_STEPS),
    "w2sd": Method("W2SD, paper mode", WEAK),
    "w2sd-fused": Method("W2SD, fused", WEAK, mode="fused"),
    "zero-gap": Method("zero-gap, paper mode", "zero-gap"),
    "swapped": Method("swapped roles", ModelSpec(routing=TOP), routing=BOTTOM),
    "renormalized": Method("W2SD, weak: bottom 2 renormalised", ModelSpec(routing=RENORMALIZED)),
    "combined": Method("W2SD, weak: bottom 2 and guidance 1", ModelSpec(routing=BOTTOM, guidance=1.0)),
    "guidance": Method("W2SD, weak: guidance 1 alone", ModelSpec(guidance=1.0)),
    "cfg": Method("strong with guidance 2", guidance=2.0),
    "autoguided": Method("auto-guidance, weight 1", WEAK, algorithm="autoguided"),
    **dict(swept("W2SD", lam, WEAK, GUIDANCE) for lam in LAMBDAS[:-1]),
    **dict(swept("zero-gap", lam, "zero-gap", GUIDANCE) for lam in LAMBDAS[:-1]),
    "strong-unguided": Method("strong, guidance 1", guidance=1.0),
    "strong-equal-unguided": Method(
        f"strong, guidance 1, equal evaluations (T {STEPS + 2 * EARLY})", guidance=1.0, steps=STEPS + 2 * EARLY
    ),
    **dict(swept("W2SD", lam, WEAK, 1.0) for lam in LAMBDAS),
    **dict(swept("zero-gap", lam, "zero-gap", 1.0) for lam in LAMBDAS),
}

PAIRS = (  # what the scores are asked: does the first differ from the second, made from the same noise?
    ("w2sd", "strong"),
    ("w2sd", "zero-gap"),
    ("w2sd", "strong-equal"),
    (f"w2sd-{EARLY}", "strong"),
    (f"w2sd-{EARLY}", f"zero-gap-{EARLY}"),
    (f"w2sd-unguided-{EARLY}", "strong-unguided"),
    (f"w2sd-unguided-{EARLY}", f"zero-gap-unguided-{EARLY}"),
    (f"w2sd-unguided-{EARLY}", "strong-equal-unguided"),
)


@dataclass(frozen=True)
class Score:
    """What the judge saw, and what a picture cost.

    Attributes:
        num_evaluations: T + 2 lambda.
        num_rows: batch rows through the network; a guided evaluation has two.
        gap: the mean norm of a reflection's move, relative to the norm of noise; 0 where nothing reflects.
        seconds: per picture.
    """

    sample: Sample
    num_evaluations: int
    num_rows: int
    gap: float
    seconds: float


def labels_and_seeds(count: int) -> tuple[list[int], list[int]]:
    """The test set: the ten classes in order, again and again; picture i starts from noise seed 300 000 + i."""
    return [i % NUM_CLASSES for i in range(count)], [FIRST_SEED + i for i in range(count)]


def load(weights: Path) -> DiTMoEPipeline:
    """The pipeline that `scripts/train_digits.py` wrote, in float32, without progress bars.

    Raises:
        UserError: the folder holds no pipeline.
    """
    if not (weights / "model_index.json").is_file():
        raise UserError(f"{weights} holds no pipeline; give a folder that scripts/train_digits.py made")
    pipe = DiTMoEPipeline.from_pretrained(weights, dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe: DiTMoEPipeline, method: Method, labels: list[int], seeds: list[int]):
    """Pictures [B, 3, 32, 32] in [0, 1] and the run that made them, for one batch of classes and noise seeds."""
    lam = 0 if method.weak is None else method.num_reflections
    hosted = reflected(
        pipe,
        method.weak,
        num_reflections=None if method.algorithm == "autoguided" else lam,
        mode=method.mode,
        method=method.algorithm,
    )
    sampled = nullcontext() if method.routing is None else routed(pipe.transformer, method.routing)
    with sampled, hosted as run:
        pictures = pipe(
            labels,
            num_inference_steps=method.steps,
            guidance_scale=method.guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="pt",
        ).images
    return pictures.float().clamp(0, 1), run


def score(
    pipe: DiTMoEPipeline,
    judge: Judge,
    method: Method,
    count: int,
    batch: int = 250,
    progress: Callable[[int], object] = lambda finished: None,
) -> tuple[Score, Tensor]:
    """Generate `count` pictures with one method and read them; also the pictures as [N, 3, 32, 32] uint8.

    Args:
        pipe: from `load`.
        progress: called after each batch with the number of pictures in it.
    """
    labels, seeds = labels_and_seeds(count)
    made, start = [], time.perf_counter()
    gaps: list[float] = []
    for first in range(0, count, batch):
        chosen = slice(first, first + batch)
        pictures, run = generate(pipe, method, labels[chosen], seeds[chosen])
        made.append((pictures * 255).round().to(torch.uint8))
        gaps += [gap / noise_norm(pipe, len(pictures)) for gap in run.gaps]
        progress(len(pictures))
    seconds = (time.perf_counter() - start) / count
    everything = torch.cat(made)
    reading = judge.read(everything)  # as a file would hold them: 8 bits
    sample = Sample(reading, reading.probabilities.argmax(dim=1) == torch.tensor(labels))
    gap = sum(gaps) / len(gaps) if gaps else 0.0
    return Score(sample, run.num_evaluations, run.num_rows // len(pictures), gap, seconds), everything


def noise_norm(pipe: DiTMoEPipeline, rows: int) -> float:
    """The norm that the noise of `rows` latents is expected to have."""
    config = pipe.transformer.config
    return (rows * config.in_channels * config.sample_size**2) ** 0.5


def unseen_digits(judge: Judge) -> Moments:
    """What Frechet distances are measured to: the test part, which neither the network nor the judge was trained on."""
    return moments(judge.read(to_pictures(load_digits("test").scans)).features)


@torch.no_grad()
def real_digits(judge: Judge, vae: AutoencoderKL | None = None) -> Sample:
    """The judge's reading of the train part, as it is or after a round trip through a VAE: what can be reached."""
    digits = load_digits("train")
    pictures = to_pictures(digits.scans)
    if vae is not None:
        latents = [vae.encode(part * 2 - 1).latent_dist.mean for part in pictures.split(256)]
        pictures = torch.cat([vae.decode(part).sample for part in latents]).add(1).div(2).clamp(0, 1)
    reading = judge.read(pictures)
    return Sample(reading, reading.probabilities.argmax(dim=1) == digits.labels)


def to_record(score: Score) -> dict:
    """A score as plain data and tensors."""
    return {
        "features": score.sample.reading.features.float(),
        "probabilities": score.sample.reading.probabilities,
        "correct": score.sample.correct,
        "num_evaluations": score.num_evaluations,
        "num_rows": score.num_rows,
        "gap": score.gap,
        "seconds": score.seconds,
    }


def from_record(record: Mapping) -> Score:
    """The inverse of `to_record`."""
    reading = Reading(record["features"].double(), record["probabilities"])
    numbers = (record[name] for name in ("num_evaluations", "num_rows", "gap", "seconds"))
    return Score(Sample(reading, record["correct"]), *numbers)
