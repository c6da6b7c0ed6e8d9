"""A weak/strong pair without any training: the exact posterior mean over a finite set of clips of the toy world.

A model that was trained to optimality on finitely many clips predicts their posterior mean, which is a softmax over
squared distances. The captions are wrong with a known probability, so the pair has the same bias as the trained one,
and every difference between sampling methods is the method's own.
"""

import torch
from torch import Tensor

from w2sd_video.core import Level
from w2sd_video.demo import world
from w2sd_video.demo.captions import ALL_ATTRIBUTES, COLOURS, MOTIONS, SHAPES


def caption_log_posterior(wanted: Tensor, shown: Tensor, corruption: float) -> Tensor:
    """log p(a clip shows `shown` | its caption says `wanted`), [B, N], for attributes [B, 3] and [N, 3]."""
    total = torch.zeros(len(wanted), len(shown), dtype=torch.float64)
    for column, names in enumerate((COLOURS, SHAPES, MOTIONS)):
        other = corruption / len(names)
        same = wanted[:, None, column] == shown[None, :, column]
        total += torch.where(same, 1 - corruption + other, other).double().log()
    return total


class ClipSpace:
    """Coordinates in the span of `per_caption` clips of each caption: sampling there equals sampling in pixels.

    Noise orthogonal to the span never changes a posterior mean, so it is left out; this is exact, not an approximation.
    """

    def __init__(self, per_caption: int = 6, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.attributes = torch.tensor(ALL_ATTRIBUTES).repeat(per_caption, 1)
        frames = world.render(self.attributes, world.random_starts(len(self.attributes), generator)).frames
        self.frame_shape = frames.shape[1:]
        pixels = frames.flatten(1) * 2 - 1
        self.mean = pixels.mean(dim=0)
        gram = (pixels - self.mean) @ (pixels - self.mean).T
        values, vectors = torch.linalg.eigh(gram.double())
        kept = values > values[-1] * 1e-6
        scale = values[kept].sqrt()
        self.clips = (vectors[:, kept] * scale).float()  # [N, D]
        self.basis = ((pixels - self.mean).T.double() @ (vectors[:, kept] / scale)).float()  # [pixels, D]

    def decode(self, x: Tensor) -> Tensor:
        """Frames [B, F, 3, H, W] in [0, 1] of coordinates [B, D]."""
        return ((x @ self.basis.T + self.mean + 1) / 2).clamp(0, 1).unflatten(1, self.frame_shape)


class PosteriorMean:
    """The denoiser of an optimal model trained on captions wrong with probability `corruption`: predicts noise."""

    def __init__(self, space: ClipSpace, wanted: Tensor, corruption: float) -> None:
        self.clips = space.clips
        self.prior = caption_log_posterior(wanted, space.attributes, corruption).float()
        self.half_norms = self.clips.square().sum(dim=1) / 2

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        ratio = level.alpha / level.sigma
        logits = self.prior + ratio * (x @ self.clips.T / level.sigma - ratio * self.half_norms)
        clean = logits.softmax(dim=1) @ self.clips
        return (x - level.alpha * clean) / level.sigma
