"""Reflection across latent spaces: strong and weak meet in pixels (App. E.5, Figure 31).

The strong model's clean estimate is decoded and encoded into the weak model's space, noised there to the level of equal
noise-to-signal ratio, and what the weak model makes of it comes back the same way. What moves the latent is the
difference of two round trips, so that what the autoencoders lose cancels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from w2sd_video.core import Denoiser, Level
from w2sd_video.core.paths import Path


class Layout(Protocol):
    """Between a model's own latents and grids, latents as [N, C, h, w]."""

    def grid(self, latents: Tensor) -> Tensor: ...

    def latents(self, grid: Tensor) -> Tensor: ...


class Autoencoder(Protocol):
    """Between pictures [N, 3, H, W] and grids; pairs go through in one batch."""

    @property
    def layout(self) -> Layout: ...

    def encode(self, pixels: Tensor) -> Tensor: ...

    def decode(self, grid: Tensor) -> Tensor: ...

    def encode_pair(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]: ...

    def decode_pair(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]: ...


class NoiseMap(Protocol):
    """Noise of the strong side's grid as noise of the weak side's, of the given shape.

    `scale` is w, the standard deviation of the weak side's latents over that of the mapped strong side's. None, for
    noise that is not mapped at all, has it measured at every reflection, with the strong side's latents as they are.
    """

    @property
    def scale(self) -> float | None: ...

    def __call__(self, noise: Tensor, shape: torch.Size) -> Tensor: ...


class WeakModel(Protocol):
    """The weak model: its level nearest to a noise-to-signal ratio, and its x0 estimate of a grid at one of them."""

    def nearest(self, kappa: float) -> Level | None: ...

    def clean(self, grid: Tensor, level: Level) -> Tensor: ...


@dataclass(frozen=True)
class Bridge:
    """The two latent spaces, the noise map from the first to the second, and the ways pictures are resized between."""

    ours: Autoencoder
    theirs: Autoencoder
    noise_map: NoiseMap
    to_theirs: Callable[[Tensor], Tensor] = lambda pixels: pixels
    to_ours: Callable[[Tensor], Tensor] = lambda pixels: pixels


@dataclass(frozen=True)
class Crossing:
    """What came back of a crossing, the weak model's level, and the w that chose it.

    `latent` is x~ of a reflection, x0_weak - x0_strong of a measured gap.
    """

    latent: Tensor
    level: Level
    scale: float


def reflect_through_pixels(
    x: Tensor,
    start: Level,
    end: Level,
    strong: Denoiser,
    weak: WeakModel,
    path: Path,
    *,
    bridge: Bridge,
    strength: float = 1.0,
) -> Crossing | None:
    """The reflection of ``x`` with a weak model of another latent space; None where it knows no level so noisy (or so
    clean). One strong and one weak evaluation, 1 D_A, 1 E_B, 2 D_B and 2 E_A, the pairs in one batch.

    With x0_s and eps_s the strong model's estimates at x, E and D the encoders and decoders of the two spaces A and B:

        b    = E_B(D_A(x0_s))
        z    = alpha * b + sigma * P(eps_s)      at the weak level nearest to sigma / alpha = w * (that of start)
        x0_w = the weak model's clean estimate of z
        x~   = x + c * (E_A(D_B(x0_w)) - E_A(D_B(b)))      c: Eq. 5 in terms of x0 (`Path.clean_coefficient`)

    A weak model that answers its own b moves nothing, whatever the autoencoders lose. The noise is not renormalised:
    its standard deviation below 1 at low noise is what makes z the image of x.

    Args:
        x: the strong model's latent at ``start``, float32 or float64.
        start, end: the levels of the step; the result is at ``start``.
        strong: denoiser of the strong model as it reflects.
        weak: the weak model in its own space.
        path: what the strong model's predictions mean.
        bridge: how to get from one space to the other.
        strength: multiplies x~ - x.
    """
    crossing = gap_through_pixels(x, start, strong, weak, path, bridge=bridge)
    if crossing is None:
        return None
    coefficient = strength * path.clean_coefficient(start, end)
    return replace(crossing, latent=torch.add(x, crossing.latent, alpha=coefficient))


def gap_through_pixels(
    x: Tensor, at: Level, strong: Denoiser, weak: WeakModel, path: Path, *, bridge: Bridge
) -> Crossing | None:
    """The difference x0_weak - x0_strong at the strong model's latent ``x``, as `reflect_through_pixels` takes it."""
    ours, theirs, noise_map = bridge.ours, bridge.theirs, bridge.noise_map
    level = weak.nearest(at.kappa * (noise_map.scale or 1.0))
    if level is None:
        return None
    prediction = strong(x, at)
    estimate = ours.layout.grid(path.clean(x, prediction, at))
    noise = ours.layout.grid(path.noise(x, prediction, at))
    b = theirs.encode(bridge.to_theirs(ours.decode(estimate)))
    mapped = noise_map(noise, b.shape)
    scale = noise_map.scale
    if scale is None:
        scale = float(spread(b) / spread(estimate))
        level = weak.nearest(at.kappa * scale)
        if level is None:
            return None
    z = torch.add(b * level.alpha, mapped.to(b), alpha=level.sigma)
    answer = weak.clean(z, level)
    pictures = theirs.decode_pair(answer, b)
    moved, stayed = ours.encode_pair(*(bridge.to_ours(picture) for picture in pictures))
    return Crossing(ours.layout.latents(moved - stayed).to(x), level, scale)


def spread(grid: Tensor) -> Tensor:
    """The root mean square over channels of each channel's standard deviation over pictures and places."""
    return grid.transpose(0, 1).flatten(1).var(dim=1, correction=0).mean().sqrt()
