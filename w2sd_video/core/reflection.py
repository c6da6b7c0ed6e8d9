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


def reflect(x: Tensor, start: Level, end: Level, strong: Denoiser, weak: Denoiser, path: Path) -> Tensor:
    """The reflected latent x~ of ``x``: M_inv^w(M^s(x)) (Alg. 1 line 7, Eq. 4). Two evaluations, in sequence.

    Args:
        x: latent at ``start``, any shape, float32 or float64.
        start: the level of ``x``, and of the result; both networks are told it.
        end: the next, cleaner level, where the weak network is evaluated.
        strong: denoiser of the step start -> end.
        weak: denoiser of the inversion end -> start.
        path: what the predictions mean.

    Returns:
        The latent at ``start``. Equal networks restore ``x`` only to first order: see `reflect_fused`.
    """
    lower = path.step(x, strong(x, start), start, end)
    return path.step(lower, weak(lower, start), end, start)


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
