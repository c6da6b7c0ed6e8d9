"""What a weak/strong pair is: frozen settings, known before any model is loaded (imports no torch)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from w2sd_video.errors import UserError

MODES = ("paper", "fused", "release")


@dataclass(frozen=True)
class ModelSpec:
    """What differs on one side of a pair; `None` (or an empty tuple) means "as the strong side".

    `guidance` is the scale of classifier-free guidance, `uncond + guidance * (cond - uncond)`: any finite number, 0
    (the unconditional prediction), 1 (the conditional one) and negative numbers included. On a network whose guidance
    is an input (Flux and other guidance-distilled networks) it is that embedded guidance, unless the call itself runs
    real guidance (`true_cfg_scale` above 1), in which case it is the scale of the real one.
    """

    checkpoint: str | None = None
    guidance: float | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    loras: tuple[tuple[str, float], ...] = ()
    routing: str | None = None
    control: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.guidance is not None and not math.isfinite(self.guidance):
            raise UserError(
                f"guidance is {self.guidance}; it must be a finite number (0, 1 and negative ones are allowed)"
            )

    def settings(self) -> dict[str, Any]:
        """The fields that say something, by name."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in fields.items() if value is not None and value != ()}


@dataclass(frozen=True)
class ModelPair:
    """A strong and a weak side; the gap is whatever differs between them."""

    strong: ModelSpec
    weak: ModelSpec
    name: str = ""


@dataclass(frozen=True)
class ReflectionConfig:
    """How a pair is used.

    `num_reflections` is lambda, counted from the noisiest level (`None`: one fewer than the steps); `mode` one of
    "paper", "fused" and "release"; `strength` multiplies the move each reflection makes; `reflector` says how the
    strong side differs inside the reflection from how it samples (App. C.1 reflects at 1.0 and samples at 5.5).
    """

    num_reflections: int | None = None
    mode: str = "paper"
    strength: float = 1.0
    reflector: ModelSpec | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"mode is {self.mode!r}; choose one of {', '.join(MODES)}")
        if not math.isfinite(self.strength):
            raise UserError(f"strength is {self.strength}; it must be a finite number (1 is the paper's)")
        lam = self.num_reflections
        if lam is not None and (isinstance(lam, bool) or not isinstance(lam, int) or lam < 0):
            raise UserError(f"num_reflections is {lam!r}; it must be a whole number from 0 to the number of steps - 1")


def gap(strong: ModelSpec, weak: ModelSpec) -> dict[str, tuple[Any, Any]]:
    """Returns what differs between the two sides, as {field: (strong value, weak value)}; empty when nothing does.

    A field the weak side leaves out is as on the strong side, so it is no difference.
    """
    ours, theirs = strong.settings(), weak.settings()
    return {name: (ours.get(name), value) for name, value in theirs.items() if ours.get(name) != value}


def check_pair(pair: ModelPair) -> None:
    """Raises `UserError` for a pair whose two sides are the same: that is a control, to be asked for by its name."""
    if not gap(pair.strong, pair.weak):
        raise UserError(
            f"the weak side of pair {pair.name!r} differs in nothing from the strong side; "
            'name what differs, or ask for the control with weak="zero-gap"'
        )
