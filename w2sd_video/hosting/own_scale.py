"""How a pipeline guides by itself in its loop: its guider, what that remembers, and the scale that is read there."""

from __future__ import annotations

import copy
from typing import Any

from w2sd_video.errors import UserError
from w2sd_video.hosting.sides import Side


def guider_of(pipe: Any) -> Any:
    """The object that guides, where a pipeline has one."""
    return getattr(pipe, "guider", None)


def guider_state(guider: Any) -> dict[str, Any]:
    """What a guider remembers (momentum, step ...), to be put back before each visit of a step."""
    return {} if guider is None else copy.deepcopy({n: v for n, v in vars(guider).items() if n != "_internal_dict"})


def restore_guider(guider: Any, state: dict[str, Any]) -> None:
    if guider is not None:
        vars(guider).update(copy.deepcopy(state))


class OwnScale:
    """Where a pipeline keeps the scale of guidance that it reads in its loop: its guider, or an attribute of its own.

    `offset` is what a side's guidance, uncond + guidance * (cond - uncond), is above that scale.
    """

    def __init__(self, pipe: Any) -> None:
        guider = guider_of(pipe)
        self._holder, self._name = (pipe, "_guidance_scale") if guider is None else (guider, "guidance_scale")
        self.offset = 1.0 if getattr(guider, "use_original_formulation", False) else 0.0
        self._before: float | None = None

    @property
    def value(self) -> float | None:
        scale = vars(self._holder).get(self._name)
        return float(scale) if isinstance(scale, int | float) else None

    def put(self, scale: float | None) -> None:
        """Until the next call the scale is this one; None is the pipeline's own."""
        if self._before is not None:
            setattr(self._holder, self._name, self._before)
        self._before = None if scale is None else self.value
        if scale is not None:
            setattr(self._holder, self._name, scale)


def check_guider(pipe: Any, side: Side) -> None:
    """Raises `UserError` for a side with a network of its own, where a guider changes the pipeline's own."""
    guider = guider_of(pipe)
    bases = type(guider).__mro__
    changes = any("prepare_models" in vars(base) for base in bases if base.__name__ != "BaseGuidance")
    if side.network is not None and changes:
        raise UserError(
            f"the {type(guider).__name__} of this {type(pipe).__name__} changes its own network for one of its "
            "predictions, which another network would do without; use ClassifierFreeGuidance as pipe.guider, or let "
            "the sides differ in a LoRA, guidance or a prompt"
        )
    if side.network is not None and getattr(pipe, "do_perturbed_attention_guidance", False):
        raise UserError(
            f"perturbed-attention guidance changes the attention of this {type(pipe).__name__}'s own network, which "
            "another network would do without; call it with pag_scale=0, or let the sides differ in a LoRA, guidance "
            "or a prompt"
        )
