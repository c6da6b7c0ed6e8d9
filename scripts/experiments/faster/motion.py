"""Motion of Gaussian videos, known exactly: what reflections take from it, and what `motion_strength` leaves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from experiments.engine import markdown
from experiments.theory.mixtures import PATHS, schedule
from w2sd_video.core import Denoiser, Level, NoisePath, Path, ReflectionConfig, sample, w2sd

STEPS, REFLECTIONS = 20, 10


def gaussian_video(path: Path, mean: float, still: float, motion: float) -> Denoiser:
    """Videos [B, C, F, H, W] whose pixels have Gaussian frames: their mean over frames of variance `still` about
    `mean`, their deviations from it, which are apart from it, of variance `motion`."""

    def clean(x: Tensor, level: Level) -> Tensor:
        alike = x.mean(2, keepdim=True)
        shrink = [level.alpha * v / (level.alpha**2 * v + level.sigma**2) for v in (still, motion)]
        return mean + shrink[0] * (alike - level.alpha * mean) + shrink[1] * (x - alike)

    noise = isinstance(path, NoisePath)
    return lambda x, level: (x - (level.alpha if noise else 1.0) * clean(x, level)) / level.sigma


def parts(video: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over frames, and the deviations from it."""
    alike = video.mean(2, keepdim=True)
    return alike, video - alike


def motion_table(name: str = "sdxl") -> str:
    """Motion (the standard deviation over frames) and the mean against plain sampling of the strong model, which moves
    less than the weak one, as in the paper's Table 12. Every map is linear, so a single video carries them."""
    path, levels = PATHS[name], schedule(name, STEPS)
    strong, weak = gaussian_video(path, 0.4, 1.0, 0.3), gaussian_video(path, 0.1, 1.0, 0.9)
    x = torch.randn(1, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    own = parts(sample(x, levels, strong, path))

    def row(label: str, other: Denoiser | None, **settings: Any) -> list[str]:
        if other is None:
            made = sample(x, levels, weak, path)
        else:
            made = w2sd(x, levels, strong, other, path, options=ReflectionConfig(REFLECTIONS, **settings))
        mean, motion = parts(made)
        return [label, f"{(motion.std() / own[1].std()).item():.3f}", f"{(mean - own[0]).mean().item():+.3f}"]

    fused: dict[str, Any] = {"mode": "fused"}
    rows = [
        row("weak alone", None),
        row("W2SD, fused", weak, **fused),
        *(row(f"W2SD, fused, motion strength {m:g}", weak, **fused, motion_strength=m) for m in (0.5, 0.0, -0.5)),
        row("W2SD, cached gap", weak, **fused, gap_every=1),
        row("W2SD, cached gap, motion strength 0", weak, **fused, gap_every=1, motion_strength=0.0),
        row("W2SD, paper mode", weak),
        row("W2SD, paper mode, motion strength 0", weak, motion_strength=0.0),
        row("zero-gap, paper mode", strong),
    ]
    return markdown(["method", "motion over strong's", "mean minus strong's"], rows)
