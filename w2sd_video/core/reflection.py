"""Reflection: denoise with the strong model, invert with the weak one, and land at the level one started from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from w2sd_video.core.levels import Level
from w2sd_video.core.paths import Path, like

Denoiser = Callable[[Tensor, Level], Tensor]
"""The native prediction (eps on a noise path, v on a flow path) for a latent that need not be at the level told."""

Together = Callable[[Tensor, Level], tuple[Tensor, Tensor]]
"""The predictions of the strong and of the weak side for one latent, where both can be had in one evaluation."""


def reflect(
    x: Tensor, start: Level, end: Level, strong: Denoiser, weak: Denoiser, path: Path, *, fixed_point: int = 0
) -> Tensor:
    """The reflected latent x~ of ``x``: M_inv^w(M^s(x)) (Alg. 1 line 7, Eq. 4). Two evaluations, in sequence.

    Args:
        x: latent at ``start``, any shape, float32 or float64.
        start: the level of ``x``, and of the result; both networks are told it.
        end: the next, cleaner level, where the weak network is evaluated.
        strong: denoiser of the step start -> end.
        weak: denoiser of the inversion end -> start.
        path: what the predictions mean.
        fixed_point: see `invert`; an evaluation each.

    Returns:
        The latent at ``start``. Equal networks restore ``x`` only to first order: see `reflect_fused`.
    """
    lower = path.step(x, strong(x, start), start, end)
    return invert(lower, start, end, weak, path, fixed_point=fixed_point)


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
    vouched = torch.zeros_like(least, dtype=torch.bool)
    for _ in range(fixed_point):
        after = path.step(lower, weak(found, start), end, start)
        residual = torch.linalg.vector_norm((after - found).reshape(len(lower), -1), dim=1)  # of `found`, [B]
        vouched = residual < least
        kept = torch.where(_over(vouched, lower), found, kept)
        least, found = torch.minimum(residual, least), after
    return torch.where(_over(vouched, lower), found, kept)


def _over(chosen: Tensor, x: Tensor) -> Tensor:
    """A flag per sample [B], to pick from latents [B, ...]."""
    return chosen.reshape(-1, *[1] * (x.dim() - 1))


def converges(start: Level, end: Level) -> bool:
    """Whether fixed-point iterations can make the inversion end -> start exact: not from pure noise or clean data."""
    return start.alpha > 0 and end.sigma > 0


def reflect_fused(
    x: Tensor,
    start: Level,
    end: Level,
    strong: Denoiser,
    weak: Denoiser,
    path: Path,
    *,
    strength: float = 1.0,
    together: Together | None = None,
) -> Tensor:
    """The reflected latent with both networks at (x, start): x + strength * c * (weak - strong) (Eq. 5, Theorem 1).

    The two evaluations are independent, so ``together``, where given, makes both. Written as a difference: equal
    predictions return ``x`` bit for bit, which the same computation as two steps does not. The arguments are those of
    `reflect`.
    """
    coefficient = strength * path.gap_coefficient(start, end)
    from_strong, from_weak = (strong(x, start), weak(x, start)) if together is None else together(x, start)
    return torch.add(x, like(from_weak, x) - like(from_strong, x), alpha=coefficient)


def reflect_release(
    x: Tensor, start: Level, end: Level, after: Level, strong: Denoiser, weak: Denoiser, path: Path
) -> Tensor:
    """The reflected latent with the coefficients of the published code, to reproduce its images only.

    The published inversion passes `timesteps[i + 1]` to DDIMInverseScheduler, which reads it as the level to arrive at:
    the coefficients are those of the interval after -> end, one level below end -> start. So no gap is not no change.

    Args:
        x, start, end, strong, weak, path: as for `reflect`.
        after: the level after ``end``.
    """
    lower = path.step(x, strong(x, start), start, end)
    return path.step(lower, weak(lower, start), after, end)
