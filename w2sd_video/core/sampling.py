"""The one sampling loop, and W2SD as a function.

Coefficients are Python floats made from the levels, so nothing in the loop reads a tensor back to the host. Gradients
are not switched off here: wrap a call in `torch.no_grad()` when none are wanted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from w2sd_video.core.levels import Level, check_chain
from w2sd_video.core.options import ReflectionConfig
from w2sd_video.core.paths import Path
from w2sd_video.core.reflection import W2SD, JointDenoiser, Reflection
from w2sd_video.core.solvers import Euler, Solver
from w2sd_video.core.variations import CachedDenoiser, Denoiser, NoiseSampler

Callback = Callable[[int, Tensor], "Tensor | None"]
"""Called after step i with the latent at levels[i + 1]; a returned tensor replaces it."""

OnReflect = Callable[[int, Tensor, Tensor], None]
"""Called after the reflection of step i with x and x~, both at levels[i]."""


def sample(
    x: Tensor,
    levels: Sequence[Level],
    strong: Denoiser,
    path: Path,
    *,
    reflect: Reflection | None = None,
    solver: Solver | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """The latent at the last level, sampled from ``x``; each step is made from what its reflection returns.

    Args:
        x: latent at ``levels[0]``, any shape, any floating dtype.
        levels: T + 1 levels, noisiest first.
        strong: denoiser of the sampling steps, giving the native prediction of ``path``. T evaluations.
        path: `NoisePath` or `FlowPath`.
        reflect: a `W2SD`, `AutoSelect`, `Resample`, or anything with their ``reflect(i, x)``; None for plain sampling.
        solver: `Euler` (first order, if None) or `DPMSolverMultistep`.
        callback: see `Callback`.

    Returns:
        Latent of the shape of ``x``, float32 (float64 for a float64 ``x``), whatever the network's dtype.

    Raises:
        ValueError: the levels are not a sampling grid of ``path``, or ``x`` is not floating point.
    """
    check_chain(levels)
    path.check(levels)
    if not x.is_floating_point():
        raise ValueError(f"the latent must be a floating-point tensor, got {x.dtype}")
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    solver = Euler(path) if solver is None else solver
    state = solver.init()
    for i, (start, end) in enumerate(itertools.pairwise(levels)):
        tilde = None if reflect is None else reflect.reflect(i, x)
        x = x if tilde is None else tilde
        x, state = solver.step(x, strong(x, start), start, end, state)
        replaced = None if callback is None else callback(i, x)
        x = x if replaced is None else replaced.to(x.dtype)
    return x


def w2sd(
    x: Tensor,
    levels: Sequence[Level],
    strong: Denoiser,
    weak: Denoiser,
    path: Path,
    *,
    num_reflections: int | None = None,
    mode: str = "paper",
    strength: float = 1.0,
    reflector: Denoiser | None = None,
    options: ReflectionConfig | None = None,
    joint: JointDenoiser | None = None,
    noise_sampler: NoiseSampler = torch.randn_like,
    solver: Solver | None = None,
    callback: Callback | None = None,
    on_reflect: OnReflect | None = None,
) -> Tensor:
    """The latent at the last level by W2SD (Alg. 1): `sample` with a `W2SD` reflection. T + 2 lambda evaluations.

    Args:
        x, levels, path, solver, callback: as for `sample`. The steps of reflections are of first order.
        strong: denoiser of the sampling steps, and of the reflections unless ``reflector`` is given.
        weak: denoiser of the inversions.
        num_reflections: lambda, counted from the noisiest step; None is T - 1.
        mode, strength: as in `ReflectionConfig`.
        reflector: the strong model as used inside the reflection, when it differs from sampling (App. C.1).
        options: the three settings above and all others in one; give either it or them.
        joint, noise_sampler: as for `W2SD`.
        on_reflect: see `OnReflect`; not called for a step left unreflected.

    Returns:
        Latent of the shape of ``x``, float32 (float64 for a float64 ``x``).

    Raises:
        ValueError: as for `sample` and `W2SD`, or settings that do not go together.
    """
    if options is None:
        options = ReflectionConfig(num_reflections, mode, strength)
    elif (num_reflections, mode, strength) != (None, "paper", 1.0):
        raise ValueError("give either options or num_reflections, mode and strength, not both")
    inner = strong if reflector is None else reflector
    if options.lag:
        if reflector is not None or joint is not None:
            raise ValueError("lag takes the sampling steps' predictions: leave reflector and joint out")
        strong = cached = CachedDenoiser(strong)
        inner = cached.recall
    reflection: Reflection = W2SD(levels, inner, weak, path, options, joint=joint, noise_sampler=noise_sampler)
    if on_reflect is not None:
        reflection = Observed(reflection, on_reflect)
    return sample(x, levels, strong, path, reflect=reflection, solver=solver, callback=callback)


@final
@dataclass(frozen=True)
class Observed:
    """A reflection that is reported: ``on_reflect`` is called with each x and x~ (see `OnReflect`)."""

    reflection: Reflection
    on_reflect: OnReflect

    def reflect(self, i: int, x: Tensor) -> Tensor | None:
        tilde = self.reflection.reflect(i, x)
        if tilde is not None:
            self.on_reflect(i, x, tilde)
        return tilde
