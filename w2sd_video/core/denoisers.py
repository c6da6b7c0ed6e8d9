"""What a sampling loop is given: denoisers, those made of others (guidance, auto-guidance), and callbacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, final

import torch
from torch import Tensor

from w2sd_video.core.levels import Level
from w2sd_video.core.paths import by_sample, like

Denoiser = Callable[[Tensor, Level], Tensor]
"""The native prediction (eps on a noise path, v on a flow path) for a latent; the level says which timestep the network
is passed, and the latent need not be at it."""

JointDenoiser = Callable[[Tensor, Level], tuple[Tensor, Tensor]]
"""The predictions of the strong and of the weak side for one latent, where both can be had in one evaluation."""

GapDenoiser = Callable[[Tensor, Level], "tuple[Tensor, Tensor | None]"]
"""The prediction of the sampling step, and the gap weak - strong at the same latent, None where it is not known."""

Combine = Callable[[int, Tensor, Tensor], Tensor]
"""One prediction of step i from those of the strong and the weak side."""

NoiseSampler = Callable[[Tensor], Tensor]
"""Standard normal noise of the shape, dtype and device of a latent."""

Callback = Callable[[int, Tensor], "Tensor | None"]
"""Called after step i with the latent at levels[i + 1]; a returned tensor replaces it."""

OnReflect = Callable[[int, Tensor, Tensor], None]
"""Called after the reflection of step i with x and x~, both at levels[i]."""


class Reflection(Protocol):
    """What `sample` needs of a reflection: x~ at the level of ``x``, or None where step i is not reflected."""

    def reflect(self, i: int, x: Tensor) -> Tensor | None: ...


def lerp_guidance(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """The guided prediction ``unconditional + scale * (conditional - unconditional)``, in float32 or better.

    A lerp returns exactly ``unconditional`` at scale 0 and exactly ``conditional`` at scale 1 (the sum above misses in
    a third of all elements), so that leaving out the half that does not count changes nothing. ValueError for
    predictions of two shapes.
    """
    if unconditional.shape != conditional.shape:
        raise ValueError(
            f"guidance needs two predictions of one shape, got {tuple(unconditional.shape)} (unconditional) "
            f"and {tuple(conditional.shape)} (conditional)"
        )
    dtype = torch.promote_types(conditional.dtype, torch.float32)
    return torch.lerp(unconditional.to(dtype), conditional.to(dtype), float(scale))


def autoguidance(
    strong: Denoiser,
    weak: Denoiser,
    weight: float = 1.0,
    *,
    joint: JointDenoiser | None = None,
    guided: Mapping[Level, int] | None = None,
    combine: Combine | None = None,
) -> Denoiser:
    """The denoiser ``strong + weight * (strong - weak)`` (Eq. 36-38). Two evaluations, or one of ``joint``.

    The baseline of App. E.5: to first order, W2SD is sampling with this at weight 1. The combination is made of the
    predictions, in which a step is affine: of first order, it is that of the two latents. `guided` are the levels where
    it is done, with the number of their step (None: at all of them); elsewhere the strong side is asked alone.
    `combine` makes the prediction in the place of that sum.
    """

    def combined(x: Tensor, level: Level) -> Tensor:
        if guided is not None and level not in guided:
            return strong(x, level)
        good, bad = (strong(x, level), weak(x, level)) if joint is None else joint(x, level)
        good, bad = like(good, x), like(bad, x)
        if combine is None:
            return torch.add(good, good - bad, alpha=weight)
        return combine(0 if guided is None else guided[level], good, bad)

    return combined


def by_choice(second: Tensor, first_model: Denoiser, second_model: Denoiser) -> Denoiser:
    """The denoiser of the second model where ``second`` [B], of the first elsewhere; evaluates only those needed."""

    def denoiser(x: Tensor, level: Level) -> Tensor:
        count = int(second.sum())
        if count in (0, len(second)):
            return (second_model if count else first_model)(x, level)
        return chosen(second, second_model(x, level), first_model(x, level))

    return denoiser


def chosen(one: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """``yes`` [B, ...] of the samples where ``one`` [B], on any device, and ``no`` of the others."""
    return torch.where(by_sample(one.to(yes.device), yes), yes, no)


def with_gap(
    strong: Denoiser, weak: Denoiser, *, reflector: Denoiser | None = None, joint: JointDenoiser | None = None
) -> GapDenoiser:
    """The strong model with the gap beside it: two evaluations, three with a ``reflector`` (the strong model as it
    reflects). ``joint`` makes the two sides of the gap in the place of the two."""
    inner = strong if reflector is None else reflector

    def measured(x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        inside, outside = (inner(x, level), weak(x, level)) if joint is None else joint(x, level)
        return (inside if reflector is None else strong(x, level)), like(outside, x) - like(inside, x)

    return measured


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
