"""Score sampling methods on the bundled pair with the oracle: accuracies, and paired differences with intervals."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from w2sd_video.demo import oracle
from w2sd_video.demo.captions import CAPTIONS, parse_caption

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


def score(pair, method: Method, count: int, batch: int = 24, progress=None) -> tuple[Score, Tensor]:
    """Generate `count` videos with one method and read them; also the frames, [N, F, 3, H, W] uint8.

    Args:
        pair: a `LoadedPair` of the demo preset.
        progress: called with the number of finished videos after each batch.
    """
    from w2sd_video import reflected

    prompts, seeds = prompts_and_seeds(count)
    frames, rows, evaluations, start = [], 0, 0, time.perf_counter()
    for first in range(0, count, batch):
        chosen = slice(first, first + batch)
        with pair.sampling(method.sampled) as pipe:
            partner = pair.network(method.partner) if method.partner in ("weak", "strong") else method.partner
            with reflected(
                pipe,
                weak=partner,
                num_reflections=REFLECTIONS if partner is not None else 0,
                mode=method.mode,
                strength=method.strength,
                method=method.algorithm,
                progress=False,
            ) as run:
                clips = pipe(
                    prompts[chosen],
                    num_frames=8,
                    height=32,
                    width=32,
                    num_inference_steps=method.steps,
                    guidance_scale=method.guidance,
                    generator=[torch.Generator().manual_seed(seed) for seed in seeds[chosen]],
                    output_type="pt",
                ).frames
        frames.append((clips.float().clamp(0, 1) * 255).round().to(torch.uint8))
        rows, evaluations = run.num_rows, run.num_evaluations
        if progress is not None:
            progress(first + len(clips))
    videos = torch.cat(frames)
    wanted = torch.tensor([parse_caption(prompt) for prompt in prompts])
    correct = torch.cat(
        [oracle.accuracy(part / 255, want) for part, want in zip(videos.split(240), wanted.split(240), strict=True)]
    )
    return Score(correct, evaluations, rows, (time.perf_counter() - start) / count), videos


def paired_interval(a: Tensor, b: Tensor, draws: int = 10_000, seed: int = 0) -> tuple[float, float, float]:
    """The mean of a - b over paired videos [N] and its 95 percent bootstrap interval (percentiles over videos)."""
    difference = a.double() - b.double()
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(difference), (draws, len(difference)), generator=generator)
    means = difference[picks].mean(dim=1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return difference.mean().item(), low, high


# name, method, compared with, least mean difference, the sign the whole interval must have (None: exact equality)
BARS: Sequence[tuple[str, str, str, float, int | None]] = (
    ("W2SD (paper mode) beats strong by 0.08", "w2sd", "strong", 0.08, 1),
    ("W2SD (fused) beats strong by 0.05", "w2sd-fused", "strong", 0.05, 1),
    ("W2SD beats its own zero-gap", "w2sd", "zero-gap", 0.0, 1),
    ("W2SD beats strong at equal evaluations", "w2sd", "strong-equal", 0.0, 1),
    ("swapped roles fall below strong", "swapped", "strong", 0.0, -1),
    ("swapped roles fall below weak", "swapped", "weak", 0.0, 0),
    ("fused zero-gap is strong, exactly", "zero-gap-fused", "strong", 0.0, None),
)


def check_bar(a: Tensor, b: Tensor, least: float, sign: int | None) -> bool:
    """Whether videos `a` against `b` [N] meet a bar of `BARS`: 1 and -1 want the interval above or below 0, 0 the mean below."""
    if sign is None:
        return torch.equal(a, b)
    mean, low, high = paired_interval(a, b)
    if sign == 0:
        return mean < 0
    return (mean >= least and low > 0) if sign > 0 else high < 0
