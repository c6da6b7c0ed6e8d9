"""Algorithm 2: a reward says, sample by sample and step by step, which of two models is the strong one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor

from w2sd_video.core.levels import Level, check_chain
from w2sd_video.core.paths import Path, like
from w2sd_video.core.refinements import AS_PRINTED, Draw, Refinements, reflected_latent
from w2sd_video.core.reflection import Denoiser, Together
from w2sd_video.core.samplers import (
    MainStep,
    OnReflect,
    OnStep,
    check_reflections,
    sample_reflected,
)

Reward = Callable[[Tensor], Tensor]
"""A number per sample [B], higher is better, of clean estimates [B, ...]."""


@final
class Selector:
    """Which of two models is the stronger one for each sample; the first until a reward has told them apart.

    Rewards no further apart than the threshold are a tie, which keeps what was chosen before (the printed algorithm
    then takes the second model, whatever the rewards said so far). Make a new one for each run.

    Args:
        reward: see `Reward`; called twice a selection, for the estimates of the first and of the second model.
        threshold: eps_r of Alg. 2, in the reward's own units, 0 or more.

    Attributes:
        choices: of each selection so far, whether the second model is the stronger one, [B] booleans on
            the host.

    Raises:
        ValueError: a negative threshold; in a selection, rewards that are not one finite number per sample.
    """

    def __init__(self, reward: Reward, threshold: float = 0.0) -> None:
        if not (math.isfinite(threshold) and threshold >= 0):
            raise ValueError(f"the reward's threshold is {threshold}; it must be 0 or more")
        self._reward, self._threshold = reward, threshold
        self.choices: list[Tensor] = []

    def select(self, first: Tensor, second: Tensor) -> Tensor:
        """Choose by the two models' clean estimates [B, ...]: whether the second is the stronger one, [B]."""
        of_first, of_second = self._rewards(first), self._rewards(second)
        lead = of_second - of_first
        before = self.choices[-1] if self.choices else torch.zeros_like(lead, dtype=torch.bool)
        self.choices.append(torch.where(lead.abs() > self._threshold, lead > 0, before))
        return self.choices[-1]

    def _rewards(self, clean: Tensor) -> Tensor:
        rewards = torch.as_tensor(self._reward(clean)).cpu().double()  # some accelerators have no float64
        if rewards.shape != (len(clean),):
            raise ValueError(
                f"the reward returned shape {tuple(rewards.shape)} for {len(clean)} samples; it must return one number "
                f"for each, ({len(clean)},)"
            )
        if not bool(rewards.isfinite().all()):
            raise ValueError(f"the reward returned {rewards.tolist()}; it must return finite numbers")
        return rewards


def w2sd_auto(
    x: Tensor,
    levels: Sequence[Level],
    first: Denoiser,
    second: Denoiser,
    path: Path,
    selector: Selector,
    *,
    num_reflections: int | None = None,
    mode: str = "paper",
    strength: float = 1.0,
    refinements: Refinements = AS_PRINTED,
    draw: Draw = torch.randn_like,
    main_step: MainStep | None = None,
    together: Together | None = None,
    on_step: OnStep | None = None,
    on_reflect: OnReflect | None = None,
) -> Tensor:
    """The latent at the last level, each of the first lambda steps reflected with roles that a reward picks (Alg. 2).

    The two predictions that are compared serve as the strong model's in the reflection, and in mode "fused" as the weak
    one's too. So a reflected step costs 4 evaluations in mode "paper" and 3 in mode "fused": T + 3 lambda and
    T + 2 lambda (as printed T + 4 lambda). Where the samples of a batch choose differently, both models are evaluated
    where one would do, and each sample takes its own. Steps without a reflection keep the choice made last.

    Args:
        x, levels, path, main_step, on_step: as for `sample`.
        first, second: the two models; without reflections, the first alone.
        selector: a new `Selector`.
        num_reflections, mode, strength, refinements, draw, on_reflect: as for `w2sd`, but for mode "release".
        together: the predictions of the first and of the second in one evaluation; see `Together`.

    Returns:
        Latent of the shape of ``x``, float32 (float64 for a float64 ``x``).

    Raises:
        ValueError: as for `w2sd`, or as for `Selector`.
    """
    check_chain(levels)
    lam = check_reflections(num_reflections, levels, mode, strength)
    if mode == "release":
        raise ValueError('mode "release" repeats the published code, which does not select; use "paper" or "fused"')
    refinements.check(mode)
    reflected = refinements.steps(len(levels) - 1, lam)

    def strong(x: Tensor, level: Level) -> Tensor:
        return first(x, level) if not selector.choices else _picked(selector.choices[-1], first, second, x, level)

    def weak(x: Tensor, level: Level) -> Tensor:
        return _picked(~selector.choices[-1], first, second, x, level)

    def reflection(i: int, x: Tensor) -> Tensor | None:
        if i not in reflected:
            return None
        level = levels[i]
        one, other = (first(x, level), second(x, level)) if together is None else together(x, level)
        one, other = like(one, x), like(other, x)
        chosen = selector.select(path.clean(x, one, level), path.clean(x, other, level))
        better, worse = _where(chosen, other, one), _where(chosen, one, other)
        return reflected_latent(
            x,
            levels[i : i + 3],
            lambda *_: better,
            weak,
            path,
            mode=mode,
            strength=strength,
            refinements=refinements,
            together=lambda *_: (better, worse),
            draw=draw,
        )

    return sample_reflected(
        x, levels, strong, reflection, path, main_step=main_step, on_step=on_step, on_reflect=on_reflect
    )


def _picked(second_is: Tensor, first: Denoiser, second: Denoiser, x: Tensor, level: Level) -> Tensor:
    """The predictions of the second model where `second_is` [B], of the first elsewhere; only those that are needed."""
    count = int(second_is.sum())
    if count == 0:
        return first(x, level)
    if count == len(second_is):
        return second(x, level)
    return _where(second_is, second(x, level), first(x, level))


def _where(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(chosen.to(one.device).reshape(-1, *[1] * (one.dim() - 1)), one, other)
