"""The sampler of a hosted call and its settings (imports no torch)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from w2sd_video.errors import UserError
from w2sd_video.pair import ReflectionConfig

_MOVE = ("every", "window", "fixed_point", "noise", "cap")
SETTINGS: Mapping[str, tuple[str, ...]] = {
    "w2sd": ("num_reflections", "mode", "strength", "reflector", *_MOVE, "lag"),
    "w2sd-auto": ("num_reflections", "mode", "strength", *_MOVE),
    "resample": ("num_reflections", "reflector", "every", "window"),
    "resample-aligned": ("num_reflections", "mode", "reflector", "every", "window"),
    "resample-opposed": ("num_reflections", "mode", "reflector", "every", "window"),
    "autoguided": ("strength",),
}
"""Of each method, the fields of `ReflectionConfig` that it has."""

METHODS = tuple(SETTINGS)


@dataclass(frozen=True)
class Method:
    """The sampler and its settings: `name` is one of `METHODS`, the rest is as in `ReflectionConfig` and `reflected`.

    Make one with `method_of`, which checks what goes together.
    """

    name: str = "w2sd"
    num_reflections: int | None = None
    mode: str = "paper"
    strength: float = 1.0
    first_order: bool = False
    every: int = 1
    window: tuple[float, float] = (0.0, 1.0)
    fixed_point: int = 0
    noise: float = 0.0
    cap: float | None = None
    lag: bool = False

    @property
    def plain(self) -> bool:
        """Whether this is plain sampling, whatever the sides."""
        return self.num_reflections == 0 and self.name != "autoguided"

    def steps(self, num_steps: int) -> tuple[int, ...]:
        """The reflected ones of so many steps, as `core.Refinements.steps` has them."""
        if self.name == "autoguided":
            return ()
        lam = num_steps - 1 if self.num_reflections is None else self.num_reflections
        first, end = (math.ceil(edge * num_steps - 1e-9) for edge in self.window)
        return tuple(range(first, min(end, lam), self.every))

    def costs(self, num_steps: int) -> list[int]:
        """The evaluations of each of so many steps; a step whose inversion cannot be refined has fewer, and samples of
        a batch that choose different sides ("w2sd-auto") more."""
        if self.name == "autoguided":
            return [2] * num_steps
        costs = [1] * num_steps
        for i in self.steps(num_steps):
            if i < num_steps:
                costs[i] += self._reflection_costs(first_step=i == 0)
        return costs

    def evaluations(self, num_steps: int) -> int:
        """The evaluations of so many steps, all in all: the sum of `costs`."""
        return sum(self.costs(num_steps))

    def _reflection_costs(self, *, first_step: bool) -> int:
        if self.name == "resample":
            return 1
        if self.name == "w2sd-auto":
            return 3 + self.fixed_point if self.mode == "paper" else 2
        return 2 + self.fixed_point - (self.lag and not first_step)


def method_of(name: str, config: ReflectionConfig, *, first_order: bool = False) -> Method:
    """Returns the method of that name with these settings.

    Raises:
        UserError: an unknown name, or a setting that this method has not.
    """
    if name not in METHODS:
        raise UserError(f"method is {name!r}; choose one of {', '.join(METHODS)}")
    taken, default = SETTINGS[name], ReflectionConfig()
    given = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    for setting, value in given.items():
        if setting not in taken and value != getattr(default, setting):
            raise UserError(
                f"{setting} is {_shown(value)}, and {_without(name)}: it takes {', '.join(taken)}; leave {setting} out"
            )
    if config.mode == "release" and name != "w2sd":
        raise UserError(
            f'mode "release" repeats the published code, which has no {name}; choose mode "paper" or "fused"'
        )
    del given["reflector"]
    return Method(name, first_order=first_order, **{**given, "strength": float(config.strength)})


def _without(name: str) -> str:
    if name == "autoguided":
        return 'method "autoguided" makes no reflections'
    return f"method {name!r} has no such setting"


def _shown(value: object) -> str:
    return repr(value) if not dataclasses.is_dataclass(value) else "given"
