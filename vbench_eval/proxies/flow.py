"""Optical flow without weights: Horn and Schunck (1981), coarse to fine, in plain torch.

It stands in for RAFT where there are no weights. On textures it finds shifts of up to a tenth of the frame to a few
hundredths of a pixel. Where the motion of small things exceeds their size, at borders that reveal something new, and in
white noise, it guesses: what it says is a proxy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vbench_eval.proxies.frames import LUMA

COARSEST_SIDE = 16  # pixels; a level is halved while this is left of it
MOST_MOVE = 1.0  # pixels that one linearisation may move a pixel, about as far as it holds
WORKING_SET = 1 << 15  # pixels taken together: more pairs share the cost of a call, until they fall out of the cache


@dataclass(frozen=True)
class HornSchunck:
    """A FlowEstimator: brightness constancy plus smoothness, linearised anew around each estimate.

    Attributes:
        side: frames with a longer shorter side are shrunk to it, and the flow is enlarged and rescaled afterwards.
        warps: linearisations per level, the coarsest (16 times smaller than the finest) first.
        iterations: Jacobi steps per linearisation.
        smoothness: the weight of smoothness against brightness in 0..1. More of it withstands more noise and blurs the
            borders of what moves more.
        name, pad_multiple: as the protocol asks.

    On a 256x256 pair: 15 ms of one core. A pair of equal frames has a flow of exactly 0.
    """

    side: int = 256
    warps: tuple[int, ...] = (5, 5, 5, 4, 1)
    iterations: int = 15
    smoothness: float = 0.05
    name: str = "horn-schunck"
    pad_multiple: int = 1

    def provenance(self) -> dict[str, Any]:
        settings = {**asdict(self), "warps": list(self.warps)}
        return {"id": f"proxy:{self.name}", **settings, "dtype": "float32", "device": "cpu", "commercial_ok": True}

    @torch.no_grad()
    def flow(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns `[B, 2, H, W]`: by how many pixels (dx, dy) what is at a pixel of `a` has moved in `b`; both are
        `[B, 3, H, W]`, 0..255.
        """
        height, width = a.shape[-2:]
        size = shorter_side_at_most(height, width, self.side)
        moved = (a != b).flatten(1).any(1)
        if moved.all():
            return resized_flow(self._coarse_to_fine(_grey(a, size), _grey(b, size)), (height, width))
        result = torch.zeros(len(a), 2, *size)
        if moved.any():
            result[moved.cpu()] = self._coarse_to_fine(_grey(a[moved], size), _grey(b[moved], size))
        return resized_flow(result, (height, width))

    def _coarse_to_fine(self, first: Tensor, second: Tensor) -> Tensor:
        levels = [(first, second)]
        while min(levels[-1][0].shape[-2:]) >= 2 * COARSEST_SIDE and len(levels) < len(self.warps):
            levels.append((F.avg_pool2d(levels[-1][0], 2), F.avg_pool2d(levels[-1][1], 2)))
        flow = first.new_zeros(len(first), 2, *levels[-1][0].shape[-2:])
        warps = self.warps[-len(levels) :]
        for (before, after), count in zip(reversed(levels), warps, strict=True):
            flow = resized_flow(flow, before.shape[-2:])
            flow = torch.cat([self._settle(a, b, start, count) for a, b, start in _groups(before, after, flow)])
        return flow

    def _settle(self, a: Tensor, b: Tensor, flow: Tensor, warps: int) -> Tensor:
        # Without the blur the differences below would underrate the finest texture, and its updates overshoot.
        a, b = binomial_blur(a), binomial_blur(b)
        for _ in range(warps):
            flow = self._linearised(a, b, flow)
        return flow

    def _linearised(self, a: Tensor, b: Tensor, start: Tensor) -> Tensor:
        """Returns the flow w that minimises |difference + g.(w - start)|^2 + smoothness^2 |grad w|^2, `difference` and
        its gradient g being taken at `start`: Jacobi steps, in which each w is pulled from the mean of its four
        neighbours towards the line of solutions of its own pixel.
        """
        warped = sampled(b, start)
        middle = F.pad((a + warped) / 2, (1, 1, 1, 1), mode="replicate")
        across = middle[:, :, 1:-1, 2:] - middle[:, :, 1:-1, :-2]
        below = middle[:, :, 2:, 1:-1] - middle[:, :, :-2, 1:-1]
        gradient = torch.cat((across, below), 1).div_(2)
        scale = torch.rsqrt(self.smoothness**2 + gradient.square().sum(1, keepdim=True))
        constant = (warped - a - (gradient * start).sum(1, keepdim=True)) * scale
        gradient *= scale
        along_x, along_y = gradient[:, :1], gradient[:, 1:]
        # One buffer for all steps: the flow with a border around it that repeats its outermost pixels.
        padded = F.pad(start, (1, 1, 1, 1), mode="replicate")
        flow, up, down = padded[:, :, 1:-1, 1:-1], padded[:, :, :-2, 1:-1], padded[:, :, 2:, 1:-1]
        left, right = padded[:, :, 1:-1, :-2], padded[:, :, 1:-1, 2:]
        borders = [(padded[:, :, i], padded[:, :, j]) for i, j in ((0, 1), (-1, -2))]
        borders += [(padded[..., i], padded[..., j]) for i, j in ((0, 1), (-1, -2))]
        mean, residual = torch.empty_like(start), torch.empty_like(constant)
        for _ in range(self.iterations):
            torch.add(up, down, out=mean)
            mean.add_(left).add_(right).mul_(0.25)
            torch.addcmul(constant, along_x, mean[:, :1], out=residual).addcmul_(along_y, mean[:, 1:])
            torch.addcmul(mean, gradient, residual, value=-1, out=flow)
            for border, beside in borders:
                border.copy_(beside)
        return start + (flow - start).clamp_(-MOST_MOVE, MOST_MOVE)


def shorter_side_at_most(height: int, width: int, side: int) -> tuple[int, int]:
    """Returns (height, width) shrunk so that the shorter side is `side`, or as they are where it is not longer."""
    shorter = min(height, width)
    if shorter <= side:
        return height, width
    return round(height * side / shorter), round(width * side / shorter)


def resized_flow(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns a flow `[B, 2, h, w]` on a grid of another size, its vectors in the pixels of that grid."""
    height, width = flow.shape[-2:]
    if (height, width) == tuple(size):
        return flow
    scale = torch.tensor([size[1] / width, size[0] / height]).view(1, 2, 1, 1)
    shrinks = size[0] < height
    return F.interpolate(flow, size, mode="bilinear", align_corners=False, antialias=shrinks) * scale


def sampled(pictures: Tensor, flow: Tensor) -> Tensor:
    """Returns pictures `[B, C, H, W]` read at (x + dx, y + dy), bilinearly; outside, their nearest border."""
    height, width = flow.shape[-2:]
    x = (torch.arange(width) + flow[:, 0]) * (2 / max(1, width - 1)) - 1
    y = (torch.arange(height)[:, None] + flow[:, 1]) * (2 / max(1, height - 1)) - 1
    grid = torch.stack((x, y), -1)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=True)


def binomial_blur(pictures: Tensor) -> Tensor:
    """Returns pictures `[B, C, H, W]` convolved with (1, 2, 1) / 4 along both axes, the borders repeated."""
    padded = F.pad(pictures, (1, 1, 1, 1), mode="replicate")
    rows = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    return (rows[..., :-2, :] + 2 * rows[..., 1:-1, :] + rows[..., 2:, :]) / 16


def _grey(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns luma `[B, 1, h, w]` in 0..1 of frames `[B, 3, H, W]` in 0..255."""
    red, green, blue = (plane * (weight / 255) for plane, weight in zip(frames.float().split(1, 1), LUMA, strict=True))
    grey = (red + green + blue).cpu()
    if size != tuple(grey.shape[-2:]):
        grey = F.interpolate(grey, size, mode="bilinear", align_corners=False, antialias=True)
    return grey


def _groups(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Gives the tensors' rows in groups of as many pictures as make up the working set."""
    height, width = tensors[0].shape[-2:]
    together = max(1, WORKING_SET // (height * width))
    return zip(*(tensor.split(together) for tensor in tensors), strict=True)
