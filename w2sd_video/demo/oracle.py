"""An oracle that reads colour, shape and motion off clips of the toy world, by closed-form arithmetic."""

import torch
from torch import Tensor

from w2sd_video.demo.captions import SHAPES
from w2sd_video.demo.world import GROUND, PALETTE, SIZE, SPEED, coverage

UNREADABLE = -1
MINIMUM_MASS = 8.0  # summed mask below which a frame shows no shape; the smallest true shape has about 35


def read(frames: Tensor) -> Tensor:
    """The attributes that clips show, [B, 3] integers (colour, shape, motion), UNREADABLE where nothing is shown.

    Args:
        frames: [B, F, 3, H, W] in [0, 1].
    """
    light = (frames.float() - GROUND).clamp_min(0)
    strength = light.amax(dim=2)  # [B, F, H, W]; the palette's brightest channel is 0.85-0.98
    masks = (strength - 0.2).clamp_min(0) / 0.6
    masks = masks.clamp_max(1)
    mass = masks.sum(dim=(2, 3))  # [B, F]
    seen = mass >= MINIMUM_MASS
    result = torch.stack([_colour(light, masks), _shape(masks, seen), _motion(masks, mass, seen)], dim=1)
    return torch.where((seen.sum(dim=1) > seen.shape[1] // 2)[:, None], result, UNREADABLE)


def accuracy(frames: Tensor, attributes: Tensor) -> Tensor:
    """Which attributes are read as asked for: booleans [B, 3] for clips [B, F, 3, H, W] and attributes [B, 3]."""
    return read(frames) == attributes


def _colour(light: Tensor, masks: Tensor) -> Tensor:
    """The palette entry whose direction in RGB is nearest to the mean colour under the mask."""
    mean = (light * masks[:, :, None]).sum(dim=(1, 3, 4))
    directions = torch.nn.functional.normalize(PALETTE - GROUND, dim=1)
    return (torch.nn.functional.normalize(mean, dim=1) @ directions.T).argmax(dim=1)


def _centroids(masks: Tensor, mass: Tensor) -> Tensor:
    """Centres of mass in pixels, [B, F, 2] as (x, y)."""
    grid = torch.arange(SIZE, dtype=masks.dtype)
    weights = mass.clamp_min(1e-6)
    x = (masks.sum(dim=2) * grid).sum(dim=2) / weights
    y = (masks.sum(dim=3) * grid).sum(dim=2) / weights
    return torch.stack([x, y], dim=2)


def _shape(masks: Tensor, seen: Tensor) -> Tensor:
    """The rendered template, placed at the centroid, with the largest correlation summed over frames."""
    mass = masks.sum(dim=(2, 3))
    centres = _centroids(masks, mass)
    scores = []
    for shape in range(len(SHAPES)):
        index = torch.full((len(masks),), shape)
        template = coverage(index, centres)
        offset = _centroids(template, template.sum(dim=(2, 3))) - centres  # a triangle's centroid is not its centre
        template = coverage(index, centres - offset)
        norm = template.square().sum(dim=(2, 3)).sqrt() * masks.square().sum(dim=(2, 3)).sqrt()
        scores.append(((template * masks).sum(dim=(2, 3)) / norm.clamp_min(1e-6) * seen).sum(dim=1))
    return torch.stack(scores, dim=1).argmax(dim=1)


def _motion(masks: Tensor, mass: Tensor, seen: Tensor) -> Tensor:
    """The direction of the least-squares slope of the centroid; slower than half the world's speed means still."""
    time = torch.arange(masks.shape[1], dtype=masks.dtype)
    weights = seen.to(masks.dtype)
    total = weights.sum(dim=1, keepdim=True).clamp_min(1)
    time = time - (weights * time).sum(dim=1, keepdim=True) / total
    variance = (weights * time.square()).sum(dim=1).clamp_min(1e-6)
    slope = ((weights * time)[..., None] * _centroids(masks, mass)).sum(dim=1) / variance[:, None]  # [B, 2]
    horizontal = slope[:, 0].abs() >= slope[:, 1].abs()
    moving = torch.where(horizontal, torch.where(slope[:, 0] < 0, 0, 1), torch.where(slope[:, 1] < 0, 2, 3))
    return torch.where(slope.norm(dim=1) < SPEED / 2, 4, moving)
