"""Figure 26: does the gap from weak to strong point where the gap from strong to ideal does, level by level?

Models whose training errors were independent and of one size, and the same data, would show a cosine of -1/2: both gaps
contain the strong model's error, with opposite signs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vbench_eval.statistics import Interval, percentile_interval
from w2sd_video.core import Denoiser, Level, sample
from w2sd_video.core import Path as SamplingPath


@dataclass(frozen=True)
class Cosines:
    """Per level, noisiest first: the mean cosine over samples with its interval, and the share of samples above 0."""

    timesteps: list[float]
    means: list[Interval]
    positive: list[float]


def gap_cosine(x: Tensor, level: Level, sides: Mapping[str, Denoiser]) -> Tensor:
    """The cosine [N] of strong - weak and ideal - strong, the sides' predictions for latents [N, C, H, W]."""
    weak, strong, ideal = (sides[side](x, level).flatten(1).double() for side in ("weak", "strong", "ideal"))
    return torch.nn.functional.cosine_similarity(strong - weak, ideal - strong, dim=1)


def _collected(levels: list[Level], found: list[Tensor]) -> Cosines:
    return Cosines(
        [level.timestep for level in levels],
        [percentile_interval(cosines) for cosines in found],
        [(cosines > 0).double().mean().item() for cosines in found],
    )


@torch.no_grad()
def on_trajectories(noise: Tensor, levels: list[Level], sides: Mapping[str, Denoiser], path: SamplingPath) -> Cosines:
    """Where the strong model's samples from these noises pass, at each level that a step starts from."""
    found = [gap_cosine(noise, levels[0], sides)]

    def observe(i: int, x: Tensor) -> None:
        if i + 1 < len(levels) - 1:
            found.append(gap_cosine(x, levels[i + 1], sides))

    sample(noise, levels, sides["strong"], path, callback=observe)
    return _collected(levels[:-1], found)


@torch.no_grad()
def on_pictures(
    pictures: Tensor, noise: Tensor, levels: list[Level], sides: Mapping[str, Denoiser], path: SamplingPath
) -> Cosines:
    """At pictures [N, C, H, W] with noise of the same shape added, at each level that a step starts from."""
    found = [gap_cosine(path.renoise(pictures, noise, level), level, sides) for level in levels[:-1]]
    return _collected(levels[:-1], found)
