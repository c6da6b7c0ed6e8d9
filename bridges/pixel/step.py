"""Reflection across latent spaces: strong and weak meet in pixels (App. E.5, Figure 31).

The strong model's clean estimate is decoded and encoded into the weak model's space, noised there to the level of equal
noise-to-signal ratio, and what the weak model makes of it comes back the same way. What moves the latent is a
difference of two round trips, so that what the autoencoders lose cancels.

The noise is the strong model's own, carried over by a map between the two spaces (`reflect_through_pixels`), or each
side's own, with both models estimating the same picture anew (`reflect_in_pairs`), which asks nothing of the spaces.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

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


class Draws(Protocol):
    """Unit noise of both sides' own, `count` draws for each reflection; `scale` is w as of a `NoiseMap`, None for 1."""

    @property
    def count(self) -> int: ...

    @property
    def scale(self) -> float | None: ...

    def begin(self, ours: Tensor, theirs: Tensor) -> Sequence[tuple[Tensor, Tensor]]:
        """The pairs of one reflection: noise like the strong side's grid, and like the weak side's."""
        ...


class WeakModel(Protocol):
    """The weak model: its level nearest to a noise-to-signal ratio, and its x0 estimate of a grid at one of them."""

    def nearest(self, kappa: float) -> Level | None: ...

    def clean(self, grid: Tensor, level: Level) -> Tensor: ...


Noise = TypeVar("Noise", NoiseMap, Draws)


@dataclass(frozen=True)
class Bridge(Generic[Noise]):
    """The two latent spaces, where the weak model's noise comes from, and the ways pictures are resized between.

    `one_space`: both sides' grids are the same thing, so that nothing has to cross (`reflect_in_pairs`).
    """

    ours: Autoencoder
    theirs: Autoencoder
    noise: Noise
    to_theirs: Callable[[Tensor], Tensor] = lambda pixels: pixels
    to_ours: Callable[[Tensor], Tensor] = lambda pixels: pixels
    one_space: bool = False

    def there(self, grid: Tensor) -> Tensor:
        """A grid of the strong side as one of the weak side: 1 D_A and 1 E_B."""
        return self.theirs.encode(self.to_theirs(self.ours.decode(grid)))

    def difference(self, one: Tensor, other: Tensor) -> Tensor:
        """The difference of two grids of the weak side, on the strong side: 2 D_B and 2 E_A, each pair in one batch."""
        pictures = self.theirs.decode_pair(one, other)
        here, there = self.ours.encode_pair(*(self.to_ours(picture) for picture in pictures))
        return here - there


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
    bridge: Bridge[NoiseMap],
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
    return _reflected(x, start, end, path, strength, gap_through_pixels(x, start, strong, weak, path, bridge=bridge))


def gap_through_pixels(
    x: Tensor,
    at: Level,
    strong: Denoiser,
    weak: WeakModel,
    path: Path,
    *,
    bridge: Bridge[NoiseMap],
    prediction: Tensor | None = None,
) -> Crossing | None:
    """The difference x0_weak - x0_strong at the strong model's latent ``x``, as `reflect_through_pixels` takes it;
    ``prediction`` is the strong model's at ``x`` where it is known already.
    """
    ours, noise_map = bridge.ours, bridge.noise
    level = weak.nearest(at.kappa * (noise_map.scale or 1.0))
    if level is None:
        return None
    prediction = strong(x, at) if prediction is None else prediction
    estimate = ours.layout.grid(path.clean(x, prediction, at))
    noise = ours.layout.grid(path.noise(x, prediction, at))
    b = bridge.there(estimate)
    mapped = noise_map(noise, b.shape)
    scale = noise_map.scale
    if scale is None:
        scale = float(spread(b) / spread(estimate))
        level = weak.nearest(at.kappa * scale)
        if level is None:
            return None
    z = torch.add(b * level.alpha, mapped.to(b), alpha=level.sigma)
    gap = bridge.difference(weak.clean(z, level), b)
    return Crossing(ours.layout.latents(gap).to(x), level, scale)


def reflect_in_pairs(
    x: Tensor,
    start: Level,
    end: Level,
    strong: Denoiser,
    weak: WeakModel,
    path: Path,
    *,
    bridge: Bridge[Draws],
    strength: float = 1.0,
) -> Crossing | None:
    """The reflection of ``x`` with both models estimating the same picture anew, each under noise of its own; None
    where the weak model knows no level so noisy. K + 1 strong and K weak evaluations for K draws; whatever K is, 2 D_A,
    2 E_B, 2 D_B and 2 E_A, the last two in one batch each.

    With a the strong model's estimate of x0 at x and n_k, n'_k independent noise of the two spaces:

        b   = E_B(D_A(a))
        w_k = the weak model's estimate of alpha' * b + sigma' * n'_k     at its level nearest to w * (that of start)
        s_k = the strong model's estimate of alpha * a + sigma * n_k
        x~  = x + c * (E_A(D_B(mean w_k)) - E_A(D_B(E_B(D_A(mean s_k)))))      c: Eq. 5 in terms of x0

    Noise that x does not have pulls every estimate towards the mean; both answers have that, and between spaces that
    are linear functions of each other it cancels in expectation. What is left is the difference of the two models
    around one picture, smoothed over the noise of that level (the gradient that distils one model from another).
    Nothing has to be known of how the spaces relate. The strong answer takes the weak side's round trip too, so that
    what that space cannot hold is never moved.

    In one latent space nothing crosses: b is a, noise is shared, and equal models move nothing, bit for bit.

    Args: as `reflect_through_pixels`.
    """
    return _reflected(x, start, end, path, strength, gap_in_pairs(x, start, strong, weak, path, bridge=bridge))


def gap_in_pairs(
    x: Tensor,
    at: Level,
    strong: Denoiser,
    weak: WeakModel,
    path: Path,
    *,
    bridge: Bridge[Draws],
    prediction: Tensor | None = None,
) -> Crossing | None:
    """The smoothed difference x0_weak - x0_strong around the picture of ``x``, as `reflect_in_pairs` takes it;
    ``prediction`` is the strong model's at ``x`` where it is known already.
    """
    layout, draws = bridge.ours.layout, bridge.noise
    scale = draws.scale or 1.0
    level = weak.nearest(at.kappa * scale)
    if level is None:
        return None
    if bridge.one_space and all(map(math.isclose, (level.alpha, level.sigma), (at.alpha, at.sigma))):
        level = at  # the very level, not the one that its ratio is rounded to
    estimate = path.clean(x, strong(x, at) if prediction is None else prediction, at)
    a = layout.grid(estimate)
    b = a if bridge.one_space else bridge.there(a)
    theirs, own = torch.zeros_like(b), torch.zeros_like(a)
    for noise, other in draws.begin(a, b):
        theirs += weak.clean(torch.add(b * level.alpha, other, alpha=level.sigma), level)
        noisy = path.renoise(estimate, layout.latents(noise), at)
        own += layout.grid(path.clean(noisy, strong(noisy, at), at))
    theirs, own = theirs / draws.count, own / draws.count
    gap = theirs - own if bridge.one_space else bridge.difference(theirs, bridge.there(own))
    return Crossing(layout.latents(gap).to(x), level, scale)


def _reflected(
    x: Tensor, start: Level, end: Level, path: Path, strength: float, gap: Crossing | None
) -> Crossing | None:
    """The reflection that a gap at ``x`` makes."""
    if gap is None:
        return None
    return replace(gap, latent=torch.add(x, gap.latent, alpha=strength * path.clean_coefficient(start, end)))


def spread(grid: Tensor) -> Tensor:
    """The root mean square over channels of each channel's standard deviation over pictures and places."""
    return grid.transpose(0, 1).flatten(1).var(dim=1, correction=0).mean().sqrt()
