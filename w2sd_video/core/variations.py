"""What may be added to the printed algorithms: exacter inversions, a bound on the move, noise, cached predictions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from w2sd_video.core.levels import Level
from w2sd_video.core.options import ReflectionConfig
from w2sd_video.core.paths import Path

Denoiser = Callable[[Tensor, Level], Tensor]
"""The native prediction (eps on a noise path, v on a flow path) for a latent; the level says which timestep the network
is passed, and the latent need not be at it."""

NoiseSampler = Callable[[Tensor], Tensor]
"""Standard normal noise of the shape, dtype and device of a latent."""


def invert(lower: Tensor, start: Level, end: Level, weak: Denoiser, path: Path, *, fixed_point: int = 0) -> Tensor:
    """The latent at ``start`` whose step to ``end`` leads to ``lower``, to first order (Eq. 4) or better.

    Eq. 4 asks the network at ``lower`` for what a step asks it at the latent sought: its error E_t (Eq. 33). Each
    fixed-point iteration asks again at the latent found. Iterations contract by about 1 - kappa_end / kappa_start a
    step where noise dominates and may diverge between modes, so the iterate of the least known residual is kept, sample
    by sample [B, ...]; the last, whose residual is not known, only if the one before it did not diverge.

    Args:
        fixed_point: iterations, an evaluation each; none where they cannot converge (`converges`).
    """
    found = path.step(lower, weak(lower, start), end, start)
    if not fixed_point or not converges(start, end):
        return found
    kept, least = found, torch.full((len(lower),), torch.inf, dtype=lower.dtype, device=lower.device)
    smaller = torch.zeros_like(least, dtype=torch.bool)
    for _ in range(fixed_point):
        after = path.step(lower, weak(found, start), end, start)
        residual = torch.linalg.vector_norm((after - found).reshape(len(lower), -1), dim=1)  # of `found`, [B]
        smaller = residual < least
        kept = torch.where(by_sample(smaller, lower), found, kept)
        least, found = torch.minimum(residual, least), after
    return torch.where(by_sample(smaller, lower), found, kept)


def converges(start: Level, end: Level) -> bool:
    """Whether fixed-point iterations can make the inversion end -> start exact: not from pure noise or clean data."""
    return start.alpha > 0 and end.sigma > 0


def bounded(x: Tensor, tilde: Tensor, options: ReflectionConfig, noise_sampler: NoiseSampler) -> Tensor:
    """x~ under the options' ``cap`` and ``noise`` (Eq. 35), for latents [B, ...] at one level."""
    if options.cap is not None:
        move = tilde - x
        size = torch.linalg.vector_norm(move.reshape(len(x), -1), dim=1) / math.sqrt(move[0].numel())
        size = by_sample(size, x)
        # The comparison is of sizes: the share of one below the cap may be rounded to less than 1.
        capped = torch.addcmul(x, move, options.cap / size.clamp_min(options.cap))
        tilde = torch.where(size > options.cap, capped, tilde)
    return torch.add(tilde, noise_sampler(x), alpha=options.noise) if options.noise else tilde


def by_sample(values: Tensor, x: Tensor) -> Tensor:
    """A value per sample [B], to combine with latents [B, ...]."""
    return values.reshape(-1, *[1] * (x.dim() - 1))


@final
class CachedDenoiser:
    """A denoiser of the sampling steps whose last prediction serves in the next reflection (the setting ``lag``).

    An approximation that saves one evaluation for each reflection: that prediction is of another latent at a noisier
    level, so equal models no longer leave a latent as it is. Make a new one for each run.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser
        self._last: Tensor | None = None

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        self._last = self._denoiser(x, level)
        return self._last

    def recall(self, x: Tensor, level: Level) -> Tensor:
        """The last prediction, whatever is asked; before any, one that is not kept."""
        return self._denoiser(x, level) if self._last is None else self._last
