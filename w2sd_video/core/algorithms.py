"""The paper (Bai, Sugiyama, Xie, arXiv 2502.00473): Algorithms 1 to 4, and the sampling loop around them.

A denoiser gives the native prediction (eps or v) for a latent and the level whose timestep the network is passed. A
step moves a latent over an interval of levels with one prediction; the order of the ends says whether it denoises or
inverts (`paths`). A reflection's ``reflect(i, x)`` returns x~, from which step i starts instead of ``x``, or None.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import final

import torch
from torch import Tensor

from w2sd_video.core.denoisers import (
    Callback,
    Denoiser,
    JointDenoiser,
    NoiseSampler,
    Reflection,
    by_choice,
    chosen,
)
from w2sd_video.core.levels import Level
from w2sd_video.core.options import AS_PRINTED, ReflectionConfig
from w2sd_video.core.paths import Path, like, renoised
from w2sd_video.core.solvers import Euler, Solver
from w2sd_video.core.variations import (
    Selector,
    Still,
    aligned,
    bounded,
    invert,
    mean_over_frames,
    ready,
    reflect_release,
    reflected_steps,
)
from w2sd_video.errors import UserError


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
    """The latent at the last of T + 1 ``levels`` (noisiest first), sampled from ``x`` at the first, in float32 or 64.

    ValueError for levels that are no sampling grid of ``path``, or an ``x`` that is not floating point. Gradients are
    not switched off, and nothing is read back from the device. Without a solver the steps are `Euler`'s.
    """
    x = ready(x, levels, path)
    solver = Euler(path) if solver is None else solver
    state = solver.init()
    for i, (start, end) in enumerate(itertools.pairwise(levels)):
        tilde = None if reflect is None else reflect.reflect(i, x)
        x = x if tilde is None else tilde
        x, state = solver.step(x, strong(x, start), start, end, state)
        replaced = None if callback is None else callback(i, x)
        x = x if replaced is None else replaced.to(x.dtype)
    return x


def reflect(
    x: Tensor, start: Level, end: Level, strong: Denoiser, weak: Denoiser, path: Path, *, fixed_point: int = 0
) -> Tensor:
    """Mode "paper": x~ = M_inv^w(M^s(x)) (Alg. 1 line 7), the timestep of ``start`` passed to both (Eq. 4).

    Two evaluations. Equal networks restore ``x`` to first order only; for ``fixed_point`` see `invert`.
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
    """Mode "fused": x~ = x + strength * c * (weak - strong), both at (x, start) (Eq. 5, Theorem 1).

    A difference, so equal predictions return ``x`` bit for bit. ``joint`` makes both in the place of the two.
    """
    from_strong, from_weak = (strong(x, start), weak(x, start)) if joint is None else joint(x, start)
    return torch.add(x, like(from_weak, x) - like(from_strong, x), alpha=strength * path.gap_coefficient(start, end))


@final
@dataclass
class W2SD:
    """Algorithm 1: the first lambda of T steps are reflected (line 7), ``strong`` being the model as it reflects.

    T + 2 lambda evaluations. Line 9 reads x~ also where no reflection was made; there it is x.
    """

    levels: Sequence[Level]
    strong: Denoiser
    weak: Denoiser
    path: Path
    options: ReflectionConfig = AS_PRINTED
    _: KW_ONLY
    joint: JointDenoiser | None = None
    noise_sampler: NoiseSampler = torch.randn_like
    still: Still = mean_over_frames

    def __post_init__(self) -> None:
        if self.options.draws:
            raise UserError("draws are of a bridge between latent spaces, not of one: leave draws out")
        self.steps = reflected_steps(self.levels, self.options, "w2sd")

    def reflect(self, i: int, x: Tensor) -> Tensor | None:
        if i not in self.steps:
            return None
        start, end, options, models = *self.levels[i : i + 2], self.options, (self.strong, self.weak, self.path)
        if options.mode == "fused":
            tilde = reflect_fused(x, start, end, *models, strength=options.strength, joint=self.joint)
        else:
            if options.mode == "release":
                tilde = reflect_release(x, start, end, self.levels[i + 2], *models)
            else:
                tilde = reflect(x, start, end, *models, fixed_point=options.fixed_point)
            tilde = tilde if options.strength == 1 else torch.lerp(x, tilde, float(options.strength))
        return bounded(x, tilde, options, self.noise_sampler, self.still)


@final
@dataclass
class AutoSelect:
    """Algorithm 2: a reward picks, sample by sample, which of two models is the strong one; sample with `strong`.

    The two predictions compared serve in the reflection too: T + 3 lambda evaluations in mode "paper", T + 2 lambda
    in mode "fused" (as printed T + 4 lambda), and more where the samples of a batch choose differently.
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
    still: Still = mean_over_frames

    def __post_init__(self) -> None:
        self.steps = reflected_steps(self.levels, self.options, "w2sd-auto")

    def strong(self, x: Tensor, level: Level) -> Tensor:
        """The prediction of the model chosen last, of each sample; of the first one before any choice."""
        choices = self.selector.choices
        return by_choice(choices[-1], self.first, self.second)(x, level) if choices else self.first(x, level)

    def reflect(self, i: int, x: Tensor) -> Tensor | None:
        if i not in self.steps:
            return None
        level, path, joint = self.levels[i], self.path, self.joint
        predictions = (self.first(x, level), self.second(x, level)) if joint is None else joint(x, level)
        one, other = (like(prediction, x) for prediction in predictions)
        second = self.selector.select(path.clean(x, one, level), path.clean(x, other, level))
        better, worse = chosen(second, other, one), chosen(second, one, other)
        models = lambda *_: better, by_choice(~second, self.first, self.second), path
        both, draw = lambda *_: (better, worse), self.noise_sampler
        inner = W2SD(self.levels, *models, self.options, joint=both, noise_sampler=draw, still=self.still)
        return inner.reflect(i, x)


@final
@dataclass
class Resample:
    """Algorithm 3: a step, and noise back; with ``weak`` Algorithm 4: noise that agrees with W2SD's move x~ - x.

    T + lambda evaluations, T + 2 lambda for Algorithm 4. The noise goes on the latent after the step: the printed
    ``Add_Noise(x_t)`` noises x_t twice, which destroys the distribution. The printed rejection loop is a sign flip, as
    half of all noise has a cosine above 0 with the move; ``opposed`` is the control of Table 15.
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
        self.steps = reflected_steps(self.levels, self.options, name)

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
        return renoised(lower, end, start, aligned(self.noise_sampler(x), move, -1 if self.opposed else 1))
