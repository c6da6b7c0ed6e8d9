"""The sampler of one hosted call: which function of `core` makes a step, and what it keeps between steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from w2sd_video.core import (
    Denoiser,
    Draw,
    Lagging,
    Level,
    MainStep,
    Multistep,
    OnReflect,
    Refinements,
    Selector,
    StopSampling,
    Together,
    autoguided,
    resample,
    resample_aligned,
    sample,
    sample_reflected,
    w2sd,
    w2sd_auto,
)
from w2sd_video.hosting.method import Method
from w2sd_video.latents.schedules import Schedule

Abroad = Callable[[Tensor, Level, Level], "Tensor | None"]
"""A reflection made as a whole by a weak side in another latent space: of (x, start, end)."""

SIMILARITIES = {"resample-aligned": "above", "resample-opposed": "below"}


@dataclass(frozen=True)
class Models:
    """The sides at one step, as functions of (x, level told).

    Attributes:
        strong: as it samples; reflector: as it reflects; weak: the weak side.
        together: see `core.Together`, of the weak side and that form of the strong one that meets it at one latent.
        abroad: in place of `weak`.
    """

    strong: Denoiser
    reflector: Denoiser
    weak: Denoiser
    together: Together | None = None
    abroad: Abroad | None = None


class Sampling:
    """Makes the steps of one call by the method; keeps what a method remembers from step to step.

    `steps` are those that are reflected, `costs` the evaluations of each.

    Args:
        method: what to do.
        schedule: on which levels.
        draw: the noise of methods that draw some.
        selector: of "w2sd-auto".
    """

    def __init__(self, method: Method, schedule: Schedule, draw: Draw, selector: Selector | None = None) -> None:
        self._schedule, self._draw, self._selector = schedule, draw, selector
        self.method = method
        self.steps, self.costs = method.steps(schedule.num_steps), method.costs(schedule.num_steps)
        everywhere = Refinements(method.every, method.window, method.fixed_point, method.noise, method.cap).anywhere
        self._refinements = everywhere
        self._multistep = Multistep(schedule.path) if 2 in schedule.orders else None
        self._lagging = Lagging() if method.lag else None

    def asks_together(self, i: int) -> bool:
        """Whether step i asks both sides at one latent, so that one evaluation may give both."""
        if self.method.name == "autoguided":
            return True
        fused = self.method.name == "w2sd" and self.method.mode == "fused" and self._lagging is None
        return i in self.steps and (fused or self.method.name == "w2sd-auto")

    def advance(self, i: int, x: Tensor, models: Models, on_reflect: OnReflect) -> Tensor:
        """Step i, from `x` at its level: the sampler itself on the levels that step needs, stopped after it."""
        method, schedule = self.method, self._schedule
        levels, path = schedule.levels[i : i + 3], schedule.path
        main_step: MainStep | None = self._multistep and partial(self._multistep, order=schedule.orders[i])
        ends: dict[str, Any] = {"main_step": main_step, "on_step": _stop}
        if method.plain:
            return sample(x, levels, models.strong, path, **ends)
        if method.name == "autoguided":
            weight, together = method.strength, models.together
            return autoguided(x, levels, models.strong, models.weak, path, weight=weight, together=together, **ends)
        ends |= {"num_reflections": int(i in self.steps), "on_reflect": on_reflect}
        if models.abroad is not None:
            return sample_reflected(x, levels, models.strong, self._abroad(models.abroad, levels), path, **ends)
        settings: dict[str, Any] = {**ends, "refinements": self._refinements, "draw": self._draw}
        if method.name == "resample":
            return resample(x, levels, models.strong, path, reflector=models.reflector, **settings)
        settings["mode"] = method.mode
        if method.name in SIMILARITIES:
            settings |= {"reflector": models.reflector, "similarity": SIMILARITIES[method.name]}
            return resample_aligned(x, levels, models.strong, models.weak, path, **settings)
        settings |= {"strength": method.strength, "together": models.together}
        if method.name == "w2sd-auto":
            assert self._selector is not None
            return w2sd_auto(x, levels, models.strong, models.weak, path, self._selector, **settings)
        settings |= {"lagging": self._lagging} if self._lagging else {"reflector": models.reflector}
        return w2sd(x, levels, models.strong, models.weak, path, **settings)

    def _abroad(self, abroad: Abroad, levels: tuple[Level, ...]) -> Callable[[int, Tensor], Tensor | None]:
        def reflection(_: int, x: Tensor) -> Tensor | None:
            tilde = abroad(x, levels[0], levels[1])
            return None if tilde is None else self._refinements.moved(x, tilde, self._draw)

        return reflection


def drawn_by(generator: torch.Generator | list[torch.Generator] | None) -> Draw:
    """Noise as pipelines draw it: by the call's generator, or each sample's by its own of a list."""
    return lambda x: randn_tensor(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def _stop(_: int, x: Tensor) -> Tensor | None:
    raise StopSampling(x)
