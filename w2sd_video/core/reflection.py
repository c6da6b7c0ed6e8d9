"""The paper: how the latent of a step is reflected by Algorithm 1 (`W2SD`), 2 (`AutoSelect`), 3 and 4 (`Resample`).

A reflection is an object with ``reflect(i, x)``: the latent x~ to make step i from in the place of x, both at level i;
None where step i is not reflected. The loop around it is `sampling.sample`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from w2sd_video.core.levels import Level, check_chain
from w2sd_video.core.options import ReflectionConfig
from w2sd_video.core.paths import Path, like, renoised
from w2sd_video.core.selection import Selector
from w2sd_video.core.variations import Denoiser, NoiseSampler, bounded, by_sample, invert

JointDenoiser = Callable[[Tensor, Level], tuple[Tensor, Tensor]]
"""The predictions of the strong and of the weak side for one latent, where both can be had in one evaluation."""

AS_PRINTED = ReflectionConfig()


class Reflection(Protocol):
    """What `sample` needs of a reflection."""

    def reflect(self, i: int, x: Tensor) -> Tensor | None: ...


def reflect(
    x: Tensor, start: Level, end: Level, strong: Denoiser, weak: Denoiser, path: Path, *, fixed_point: int = 0
) -> Tensor:
    """The reflected latent x~ of ``x``: M_inv^w(M^s(x)) (Alg. 1 line 7, Eq. 4). Two evaluations, in sequence.

    Args:
        x: latent at ``start``, any shape, float32 or float64.
        start: the level of ``x`` and of the result; both networks are passed its timestep.
        end: the next, cleaner level, where the weak network is evaluated.
        strong, weak: denoisers of the step start -> end, and of its inversion end -> start.
        path: what the predictions mean.
        fixed_point: see `invert`; an evaluation each.

    Returns:
        The latent at ``start``. Equal networks restore ``x`` only to first order: see `reflect_fused`.
    """
    lower = path.step(x, strong(x, start), start, end)
    return invert(lower, start, end, weak, path, fixed_point=fixed_point)


def reflect_fused(
    x: Tensor,
    start: Level,
    end: Level,
    strong: Denoiser,
    weak: Denoiser,
    path: Path,
    *,
    strength: float = 1.0,
    joint: JointDenoiser | None = None,
) -> Tensor:
    """The reflected latent with both networks at (x, start): x + strength * c * (weak - strong) (Eq. 5, Theorem 1).

    The two evaluations are independent, so ``joint``, where given, makes both. Written as a difference: equal
    predictions return ``x`` bit for bit, which the same computation as two steps does not. Arguments as for `reflect`.
    """
    from_strong, from_weak = (strong(x, start), weak(x, start)) if joint is None else joint(x, start)
    return torch.add(x, like(from_weak, x) - like(from_strong, x), alpha=strength * path.gap_coefficient(start, end))


def reflect_release(
    x: Tensor, start: Level, end: Level, after: Level, strong: Denoiser, weak: Denoiser, path: Path
) -> Tensor:
    """The reflected latent with the coefficients of the published code, to reproduce its images only.

    The published inversion passes `timesteps[i + 1]` to DDIMInverseScheduler, which reads it as the level to arrive at:
    the coefficients are those of the interval after -> end, one level below end -> start. So no gap is not no change.
    Arguments as for `reflect`; ``after`` is the level after ``end``.
    """
    lower = path.step(x, strong(x, start), start, end)
    return path.step(lower, weak(lower, start), after, end)


def reflected_latent(
    x: Tensor,
    levels: Sequence[Level],
    strong: Denoiser,
    weak: Denoiser,
    path: Path,
    options: ReflectionConfig = AS_PRINTED,
    joint: JointDenoiser | None = None,
    noise_sampler: NoiseSampler = torch.randn_like,
) -> Tensor:
    """The reflected latent of the step from ``levels[0]`` to ``levels[1]`` in the options' mode, with all they add.

    Arguments as for `W2SD`; mode "release" needs ``levels[2]``.
    """
    start, end, strength = levels[0], levels[1], float(options.strength)
    if options.mode == "fused":
        tilde = reflect_fused(x, start, end, strong, weak, path, strength=strength, joint=joint)
    else:
        if options.mode == "release":
            tilde = reflect_release(x, start, end, levels[2], strong, weak, path)
        else:
            tilde = reflect(x, start, end, strong, weak, path, fixed_point=options.fixed_point)
        tilde = tilde if strength == 1 else torch.lerp(x, tilde, strength)
    return bounded(x, tilde, options, noise_sampler)


@final
@dataclass
class W2SD:
    """Algorithm 1: the first lambda of T steps denoise with the strong model and invert with the weak one (line 7).

    T + 2 lambda evaluations with those of the sampling steps. Line 9 reads x~ also where no reflection was made; there
    it is x.

    Args:
        levels: T + 1 levels, noisiest first.
        strong: the strong model as used inside the reflection (App. C.1).
        weak: denoiser of the inversion.
        path: what the predictions mean.
        options: every setting but ``lag``, for which ``strong`` is to be `CachedDenoiser.recall`.
        joint: in mode "fused" both sides of a reflection, in place of ``strong`` and ``weak``.
        noise_sampler: of the noise that the options may add.

    Raises:
        ValueError: levels that are no sampling grid, or have fewer steps than the options reflect.
    """

    levels: Sequence[Level]
    strong: Denoiser
    weak: Denoiser
    path: Path
    options: ReflectionConfig = AS_PRINTED
    _: KW_ONLY
    joint: JointDenoiser | None = None
    noise_sampler: NoiseSampler = torch.randn_like

    def __post_init__(self) -> None:
        self.steps = _reflected_steps(self.levels, self.options, "w2sd")

    def reflect(self, i: int, x: Tensor) -> Tensor | None:
        if i not in self.steps:
            return None
        models, more = (self.strong, self.weak, self.path), (self.joint, self.noise_sampler)
        return reflected_latent(x, self.levels[i : i + 3], *models, self.options, *more)


@final
@dataclass
class AutoSelect:
    """Algorithm 2: before each reflection a reward picks, sample by sample, the stronger of two models.

    Sample with `strong`, the model chosen last (the first one before any choice). The two predictions that are compared
    serve as the strong model's in the reflection, and in mode "fused" as the weak one's too: T + 3 lambda evaluations
    in mode "paper" and T + 2 lambda in mode "fused" (as printed T + 4 lambda). Where the samples of a batch choose
    differently, both models are evaluated where one would do, and each sample takes its own.

    Args:
        levels, path, options, noise_sampler: as for `W2SD`, but for mode "release" and ``lag``.
        first, second: the two models.
        selector: a new `Selector`, which keeps the choices.
        joint: the predictions of the first and of the second in one evaluation.

    Raises:
        ValueError: as for `W2SD`, or settings that this algorithm does not have; while reflecting as for `Selector`.
    """

    levels: Sequence[Level]
    first: Denoiser
    second: Denoiser
    path: Path
    selector: Selector
    options: ReflectionConfig = AS_PRINTED
    _: KW_ONLY
    joint: JointDenoiser | None = None
    noise_sampler: NoiseSampler = torch.randn_like

    def __post_init__(self) -> None:
        self.steps = _reflected_steps(self.levels, self.options, "w2sd-auto")

    def strong(self, x: Tensor, level: Level) -> Tensor:
        """The predictions of the model that is the stronger one for each sample."""
        choices = self.selector.choices
        return self._chosen(choices[-1], x, level) if choices else self.first(x, level)

    def reflect(self, i: int, x: Tensor) -> Tensor | None:
        if i not in self.steps:
            return None
        level, path, both = self.levels[i], self.path, self.joint
        predictions = (self.first(x, level), self.second(x, level)) if both is None else both(x, level)
        one, other = (like(prediction, x) for prediction in predictions)
        second = self.selector.select(path.clean(x, one, level), path.clean(x, other, level))
        better, worse = _where(second, other, one), _where(second, one, other)

        def weak(x: Tensor, level: Level) -> Tensor:
            return self._chosen(~second, x, level)

        models, more = (lambda *_: better, weak, path), (lambda *_: (better, worse), self.noise_sampler)
        return reflected_latent(x, self.levels[i : i + 3], *models, self.options, *more)

    def _chosen(self, second: Tensor, x: Tensor, level: Level) -> Tensor:
        """The predictions of the second model where ``second`` [B], of the first elsewhere; only those needed."""
        count = int(second.sum())
        if count in (0, len(second)):
            return (self.second if count else self.first)(x, level)
        return _where(second, self.second(x, level), self.first(x, level))


@final
@dataclass
class Resample:
    """Algorithm 3: the step is made and noised back. With a weak model Algorithm 4: noise that agrees with W2SD's move.

    T + lambda evaluations, and T + 2 lambda with ``weak``. What is noised is the latent the step arrived at: the
    printed ``Add_Noise(x_t)`` taken at its word noises x_t a second time, which destroys the distribution. Algorithm 4
    accepts noise whose cosine with x~ - x is above zero, its control of Table 15 below. Half of all draws are, sign for
    sign, so the printed rejection loop is a sign flip: same distribution, one draw. The push along the move is
    sqrt(2 / pi) standard deviations of the noise, whatever the size of the gap.

    Args:
        levels, strong, path, noise_sampler: as for `W2SD`.
        options: lambda, ``every``, ``window``, and the mode for Algorithm 4.
        weak: the model of the inversion; None for Algorithm 3.
        opposed: the control: noise on the other side of the gap.

    Raises:
        ValueError: as for `W2SD`, or settings that this algorithm does not have.
    """

    levels: Sequence[Level]
    strong: Denoiser
    path: Path
    options: ReflectionConfig = AS_PRINTED
    _: KW_ONLY
    weak: Denoiser | None = None
    opposed: bool = False
    noise_sampler: NoiseSampler = torch.randn_like

    def __post_init__(self) -> None:
        name = "resample" if self.weak is None else "resample-opposed" if self.opposed else "resample-aligned"
        self.steps = _reflected_steps(self.levels, self.options, name)

    def reflect(self, i: int, x: Tensor) -> Tensor | None:
        if i not in self.steps:
            return None
        path, start, end = self.path, self.levels[i], self.levels[i + 1]
        from_strong = self.strong(x, start)
        lower = path.step(x, from_strong, start, end)
        if self.weak is None:
            return renoised(lower, end, start, self.noise_sampler(x))
        if self.options.mode == "fused":
            move = (like(self.weak(x, start), x) - like(from_strong, x)) * path.gap_coefficient(start, end)
        else:
            move = path.step(lower, self.weak(lower, start), end, start) - x
        noise = self.noise_sampler(x)
        along = (noise * move).reshape(len(x), -1).sum(1) * (-1 if self.opposed else 1)
        signs = torch.where(along < 0, -1.0, 1.0).to(noise.dtype)
        return renoised(lower, end, start, noise * by_sample(signs, x))


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

    def __post_init__(self) -> None:
        self.steps = _reflected_steps(self.levels, self.options, "w2sd")

    def reflect(self, i: int, x: Tensor) -> Tensor | None:
        if i not in self.steps:
            return None
        tilde = self.function(x, self.levels[i], self.levels[i + 1])
        return None if tilde is None else bounded(x, tilde, self.options, self.noise_sampler)


def _reflected_steps(levels: Sequence[Level], options: ReflectionConfig, method: str) -> tuple[int, ...]:
    check_chain(levels)
    options.check_method(method)
    options.check_levels(levels, method)
    return options.steps(len(levels) - 1, method)


def _where(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(by_sample(chosen.to(one.device), one), one, other)
