"""RAFT's correlations of every place of one frame with every place of the other, and the windows looked up in them."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

MEMORY = 4 << 30  # bytes a pyramid may take: that of frames of 1024x1024 takes 1.4 GB
CHUNK = 64 << 20  # bytes that features read for one chunk of windows may take


class Correlations(Protocol):
    def lookup(self, centres: Tensor, radius: int) -> Tensor:
        """Returns `[1, levels * (2 * radius + 1)^2, h, w]`: per level the window around where each place went.

        `centres` is `[1, 2, h, w]`, (x, y) in the second map. Within a window the slow index moves x and the fast one
        y: the published weights were trained on this order.
        """
        ...


def correlations(first: Tensor, second: Tensor, *, levels: int, memory: int = MEMORY) -> Correlations:
    """Returns the correlations of two feature maps `[1, C, h, w]`, as a pyramid, or on demand if that exceeds `memory`.

    The numbers agree to rounding: averaging products over places is the product with the averaged features.
    """
    # 1/sqrt(256) is a power of two, so that scaling before the product is exact and keeps halves from overflowing.
    first = first * first.shape[1] ** -0.5
    places = first.shape[-2] * first.shape[-1]
    if places**2 * first.element_size() * 4 // 3 > memory:
        return CorrelationOnDemand(first, second, levels)
    return CorrelationPyramid(first, second, levels)


class CorrelationPyramid:
    """All products, the second map's places averaged 2x2 from level to level; 4/3 (hw)^2 numbers."""

    def __init__(self, first: Tensor, second: Tensor, levels: int) -> None:
        _, _, height, width = first.shape
        products = first.flatten(2)[0].T @ second.flatten(2)[0]
        self._levels = _halved(products.view(height * width, 1, *second.shape[-2:]), levels)  # [hw, 1, h2, w2] each

    def lookup(self, centres: Tensor, radius: int) -> Tensor:
        points = centres[0].flatten(1).T  # [hw, 2]
        found = []
        for i, level in enumerate(self._levels):
            maps = level[:, 0]
            window = Window(points / 2**i, maps.shape[-2:], radius)
            found.append(window.blend(maps.flatten(1).gather(1, window.index.flatten(1)).view_as(window.index)))
        return torch.cat(found, dim=1).T.reshape(1, -1, *centres.shape[-2:])


class CorrelationOnDemand:
    """The features alone; products are made for the places that are looked at, a chunk of windows at a time."""

    def __init__(self, first: Tensor, second: Tensor, levels: int) -> None:
        self._first = first.flatten(2)[0].T  # [hw, C]
        self._levels = _halved(second, levels)  # [1, C, h2, w2] each

    def lookup(self, centres: Tensor, radius: int) -> Tensor:
        points = centres[0].flatten(1).T
        per_window = self._first.shape[1] * (2 * radius + 2) ** 2 * self._first.element_size()
        size = max(1, CHUNK // per_window)
        rows = [
            self._rows(first, some, radius)
            for first, some in zip(self._first.split(size), points.split(size), strict=True)
        ]
        return torch.cat(rows).T.reshape(1, -1, *centres.shape[-2:])

    def _rows(self, first: Tensor, points: Tensor, radius: int) -> Tensor:
        found = []
        for i, level in enumerate(self._levels):
            window = Window(points / 2**i, level.shape[-2:], radius)
            features = level.flatten(2)[0].T[window.index.flatten(1)]  # [n, pixels, C]
            found.append(window.blend((features @ first[:, :, None]).view(window.index.shape)))
        return torch.cat(found, dim=1)


class Window:
    """Which pixels of maps of `size` (h, w) the windows around centres `[n, 2]` (x, y) need, and how they are blended.

    The samples of a window lie whole pixels apart, and so share one fraction: the square of pixels that holds them all
    is read once and blended along x, then y. Outside the map it is 0.
    """

    def __init__(self, centres: Tensor, size: tuple[int, ...], radius: int) -> None:
        height, width = size
        ends = torch.tensor([width, height], device=centres.device, dtype=centres.dtype)
        # Beyond these bounds the whole window lies outside, wherever; integers stay small so. NaN stays NaN.
        centres = centres.clamp(min=-(radius + 2.0)).minimum(ends + radius + 1)
        corner = centres.floor()
        self._fraction = (centres - corner)[:, :, None, None]
        steps = torch.arange(-radius, radius + 2, device=centres.device)
        x, y = corner[:, 0, None].long() + steps, corner[:, 1, None].long() + steps  # [n, 2 radius + 2]
        self._inside = ((x >= 0) & (x < width))[:, :, None] & ((y >= 0) & (y < height))[:, None, :]
        self.index = y.clamp(0, height - 1)[:, None, :] * width + x.clamp(0, width - 1)[:, :, None]  # [n, x, y]

    def blend(self, pixels: Tensor) -> Tensor:
        """Returns `[n, (2 * radius + 1)^2]` bilinear samples of the pixels `[n, x, y]` that `index` names."""
        pixels = pixels * self._inside
        along_x, along_y = (self._fraction[:, axis].to(pixels.dtype) for axis in (0, 1))
        blended = pixels[:, :-1] * (1 - along_x) + pixels[:, 1:] * along_x
        blended = blended[:, :, :-1] * (1 - along_y) + blended[:, :, 1:] * along_y
        return blended.flatten(1)


def _halved(maps: Tensor, levels: int) -> list[Tensor]:
    """Returns the maps and their 2x2 averages, `levels` in all; odd rows and columns are dropped."""
    found = [maps]
    for _ in range(levels - 1):
        found.append(F.avg_pool2d(found[-1], 2, stride=2))
    return found
