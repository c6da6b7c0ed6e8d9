"""Algorithms 3 and 4: reflection by noise, drawn freely (Re-Sampling) or on one side of the weak-to-strong gap."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from w2sd_video.core.levels import Level, check_chain
from w2sd_video.core.paths import Path, like
from w2sd_video.core.refinements import AS_PRINTED, Draw, Refinements
from w2sd_video.core.reflection import Denoiser
from w2sd_video.core.samplers import MainStep, OnReflect, OnStep, check_reflections, sample_reflected

SIMILARITIES = ("above", "below")


def resample(
    x: Tensor,
    levels: Sequence[Level],
    strong: Denoiser,
    path: Path,
    *,
    num_reflections: int | None = None,
    refinements: Refinements = AS_PRINTED,
    reflector: Denoiser | None = None,
    draw: Draw = torch.randn_like,
    main_step: MainStep | None = None,
    on_step: OnStep | None = None,
    on_reflect: OnReflect | None = None,
) -> Tensor:
    """The latent at the last level, each of the first lambda steps made, noised back and made again (Alg. 3).

    T + lambda evaluations. What is noised is the latent the step arrived at, over the interval back: the printed
    ``Add_Noise(x_t)`` taken at its word noises x_t a second time, which destroys the distribution. With an exact model
    this is a corrector that leaves the model's own distribution as it is.

    Args:
        x, levels, strong, path, main_step, on_step: as for `sample`.
        num_reflections: lambda, 0 to T; None is T - 1.
        refinements: which steps, by `every` and `window`; the rest of it is of W2SD's move.
        reflector: the model of the step that is taken back, where it differs from ``strong``.
        draw, on_reflect: as for `w2sd`.

    Returns:
        Latent of the shape of ``x``, float32 (float64 for a float64 ``x``).

    Raises:
        ValueError: as for `sample`, for a lambda that cannot be had, or other refinements.
    """
    check_chain(levels)
    refinements.check_steps_only("resample")
    # In mode "fused" the last step may be reflected, and so it may here.
    reflected = refinements.steps(len(levels) - 1, check_reflections(num_reflections, levels, "fused", 1.0))
    inner = strong if reflector is None else reflector

    def reflection(i: int, x: Tensor) -> Tensor | None:
        if i not in reflected:
            return None
        start, end = levels[i], levels[i + 1]
        return renoised(path.step(x, inner(x, start), start, end), end, start, draw(x))

    return sample_reflected(
        x, levels, strong, reflection, path, main_step=main_step, on_step=on_step, on_reflect=on_reflect
    )


def resample_aligned(
    x: Tensor,
    levels: Sequence[Level],
    strong: Denoiser,
    weak: Denoiser,
    path: Path,
    *,
    similarity: str = "above",
    num_reflections: int | None = None,
    mode: str = "paper",
    refinements: Refinements = AS_PRINTED,
    reflector: Denoiser | None = None,
    draw: Draw = torch.randn_like,
    main_step: MainStep | None = None,
    on_step: OnStep | None = None,
    on_reflect: OnReflect | None = None,
) -> Tensor:
    """The latent at the last level by Re-Sampling whose noise agrees with W2SD's move (Alg. 4). T + 2 lambda.

    Noise is accepted whose cosine with x~ - x is "above" zero or, as the control of Table 15, "below". Half of all
    draws are, sign for sign, so the printed rejection loop is a sign flip: same distribution, one draw. The push along
    the move is sqrt(2 / pi) standard deviations of the noise (`renoised`), whatever the size of the gap.

    Args:
        x, levels, strong, path, main_step, on_step: as for `sample`.
        weak: the model of the inversion.
        similarity: "above" or "below".
        num_reflections: as for `w2sd`.
        mode: "paper", or "fused" with both models at x (Eq. 5).
        refinements, reflector, draw, on_reflect: as for `resample`.

    Returns:
        Latent of the shape of ``x``, float32 (float64 for a float64 ``x``).

    Raises:
        ValueError: as for `resample`, another similarity, or mode "release".
    """
    check_chain(levels)
    refinements.check_steps_only("resample_aligned")
    if similarity not in SIMILARITIES:
        raise ValueError(f"similarity must be one of {', '.join(SIMILARITIES)}, got {similarity!r}")
    lam = check_reflections(num_reflections, levels, mode, 1.0)
    if mode == "release":
        raise ValueError('mode "release" repeats the published code, which does not resample; use "paper" or "fused"')
    reflected = refinements.steps(len(levels) - 1, lam)
    inner = strong if reflector is None else reflector

    def reflection(i: int, x: Tensor) -> Tensor | None:
        if i not in reflected:
            return None
        start, end = levels[i], levels[i + 1]
        from_strong = inner(x, start)
        lower = path.step(x, from_strong, start, end)
        if mode == "fused":
            move = (like(weak(x, start), x) - like(from_strong, x)) * path.gap_coefficient(start, end)
        else:
            move = path.step(lower, weak(lower, start), end, start) - x
        noise = draw(x)
        along = (noise * move).reshape(len(x), -1).sum(1) * (1 if similarity == "above" else -1)
        signs = torch.where(along < 0, -1.0, 1.0).to(noise.dtype)
        return renoised(lower, end, start, noise * signs.reshape(-1, *[1] * (x.dim() - 1)))

    return sample_reflected(
        x, levels, strong, reflection, path, main_step=main_step, on_step=on_step, on_reflect=on_reflect
    )


def renoised(x: Tensor, start: Level, end: Level, noise: Tensor) -> Tensor:
    """The latent at the noisier level ``end`` of a diffusion that has reached ``x`` at ``start``: q(x_end | x_start).

    ``r * x + sqrt(sigma_end^2 - r^2 sigma_start^2) * noise`` with r = alpha_end / alpha_start, on either path.
    """
    keep = end.alpha / start.alpha
    return torch.add(x * keep, like(noise, x), alpha=math.sqrt(end.sigma**2 - (keep * start.sigma) ** 2))
