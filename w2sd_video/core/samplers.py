"""Samplers: plain sampling, W2SD (Algorithm 1) and auto-guidance, over any tensor and either path.

Algorithm 2 is in `selection`, Algorithms 3 and 4 in `resampling`.

`levels` are T + 1 levels, noisiest first. Every coefficient is a Python float made from them, so nothing in a loop
reads a tensor back to the host. Latents are carried in float32 or better whatever is given and whatever the networks
return. Gradients are not switched off here: wrap a call in `torch.no_grad()` when none are wanted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from w2sd_video.core.levels import Level, check_chain
from w2sd_video.core.paths import Path, like
from w2sd_video.core.refinements import AS_PRINTED, Draw, Lagging, Refinements, reflected_latent
from w2sd_video.core.reflection import Denoiser, Together

MODES = ("paper", "fused", "release")

OnStep = Callable[[int, Tensor], "Tensor | None"]
"""Called after step i with the latent at levels[i + 1]; a returned tensor replaces it; StopSampling ends the run."""

OnReflect = Callable[[int, Tensor, Tensor], None]
"""Called after the reflection of step i with x and x~, both at levels[i]."""

Reflection = Callable[[int, Tensor], "Tensor | None"]
"""The reflected latent x~ of x at levels[i]; None where it leaves step i unreflected."""

MainStep = Callable[[Tensor, Tensor, Level, Level], Tensor]
"""The latent at the end of a sampling step, from (x, native prediction, start, end): `path.step`, or a `Multistep`."""


class StopSampling(Exception):
    """Raised by an `OnStep` to end sampling now, with ``latent`` as the result."""

    def __init__(self, latent: Tensor) -> None:
        super().__init__("sampling was stopped by a callback")
        self.latent = latent


def sample(
    x: Tensor,
    levels: Sequence[Level],
    strong: Denoiser,
    path: Path,
    *,
    main_step: MainStep | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """The latent at the last level, sampled from ``x`` with one model. T evaluations.

    Args:
        x: latent at ``levels[0]``, any shape, any floating dtype.
        levels: T + 1 levels, noisiest first.
        strong: denoiser giving the native prediction of ``path``.
        path: `NoisePath` or `FlowPath`.
        main_step: see `MainStep`; None is ``path.step``, of first order.
        on_step: see `OnStep`.

    Returns:
        Latent of the shape of ``x``, float32 (float64 for a float64 ``x``).

    Raises:
        ValueError: the levels are not a sampling grid of ``path``, or ``x`` is not floating point.
    """

    step = path.step if main_step is None else main_step

    def advance(i: int, x: Tensor) -> Tensor:
        return step(x, strong(x, levels[i]), levels[i], levels[i + 1])

    return _run(x, levels, path, advance, on_step)


def w2sd(
    x: Tensor,
    levels: Sequence[Level],
    strong: Denoiser,
    weak: Denoiser,
    path: Path,
    *,
    num_reflections: int | None = None,
    mode: str = "paper",
    reflector: Denoiser | None = None,
    strength: float = 1.0,
    refinements: Refinements = AS_PRINTED,
    lagging: Lagging | None = None,
    draw: Draw = torch.randn_like,
    main_step: MainStep | None = None,
    together: Together | None = None,
    on_step: OnStep | None = None,
    on_reflect: OnReflect | None = None,
) -> Tensor:
    """The latent at the last level, reflected in the first lambda of T steps (Alg. 1). T + 2 lambda evaluations.

    Alg. 1 line 9 reads x~ also where no reflection was made; there it is x.

    Args:
        x, levels, path, main_step, on_step: as for `sample`. The steps of reflections are of first order.
        strong: denoiser of the sampling steps, and of the reflections unless ``reflector`` is given.
        weak: denoiser of the inversions.
        num_reflections: lambda, counted from the noisiest step; None is T - 1. T is allowed where the last step can be
            inverted (its end keeps noise) and in mode "fused"; never in mode "release".
        mode: "paper" (`reflect`), "fused" (`reflect_fused`) or "release" (`reflect_release`).
        reflector: the strong model as used inside the reflection, when it differs from sampling (App. C.1).
        strength: multiplies x~ - x; 1 is W2SD, 0 evaluates everything and changes nothing.
        refinements: what else differs from the printed algorithm; see `Refinements`.
        lagging: a new `Lagging`, to save the strong model's evaluation in each reflection; with neither ``reflector``
            nor ``together``.
        draw: see `Draw`; for the noise of ``refinements``.
        together: see `Together`; in mode "fused" both sides of a reflection in place of reflector and weak.
        on_reflect: see `OnReflect`.

    Returns:
        Latent of the shape of ``x``, float32 (float64 for a float64 ``x``).

    Raises:
        ValueError: as for `sample`; or an unknown mode, a lambda that cannot be had, a strength that is not finite,
            settings that do not go together.
    """
    check_chain(levels)
    lam = check_reflections(num_reflections, levels, mode, strength)
    refinements.check(mode)
    reflected = refinements.steps(len(levels) - 1, lam)
    inner = strong if reflector is None else reflector
    if lagging is not None:
        if reflector is not None or together is not None:
            raise ValueError("lagging takes the main steps' predictions: leave reflector and together out")
        strong, inner = lagging.remembering(strong), lagging.recalled(strong)

    def reflection(i: int, x: Tensor) -> Tensor | None:
        if i not in reflected:
            return None
        return reflected_latent(
            x,
            levels[i : i + 3],
            inner,
            weak,
            path,
            mode=mode,
            strength=strength,
            refinements=refinements,
            together=together,
            draw=draw,
        )

    return sample_reflected(
        x, levels, strong, reflection, path, main_step=main_step, on_step=on_step, on_reflect=on_reflect
    )


def sample_reflected(
    x: Tensor,
    levels: Sequence[Level],
    strong: Denoiser,
    reflection: Reflection,
    path: Path,
    *,
    num_reflections: int | None = None,
    main_step: MainStep | None = None,
    on_step: OnStep | None = None,
    on_reflect: OnReflect | None = None,
) -> Tensor:
    """The latent at the last level, the first lambda steps reflected in a way of one's own (Alg. 1 with any line 7).

    Args:
        x, levels, strong, path, main_step, on_step: as for `sample`.
        reflection: see `Reflection`.
        num_reflections: lambda, counted from the noisiest step, 0 to T; None is T, so that ``reflection`` decides.
        on_reflect: see `OnReflect`; not called for a step left unreflected.

    Returns:
        Latent of the shape of ``x``, float32 (float64 for a float64 ``x``).

    Raises:
        ValueError: as for `sample`, or for a lambda that cannot be had.
    """
    check_chain(levels)
    lam = len(levels) - 1 if num_reflections is None else num_reflections
    if not 0 <= lam < len(levels):
        raise ValueError(f"num_reflections must be from 0 to {len(levels) - 1}, got {num_reflections}")
    step = path.step if main_step is None else main_step

    def advance(i: int, x: Tensor) -> Tensor:
        tilde = reflection(i, x) if i < lam else None
        if tilde is not None:
            if on_reflect is not None:
                on_reflect(i, x, tilde)
            x = tilde
        return step(x, strong(x, levels[i]), levels[i], levels[i + 1])

    return _run(x, levels, path, advance, on_step)


def autoguided(
    x: Tensor,
    levels: Sequence[Level],
    strong: Denoiser,
    weak: Denoiser,
    path: Path,
    *,
    weight: float = 1.0,
    main_step: MainStep | None = None,
    together: Together | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """The latent at the last level by auto-guidance: good + weight * (good - bad) (Eq. 36-38). 2 T evaluations.

    The baseline of App. E.5: to first order, W2SD is this with weight 1. The combination is made of the predictions,
    in which a step is affine: of first order, it is that of the two latents. Arguments, result and errors as for
    `sample`; ``together``: see `Together`, in place of strong and weak.
    """
    step = path.step if main_step is None else main_step

    def advance(i: int, x: Tensor) -> Tensor:
        level = levels[i]
        good, bad = (strong(x, level), weak(x, level)) if together is None else together(x, level)
        good = like(good, x)
        return step(x, torch.add(good, good - like(bad, x), alpha=weight), level, levels[i + 1])

    return _run(x, levels, path, advance, on_step)


def _run(
    x: Tensor,
    levels: Sequence[Level],
    path: Path,
    advance: Callable[[int, Tensor], Tensor],
    on_step: OnStep | None,
) -> Tensor:
    check_chain(levels)
    path.check(levels)
    if not x.is_floating_point():
        raise ValueError(f"the latent must be a floating-point tensor, got {x.dtype}")
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    for i in range(len(levels) - 1):
        x = advance(i, x)
        if on_step is not None:
            try:
                replaced = on_step(i, x)
            except StopSampling as stop:
                return stop.latent
            x = x if replaced is None else replaced.to(x.dtype)
    return x


def check_reflections(num_reflections: int | None, levels: Sequence[Level], mode: str, strength: float) -> int:
    """Lambda, T - 1 where it is None; ValueError for an unknown mode, or a lambda or a strength that cannot be had."""
    if not math.isfinite(strength):
        raise ValueError(f"strength must be a finite number (1 is W2SD), got {strength}")
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    num_steps = len(levels) - 1
    last_inverts = mode == "fused" or (mode == "paper" and levels[-1].sigma > 0)
    most = num_steps if last_inverts else num_steps - 1
    if num_reflections is None:
        return num_steps - 1
    if not (isinstance(num_reflections, int) and 0 <= num_reflections <= most):
        reason = "" if last_inverts else f" (the last one cannot be inverted in mode {mode!r} on this schedule)"
        raise ValueError(
            f"num_reflections must be a whole number from 0 to {most} for {num_steps} steps{reason}; "
            f"got {num_reflections!r}"
        )
    return num_reflections
