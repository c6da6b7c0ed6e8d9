"""Our sampler's step inside a pipeline's loop: the method's parts on one schedule, whoever makes the evaluations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from w2sd_video.core import (
    W2SD,
    AutoSelect,
    CachedDenoiser,
    CachedGap,
    CustomReflection,
    Denoiser,
    GapDenoiser,
    JointDenoiser,
    NoisePath,
    NoiseSampler,
    Observed,
    OnReflect,
    Reflection,
    ReflectionConfig,
    Resample,
    Selector,
    autoguidance,
)
from w2sd_video.hosting.guiders import combine_by
from w2sd_video.hosting.run import EvaluationBar, FiniteWatch, Run
from w2sd_video.hosting.sides import Side, Sides
from w2sd_video.latents.layouts import mean_over_latent_frames
from w2sd_video.latents.schedules import Schedule

if TYPE_CHECKING:
    from w2sd_video.hosting.cross_latent import CrossLatentSide


@dataclass(frozen=True)
class Sampler:
    """What to do in one pipeline call, and what to report to.

    Attributes:
        method, options: as for `reflected`.
        sides: what is evaluated.
        run: where to count.
        noise_sampler: of methods that draw noise.
        selector: of "w2sd-auto": makes it, once the latents are known.
        cross_latent: a weak side in another latent space, in place of that of `sides`.
        first_order: whether steps of a multistep scheduler are of first order.
        on_reflect: called after each reflection.
    """

    method: str
    options: ReflectionConfig
    sides: Sides
    run: Run
    noise_sampler: NoiseSampler
    selector: Callable[[Tensor], Selector]
    cross_latent: CrossLatentSide | None = None
    first_order: bool = False
    on_reflect: OnReflect | None = None
    bar: list[EvaluationBar] = field(default_factory=list)  # at most one, once the pipeline has made it


class Sampling:
    """A `Sampler` on one schedule: `advance` makes its steps, by evaluations of the sides.

    Args:
        sampler: what to do.
        schedule: the levels.
        sample: the latents at their beginning, for their shape.
        name: of the pipeline's class.
        num_frames: of latents packed as tokens, where the network is told it.
        denoiser: makes a side a function of (x, level), to be evaluated at the current step.
        joint: the same of a side and the weak one together.
        measured: the strong side as it samples and the gap of both sides, at one latent.
        watch: told of each latent.
        begun_again: whether a step may be left and begun again, so that its reflection counts at its end only.
    """

    def __init__(
        self,
        sampler: Sampler,
        schedule: Schedule,
        sample: Tensor,
        *,
        name: str,
        num_frames: Any = None,
        denoiser: Callable[[Side], Denoiser],
        joint: Callable[[Side], JointDenoiser],
        measured: GapDenoiser,
        watch: FiniteWatch,
        begun_again: bool = False,
    ) -> None:
        self._begun_again = begun_again
        self._reflected: list[tuple[int, Tensor, Tensor]] = []
        self._sampler, self._schedule, self._watch = sampler, schedule, watch
        self._costs, self._owed = sampler.options.costs(schedule.num_steps, sampler.method), 0
        method, options, sides = sampler.method, sampler.options, sampler.sides
        levels, path = schedule.levels, schedule.path
        own: dict[str, Any] = {"noise_sampler": sampler.noise_sampler}
        if options.motion_strength != 1 and not options.plain(method):
            own["still"] = mean_over_latent_frames(name, sample.shape, num_frames)
        strong, reflector, weak = (denoiser(side) for side in (sides.strong, sides.reflector, sides.weak))
        reflection: Reflection | None = None
        if options.plain(method):
            pass
        elif method == "autoguided":
            guided = {levels[i]: i for i in options.guided_steps(schedule.num_steps)}
            flow = not isinstance(path, NoisePath)
            combine = combine_by(options.guider, options.strength, schedule.num_steps, flow=flow)
            both = joint(sides.strong)
            strong = autoguidance(strong, weak, options.strength, joint=both, guided=guided, combine=combine)
        elif options.gap_every is not None:
            cached = CachedGap(levels, strong, measured, path, options, **own)
            reflection, strong = cached, cached.strong
        elif sampler.cross_latent is not None:
            across = partial(sampler.cross_latent.reflect, strong=reflector)
            reflection = CustomReflection(levels, across, options, **own)
        elif method == "w2sd-auto":
            both, selector = joint(sides.strong), sampler.selector(sample)
            auto = AutoSelect(levels, strong, weak, path, selector, options, joint=both, **own)
            reflection, strong = auto, auto.strong
        elif method == "w2sd" and options.lag:
            strong = lagging = CachedDenoiser(strong)
            reflection = W2SD(levels, lagging.recall, weak, path, options, **own)
        elif method == "w2sd":
            both = joint(sides.reflector)
            reflection = W2SD(levels, reflector, weak, path, options, joint=both, **own)
        else:
            other, opposed = None if method == "resample" else weak, method == "resample-opposed"
            reflection = Resample(levels, reflector, path, options, weak=other, opposed=opposed, **own)
        self._strong = strong
        self._reflection = None if reflection is None else Observed(reflection, self._on_reflect)
        self._solver = schedule.solver
        self._state = self._solver.init()

    def advance(self, i: int, x: Tensor) -> Tensor:
        """Step i of the sampling loop, as `core.sample` makes it, with the sides as they are at the pipeline's step."""
        start, end = self._schedule.levels[i : i + 2]
        self._owed, self._reflected = self._costs[i], []
        tilde = None if self._reflection is None else self._reflection.reflect(i, x)
        x = x if tilde is None else tilde
        x, self._state = self._solver.step(x, self._strong(x, start), start, end, self._state)
        for bar in self._sampler.bar if self._owed else ():  # evaluations that this step did without
            bar.advance(self._owed)
        for made in self._reflected:
            self._count(*made)
        return x

    def evaluated(self) -> None:
        """Counts an evaluation of a side."""
        self._sampler.run._counter.evaluations += 1
        for bar in self._sampler.bar if self._owed else ():
            self._owed -= 1
            bar.advance()

    def _on_reflect(self, i: int, x: Tensor, tilde: Tensor) -> None:
        if self._begun_again:
            self._reflected.append((i, x, tilde))
        else:
            self._count(i, x, tilde)

    def _count(self, i: int, x: Tensor, tilde: Tensor) -> None:
        run = self._sampler.run
        run.num_reflections += 1
        run._gaps.append(torch.linalg.vector_norm(tilde - x))
        self._watch.add(i, "the reflection", tilde)
        if self._sampler.on_reflect is not None:
            self._sampler.on_reflect(i, x, tilde)
