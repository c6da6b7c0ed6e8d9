"""Every method on the bundled DiT-MoE, what the judge sees in its pictures, the tables and the sweep over lambda."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from bridges.dit_moe.demo import WEIGHTS
from bridges.dit_moe.demo.digits import NUM_CLASSES, to_pictures
from bridges.dit_moe.demo.digits import load as load_digits
from bridges.dit_moe.pipeline import DiTMoEPipeline
from experiments.digits import gaps
from experiments.digits.judge import JUDGE, Judge, load_judge
from experiments.engine import (
    Progress,
    Scores,
    check_counts,
    chosen,
    fingerprint,
    grid_picture,
    make_folders,
    markdown,
    set_threads,
)
from experiments.measures import DRAWS, frechet_distance, inception_score, measure_interval, weighted_mean
from vbench_eval.statistics import Interval
from w2sd_video.errors import UserError
from w2sd_video.gaps.routing import routed
from w2sd_video.hosting import reflected
from w2sd_video.pair import ModelSpec, ReflectionConfig, Routing
from w2sd_video.report.figures import METHOD_COLOURS, interval_line, save, shared_legend, style, subplots

STEPS, REFLECTIONS, GUIDANCE = 50, 49, 1.5  # the paper's for DiT-MoE
EQUAL_STEPS = STEPS + 2 * REFLECTIONS
FIRST_SEED = 300_000

TOP, BOTTOM = Routing("top", 2), Routing("bottom", 2)
RENORMALIZED = Routing("bottom", 2, renormalize=True)


@dataclass(frozen=True)
class Method:
    """One row of the table: how the sampled side routes and guides, and what reflects.

    `weak` is what differs on the weak side, "zero-gap", or None for plain sampling; `routing` is that of the sampling
    steps (None: the network's own, top 2); `more` are further settings of `ReflectionConfig`.
    """

    label: str
    weak: ModelSpec | str | None = None
    routing: Routing | None = None
    guidance: float = GUIDANCE
    steps: int = STEPS
    num_reflections: int = REFLECTIONS
    mode: str = "paper"
    algorithm: str = "w2sd"
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """What determines the pictures: all but the label, of a spec only what it says."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "label"}
        return fields | {"weak": self.weak.settings() if isinstance(self.weak, ModelSpec) else self.weak}

    @property
    def key(self) -> str:
        """A name for files, of these settings and no others."""
        return hashlib.sha256(repr(self.settings()).encode()).hexdigest()[:12]


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
    """What the judge saw in N pictures, and what a picture cost.

    Attributes:
        features, probabilities, correct: [N, 32] and [N, 10], float64; whether each shows the class asked for, [N].
        num_evaluations: T + 2 lambda.
        num_rows: batch rows through the network; a guided evaluation has two.
        gap: the mean norm of a reflection's move, relative to the norm of noise; 0 where nothing reflects.
        seconds: per picture.
    """

    features: Tensor
    probabilities: Tensor
    correct: Tensor
    num_evaluations: int = 0
    num_rows: int = 0
    gap: float = 0.0
    seconds: float = 0.0

    def accuracy(self, against: Score | None = None, draws: int = DRAWS) -> Interval:
        """The share of pictures that show the class asked for, or how far it lies above another method's."""
        other = None if against is None else weighted_mean(against.correct)
        return measure_interval(weighted_mean(self.correct), len(self.correct), other, draws=draws, biased=False)

    def inception(self, draws: int = DRAWS) -> Interval:
        return measure_interval(inception_score(self.probabilities), len(self.correct), draws=draws)

    def frechet(self, reference: Tensor, against: Score | None = None, draws: int = DRAWS) -> Interval:
        """The distance to reference features [M, 32], or how far it lies above another method's."""
        other = None if against is None else frechet_distance(against.features, reference)
        return measure_interval(frechet_distance(self.features, reference), len(self.correct), other, draws=draws)


def labels_and_seeds(count: int, first: int = FIRST_SEED) -> tuple[list[int], list[int]]:
    """The test set: the ten classes in order, again and again; picture i starts from noise seed `first` + i."""
    return [i % NUM_CLASSES for i in range(count)], [first + i for i in range(count)]


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
    count = None if method.algorithm == "autoguided" else lam
    config = ReflectionConfig(count, method.mode, **method.more)
    hosted = reflected(pipe, method.weak, config=config, method=method.algorithm)
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
    progress: Progress = lambda finished: None,
    first: int = FIRST_SEED,
) -> tuple[Score, Tensor]:
    """What the judge sees in `count` pictures of one method; also the pictures as [N, 3, 32, 32] uint8."""
    labels, seeds = labels_and_seeds(count, first)
    made, start = [], time.perf_counter()
    gaps: list[float] = []
    for begin in range(0, count, batch):
        part = slice(begin, begin + batch)
        pictures, run = generate(pipe, method, labels[part], seeds[part])
        made.append((pictures * 255).round().to(torch.uint8))
        gaps += [gap / noise_norm(pipe, len(pictures)) for gap in run.gaps]
        progress(len(pictures))
    seconds = (time.perf_counter() - start) / count
    everything = torch.cat(made)
    features, probabilities = judge.read(everything)  # as a file would hold them: 8 bits
    correct = probabilities.argmax(dim=1) == torch.tensor(labels)
    gap = sum(gaps) / len(gaps) if gaps else 0.0
    cost = (run.num_evaluations, run.num_rows // len(pictures), gap, seconds)
    return Score(features, probabilities, correct, *cost), everything


def noise_norm(pipe: DiTMoEPipeline, rows: int) -> float:
    """The norm that the noise of `rows` latents is expected to have."""
    config = pipe.transformer.config
    return (rows * config.in_channels * config.sample_size**2) ** 0.5


@torch.no_grad()
def real_digits(judge: Judge, vae: AutoencoderKL | None = None) -> Score:
    """The judge's reading of the train part, as it is or after a round trip through a VAE: what can be reached."""
    digits = load_digits("train")
    pictures = to_pictures(digits.scans)
    if vae is not None:
        latents = [vae.encode(part * 2 - 1).latent_dist.mean for part in pictures.split(256)]
        pictures = torch.cat([vae.decode(part).sample for part in latents]).add(1).div(2).clamp(0, 1)
    features, probabilities = judge.read(pictures)
    return Score(features, probabilities, probabilities.argmax(dim=1) == digits.labels)


# --- tables and plot -------------------------------------------------------------------------------------------------


def table(scores: Mapping[str, Score], real: Mapping[str, Score], reference: Tensor) -> str:
    """A row per finished method, in the order of METHODS, then real pictures; distances to `reference` [M, 32]."""
    head = ["method", "evaluations", "rows", "class accuracy", "minus strong", "Inception-style score"]
    head += ["Frechet distance", "minus strong", "ms / picture"]
    strong, rows = scores.get("strong"), []
    for name, mine in {**scores, **real}.items():
        cost = [mine.num_evaluations, mine.num_rows] if name in scores else ["-", "-"]
        gains = ["-", "-"]
        if strong is not None and name in scores and name != "strong":
            gains = [mine.accuracy(strong).text(signed=True), mine.frechet(reference, strong).text(2, signed=True)]
        rows.append(
            [
                METHODS[name].label if name in scores else name,
                *cost,
                mine.accuracy().text(),
                gains[0],
                mine.inception().text(2),
                mine.frechet(reference).text(2),
                gains[1],
                f"{1000 * mine.seconds:.0f}" if name in scores else "-",
            ]
        )
    return markdown(head, rows)


def pairs(scores: Mapping[str, Score], reference: Tensor, draws: int = DRAWS) -> str:
    """The paired differences that PAIRS asks for, as far as both methods are finished."""
    rows = []
    for name, against in PAIRS:
        if name in scores and against in scores:
            one, other = scores[name], scores[against]
            gain = one.accuracy(other, draws).text(signed=True)
            nearer = one.frechet(reference, other, draws).text(1, signed=True)
            rows.append([f"{METHODS[name].label} minus {METHODS[against].label}", gain, nearer])
    return markdown(["", "class accuracy", "Frechet distance"], rows)


def sweep_plot(scores: Mapping[str, Score], reference: Tensor, path: Path, draws: int = DRAWS) -> bool:
    """Draws class accuracy and Frechet distance over lambda, with and without guidance; False before all is scored."""
    xs = [0, *LAMBDAS]
    sides: tuple[tuple[str, ModelSpec | str], ...] = (("w2sd", WEAK), ("zero-gap", "zero-gap"))
    names = {(g, label): [sweep_name(weak, x, g) for x in xs] for g in (GUIDANCE, 1.0) for label, weak in sides}
    if any(name not in scores for line in names.values() for name in line):
        return False
    with style():
        figure, axes = subplots(2, 2, size=(4.8, 3.2), title="DiT-MoE over lambda: W2SD and its control", sharex=True)
        for (guidance, label), line in names.items():
            row = 0 if guidance == GUIDANCE else 1
            found = [scores[name] for name in line]
            looks = {"color": METHOD_COLOURS[label], "label": label}
            for column, points in enumerate(
                ([one.accuracy(draws=draws) for one in found], [one.frechet(reference, draws=draws) for one in found])
            ):
                interval_line(axes[row, column], xs, [(p.value, p.low, p.high) for p in points], **looks)
            axes[row, 0].set(ylabel=f"guidance {guidance:g}")
        axes[0, 0].set(title="class accuracy")
        axes[0, 1].set(title="Frechet distance to unseen digits")
        for below in axes[1]:
            below.set(xlabel="lambda (reflections)", xticks=xs)
        shared_legend(figure)
    save(figure, path)
    return True


# --- scripts/score_digits.py -----------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> int:
    check_counts(options, count=2, batch=1)  # one picture has no covariance
    names = chosen(options.methods, METHODS)
    set_threads(options.threads)
    weights = options.weights or WEIGHTS
    pipe, judge = load(weights), load_judge(weights / JUDGE)
    make_folders(options.output)
    prints = fingerprint(weights)
    kept = Scores(options.output, Score, lambda method: (options.count, prints, method.settings()))

    def make(name: str, method: Method, progress: Progress) -> Score:
        read, pictures = score(pipe, judge, method, options.count, options.batch, progress)
        grid_picture(pictures, NUM_CLASSES, 8, 2, options.output / f"{name}.png")
        return read

    kept.fill({name: METHODS[name] for name in names}, make, count=options.count, quiet=options.quiet)
    scores = kept.finished(METHODS)
    unseen = load_digits("test")  # which neither the network nor the judge was trained on
    reference = judge.read(to_pictures(unseen.scans)).features
    real = {"real train digits": real_digits(judge), "the same through the VAE": real_digits(judge, pipe.vae)}
    print(table(scores, real, reference), "", pairs(scores, reference), "", sep="\n")
    sides = (gaps.predictor(pipe, routing) for routing in (TOP, BOTTOM))
    by_level = gaps.gap_by_level(*sides, gaps.digit_latents(pipe, unseen), unseen.labels)
    print(f"the gap between the two routings, on unseen digits:\n{gaps.gap_table(by_level)}")
    plot = options.output / "sweep.png"
    if sweep_plot(scores, reference, plot):
        print(f"\nwrote {plot}")
    return 0
