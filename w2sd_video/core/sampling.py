"""W2SD as a function, and reflections that report or are made by a function of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, final

import torch
from torch import Tensor

from w2sd_video.core.algorithms import W2SD, sample
from w2sd_video.core.denoisers import (
    CachedDenoiser,
    Callback,
    Denoiser,
    JointDenoiser,
    NoiseSampler,
    OnReflect,
    Reflection,
    with_gap,
)
from w2sd_video.core.levels import Level
from w2sd_video.core.options import AS_PRINTED, ReflectionConfig
from w2sd_video.core.paths import Path
from w2sd_video.core.solvers import Solver
from w2sd_video.core.variations import CachedGap, Still, bounded, mean_over_frames, reflected_steps


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
    still: Still = mean_over_frames,
    solver: Solver | None = None,
    callback: Callback | None = None,
    on_reflect: OnReflect | None = None,
) -> Tensor:
    """The latent at the last level by W2SD (Alg. 1): `sample` with a `W2SD` reflection, T + 2 lambda evaluations, or
    with a `CachedGap`.

    Args:
        x, levels, path, solver, callback: as for `sample`. The steps of reflections are of first order.
        strong: denoiser of the sampling steps, and of the reflections unless ``reflector`` is given.
        weak: denoiser of the inversions.
        num_reflections: lambda, counted from the noisiest step; None is T - 1.
        mode, strength: as in `ReflectionConfig`.
        reflector: the strong model as used inside the reflection, when it differs from sampling (App. C.1).
        options: the three settings above and all others in one; give either it or them.
        joint, noise_sampler: as for `W2SD`.
        still: of `motion_strength`, for latents that are not [B, C, F, H, W].
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
    reflection: Reflection
    own: dict[str, Any] = {"noise_sampler": noise_sampler, "still": still}
    if options.gap_every is None:
        reflection = W2SD(levels, inner, weak, path, options, joint=joint, **own)
    else:
        measured = with_gap(strong, weak, reflector=reflector, joint=joint)
        reflection = cached_gap = CachedGap(levels, strong, measured, path, options, **own)
        strong = cached_gap.strong
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


@final
@dataclass
class CustomReflection:
    """Reflections made as a whole by a function of (x, start, end), which returns x~, or None to leave that step out.

    The options say which steps it is called for, and the cap and the noise of what it returns.
    """

    levels: Sequence[Level]
    function: Callable[[Tensor, Level, Level], Tensor | None]
    options: ReflectionConfig = AS_PRINTED
    _: KW_ONLY
    noise_sampler: NoiseSampler = torch.randn_like
    still: Still = mean_over_frames

    def __post_init__(self) -> None:
        self.steps = reflected_steps(self.levels, self.options, "w2sd")

    def reflect(self, i: int, x: Tensor) -> Tensor | None:
        if i not in self.steps:
            return None
        tilde = self.function(x, self.levels[i], self.levels[i + 1])
        return None if tilde is None else bounded(x, tilde, self.options, self.noise_sampler, self.still)
