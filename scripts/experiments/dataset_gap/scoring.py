"""The methods that are compared on the dataset gap, how one makes samples, and what the judge reads in them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from experiments.dataset_gap.judge import JUDGE, MAJORITY, MINORITY, NEITHER, Judge, load_judge
from experiments.dataset_gap.networks import denoiser, load_network, sampling_levels, sampling_path
from experiments.dataset_gap.recipe import SIDES
from experiments.engine import Progress
from vbench_eval.statistics import Interval
from w2sd_video.core import Denoiser, Level, ReflectionConfig, autoguidance, sample, w2sd
from w2sd_video.core import Path as SamplingPath
from w2sd_video.errors import UserError

FIRST_SEED = 500_000
STEPS, REFLECTIONS = 50, 49  # the paper's T, and its lambda T - 1
FEWER = STEPS // 2
EQUAL_STEPS = STEPS + 2 * REFLECTIONS
STRENGTHS = (0.5, 1.5, 2.0, 3.0)  # of the sweep, beside 0 and 1


@dataclass(frozen=True)
class Method:
    """One row of the table: the side that samples, the side that inverts (None: nothing reflects), and how.

    `algorithm` is "w2sd" or "autoguided"; `reflector` is the side that denoises in the reflection, if not the one that
    samples; `more` are further settings of `ReflectionConfig`; `guided` the noisiest steps that auto-guidance guides
    (None: all).
    """

    label: str
    sampled: str = "strong"
    partner: str | None = None
    mode: str = "paper"
    strength: float = 1.0
    num_reflections: int = REFLECTIONS
    steps: int = STEPS
    algorithm: str = "w2sd"
    reflector: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    guided: int | None = None

    def settings(self) -> tuple[object, ...]:
        """What determines the samples: all but the label."""
        reflection = (self.partner, self.mode, self.strength, self.num_reflections, self.algorithm, self.reflector)
        later = () if self.guided is None and not self.more else (dict(self.more), self.guided)
        return (self.sampled, self.steps, *reflection, *later)

    @property
    def key(self) -> str:
        """A name for files, of these settings and no others."""
        return hashlib.sha256(repr(self.settings()).encode()).hexdigest()[:12]


def sweep_name(partner: str, mode: str, strength: float) -> str:
    """The name in METHODS of a reflection with this partner, mode and strength; "strong" for none."""
    if strength == 0:
        return "strong"
    base = ("w2sd" if partner == "weak" else "zero-gap") + ("-fused" if mode == "fused" else "")
    return base if strength == 1 else f"{base}-x{strength:g}"


def swept(partner: str, mode: str) -> dict[str, Method]:
    """The sweep's methods that are not in the table anyway."""
    words = f"{'W2SD' if partner == 'weak' else 'zero-gap'}, {mode}{' mode' if mode == 'paper' else ''}"
    return {
        sweep_name(partner, mode, strength): Method(
            f"{words}, strength {strength:g}", "strong", partner, mode, strength
        )
        for strength in STRENGTHS
    }


METHODS: Mapping[str, Method] = {
    "weak": Method("weak (10:1)", "weak"),
    "strong": Method("strong (2:1)"),
    "ideal": Method("ideal (1:1)", "ideal"),
    "strong-equal": Method(f"strong, equal evaluations (T {EQUAL_STEPS})", steps=EQUAL_STEPS),
    "w2sd": Method("W2SD, paper mode", partner="weak"),
    "w2sd-fused": Method("W2SD, fused", partner="weak", mode="fused"),
    "zero-gap": Method("zero-gap, paper mode", partner="strong"),
    "zero-gap-fused": Method("zero-gap, fused", partner="strong", mode="fused"),
    "s2wd": Method("S2WD: weak denoises, strong inverts and samples", partner="strong", reflector="weak"),
    "swapped": Method("roles swapped: the weak one samples too", "weak", "strong"),
    "autoguided": Method("auto-guidance, weight 1", partner="weak", algorithm="autoguided"),
    "w2sd-half": Method(f"W2SD, paper mode, lambda {FEWER}", partner="weak", num_reflections=FEWER),
    "w2sd-fused-half": Method(f"W2SD, fused, lambda {FEWER}", partner="weak", mode="fused", num_reflections=FEWER),
    "zero-gap-half": Method(f"zero-gap, paper mode, lambda {FEWER}", partner="strong", num_reflections=FEWER),
    **swept("weak", "paper"),
    **swept("weak", "fused"),
}


class Made(NamedTuple):
    """What a method made: pictures [B, C, H, W] about in [-1, 1]; evaluations; the mean root mean square of x~ - x."""

    pictures: Tensor
    num_evaluations: int
    gap: float


@torch.no_grad()
def make(
    method: Method,
    noise: Tensor,
    sides: Mapping[str, Denoiser],
    path: SamplingPath,
    levels: Callable[[int], list[Level]],
) -> Made:
    """Pictures from noises [B, C, H, W] by one method.

    Args:
        sides: the denoisers called "weak", "strong" and "ideal"; the method takes what it names.
        levels: the noise levels for T steps.
    """
    count = 0
    gaps: list[float] = []

    def counted(model: Denoiser) -> Denoiser:
        def evaluated(x: Tensor, level: Level) -> Tensor:
            nonlocal count
            count += 1
            return model(x, level)

        return evaluated

    def observe(i: int, x: Tensor, tilde: Tensor) -> None:
        gaps.append((tilde - x).square().mean().sqrt().item())

    main, grid = counted(sides[method.sampled]), levels(method.steps)
    if method.partner is None:
        pictures = sample(noise, grid, main, path)
    elif method.algorithm == "autoguided":
        guided = None if method.guided is None else {level: i for i, level in enumerate(grid[: method.guided])}
        main = autoguidance(main, counted(sides[method.partner]), method.strength, guided=guided)
        pictures = sample(noise, grid, main, path)
    else:
        pictures = w2sd(
            noise,
            grid,
            main,
            counted(sides[method.partner]),
            path,
            options=ReflectionConfig(method.num_reflections, method.mode, method.strength, **method.more),
            reflector=None if method.reflector is None else counted(sides[method.reflector]),
            on_reflect=observe,
        )
    return Made(pictures, count, sum(gaps) / len(gaps) if gaps else 0.0)


# --- the world they are compared in ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """What methods are compared in: the three sides of one path, and who reads their pictures."""

    path: str
    sides: Mapping[str, Denoiser]
    judge: Judge
    shape: tuple[int, int, int]  # of a picture: channels, height, width
    device: str = "cpu"


@dataclass(frozen=True)
class Score:
    """Pictures [N, C, H, W] as uint8, the judge's features [N, 16] and classes [N] of them, and what a sample cost."""

    pictures: Tensor
    features: Tensor
    classes: Tensor
    num_evaluations: int
    gap: float
    seconds: float

    def of_class(self, number: int) -> Tensor:
        """Whether the judge sees this class, [N] booleans."""
        return self.classes == number

    @property
    def minority(self) -> Tensor:
        return self.of_class(MINORITY)

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many pictures show the majority, the minority and neither."""
        majority, minority, neither = (int(self.of_class(n).sum()) for n in (MAJORITY, MINORITY, NEITHER))
        return majority, minority, neither


def load_world(weights: Path, path: str, device: str = "cpu") -> World:
    """The world of a folder that `scripts/train_dataset_gap.py` wrote.

    Raises:
        UserError: something is missing or damaged, or the networks and the judge do not belong together.
    """
    judge = load_judge(weights / JUDGE)
    networks = {side: load_network(weights / path / side) for side in SIDES}
    shape = (judge.shape["channels"], judge.shape["size"], judge.shape["size"])
    for side, network in networks.items():
        own = (network.config.in_channels, network.config.sample_size, network.config.sample_size)
        if own != shape:
            raise UserError(f"{weights / path / side} makes pictures {own}, and the judge there reads {shape}")
    return World(path, {side: denoiser(n.to(device)) for side, n in networks.items()}, judge.to(device), shape, device)


def noises(first: int, count: int, shape: tuple[int, int, int]) -> Tensor:
    """The noises [count, *shape] that samples `first`, `first + 1`, ... of every method start from."""
    return torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(FIRST_SEED + first + i)) for i in range(count)]
    )


def score(world: World, method: Method, count: int, batch: int, progress: Progress = lambda finished: None) -> Score:
    """`count` samples of a method, `batch` at a time, rounded to 8 bits as a file would hold them, and read."""
    made: list[Tensor] = []
    gaps: list[float] = []
    evaluations, start = 0, time.perf_counter()
    for first in range(0, count, batch):
        noise = noises(first, min(batch, count - first), world.shape).to(world.device)
        found = make(
            method, noise, world.sides, sampling_path(world.path), lambda steps: sampling_levels(world.path, steps)
        )
        made.append(((found.pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu())
        gaps.append(found.gap)
        evaluations = found.num_evaluations
        progress(len(noise))
    seconds = (time.perf_counter() - start) / count
    pictures = torch.cat(made)
    features, classes = world.judge.read(pictures.to(world.device))
    return Score(pictures, features, classes, evaluations, sum(gaps) / len(gaps), seconds)


@dataclass(frozen=True)
class Row:
    """One method's numbers.

    Attributes:
        minority: its share of all samples.
        balance: its share of the samples that show either class; None where none does.
        neither: the share of samples that show neither.
        frechet: to held-out pictures, as many of each class, in the judge's features.
        gains: by what it is compared with, the paired difference of the minority's share and McNemar's p; without
            itself and what is not scored.
        nearer: the paired difference of the Frechet distance to the strong model's; None for itself.
    """

    minority: Interval
    balance: Interval | None
    neither: Interval
    frechet: Interval
    gains: dict[str, tuple[Interval, float]]
    nearer: Interval | None
