"""The toy world: clips of one coloured shape that starts near the centre and moves outward, or stays.

Because every clip starts at the centre, "moving left" also means "on the left side" in a single frame: a 2-D network
can learn where a motion leads, and a motion module has to learn the order in time.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from w2sd_video.demo.captions import COLOURS, MOTIONS, SHAPES

SIZE = 32  # pixels, height and width
NUM_FRAMES = 8
SPEED = 1.2  # pixels per frame
JITTER = 1.0  # the start is uniform within +-JITTER pixels of the centre, on both axes
GROUND = 0.08  # grey level of the background

PALETTE = torch.tensor(
    [
        [0.95, 0.15, 0.12],
        [0.95, 0.90, 0.12],
        [0.15, 0.85, 0.20],
        [0.12, 0.85, 0.90],
        [0.20, 0.30, 0.98],
        [0.92, 0.20, 0.90],
    ]
)
DIRECTIONS = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0], [0.0, 0.0]])  # (x, y), y downwards


@dataclass(frozen=True)
class Clips:
    """A batch of clips: pixels [B, F, 3, H, W] in [0, 1] and the attributes [B, 3] they show."""

    frames: Tensor
    attributes: Tensor


def random_attributes(count: int, generator: torch.Generator) -> Tensor:
    """Uniform attributes, [count, 3] integers: colour, shape, motion."""
    columns = [torch.randint(len(names), (count,), generator=generator) for names in (COLOURS, SHAPES, MOTIONS)]
    return torch.stack(columns, dim=1)


def random_starts(count: int, generator: torch.Generator) -> Tensor:
    """Start positions as offsets from the centre in pixels, [count, 2] as (x, y)."""
    return (torch.rand(count, 2, generator=generator) * 2 - 1) * JITTER


def positions(motion: Tensor, starts: Tensor, times: Tensor) -> Tensor:
    """Centres in pixels, [B, F, 2] as (x, y), of clips with motion [B] and starts [B, 2] at times [B, F] in frames."""
    centre = (SIZE - 1) / 2
    return centre + starts[:, None] + SPEED * times[..., None] * DIRECTIONS[motion][:, None]


def coverage(shape: Tensor, centres: Tensor) -> Tensor:
    """Anti-aliased masks in [0, 1], [B, F, H, W], of shapes [B] at centres [B, F, 2]."""
    grid = torch.arange(SIZE, dtype=centres.dtype)
    dx = grid[None, None, None, :] - centres[..., 0, None, None]
    dy = grid[None, None, :, None] - centres[..., 1, None, None]
    shape = shape[:, None, None, None]
    ax, ay = dx.abs(), dy.abs()
    ring = ((dx.square() + dy.square()).sqrt() - 4.6).abs() - 1.5
    square = torch.maximum(ax, ay) - 4.8
    slope = math.sqrt(3) / 2
    triangle = torch.maximum(slope * ax - 0.5 * dy - 3.0, dy - 4.4)  # apex up
    bar = torch.minimum(torch.maximum(ax - 1.5, ay - 6.0), torch.maximum(ax - 6.0, ay - 1.5))
    distance = torch.where(shape == 0, ring, torch.where(shape == 1, square, torch.where(shape == 2, triangle, bar)))
    return (0.5 - distance).clamp(0, 1)


def paint(colour: Tensor, masks: Tensor) -> Tensor:
    """Pictures in [0, 1], [B, F, 3, H, W], of masks [B, F, H, W] painted in colours [B] on the ground."""
    return GROUND + masks[:, :, None] * (PALETTE[colour] - GROUND)[:, None, :, None, None]


def render(attributes: Tensor, starts: Tensor, times: Tensor | None = None) -> Clips:
    """Clips of the given attributes [B, 3] and starts [B, 2]; `times` [B, F] default to all frames of a clip."""
    if times is None:
        times = torch.arange(NUM_FRAMES, dtype=torch.float32).expand(len(attributes), NUM_FRAMES)
    colour, shape, motion = attributes.unbind(1)
    return Clips(paint(colour, coverage(shape, positions(motion, starts, times))), attributes)


def random_clips(count: int, generator: torch.Generator) -> Clips:
    """Clips with uniform attributes and random starts."""
    return render(random_attributes(count, generator), random_starts(count, generator))


def random_frames(count: int, generator: torch.Generator) -> Clips:
    """Single frames (F = 1) taken from random clips at a random time."""
    attributes, starts = random_attributes(count, generator), random_starts(count, generator)
    times = torch.randint(NUM_FRAMES, (count, 1), generator=generator).float()
    return render(attributes, starts, times)


def corrupt(attributes: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """The attributes a biased captioner writes down: each one is replaced by a uniform draw with `probability`.

    The draws do not depend on `probability`, so two captioners fed the same generator state err on nested sets.
    """
    draws = random_attributes(len(attributes), generator)
    wrong = torch.rand(attributes.shape, generator=generator) < probability
    return torch.where(wrong, draws, attributes)
