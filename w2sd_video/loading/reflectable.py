"""A whole pipeline loaded with a scheduler that can be reflected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from w2sd_video.errors import UserError
from w2sd_video.latents.schedules import check_scheduler, is_flow
from w2sd_video.loading.pipelines import load_pipeline

SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "dpm-solver++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
}


def load_reflectable(
    given: str,
    *,
    role: str,
    dtype: torch.dtype,
    note: Callable[[str], None],
    scheduler: str | None = None,
    config: str | None = None,
    motion_adapter: str | None = None,
    video: bool = False,
    allow_pickle: bool = False,
    quiet: bool = False,
) -> Any:
    """Returns the pipeline of `load_pipeline` with the scheduler asked for, on the pipeline's own noise levels.

    `scheduler` None is the pipeline's own; where that cannot be reflected DDIM (for flows Euler) takes its place, and
    `note` is told so.

    Raises:
        UserError: as `load_pipeline`, or a scheduler that the pipeline cannot have.
    """
    pipe = load_pipeline(
        given,
        role=role,
        dtype=dtype,
        config=config,
        motion_adapter=motion_adapter,
        video=video,
        allow_pickle=allow_pickle,
        quiet=quiet,
    )
    if scheduler is not None:
        pipe.scheduler = chosen_scheduler(pipe.scheduler, scheduler, role)
        return pipe
    try:
        check_scheduler(pipe.scheduler)
    except UserError:
        own = pipe.scheduler
        pipe.scheduler = _flow(own) if is_flow(own) else _noise("ddim", own)
        kinds = [type(scheduler).__name__ for scheduler in (pipe.scheduler, own)]
        note(f"the {role} side samples with {kinds[0]}: its own {kinds[1]} cannot be reflected")
    return pipe


def chosen_scheduler(own: Any, name: str, role: str) -> Any:
    """Returns the scheduler of a name on the noise levels of a pipeline's own; raises `UserError` if it cannot be."""
    if is_flow(own):
        if name != "euler":
            raise UserError(f"the {role} side is a flow, which samples with euler; leave the scheduler {name} out")
        return _flow(own)
    made = _noise(name, own)
    check_scheduler(made)
    return made


def _flow(own: Any) -> Any:
    """Euler on the levels of another flow scheduler, some of which call their shift towards noise another name."""
    shift = {"shift": own.config.flow_shift} if "flow_shift" in own.config else {}
    return FlowMatchEulerDiscreteScheduler.from_config(own.config, **shift)


def _noise(name: str, own: Any) -> Any:
    kind, settings = SCHEDULERS[name]
    return kind.from_config(own.config, clip_sample=False, thresholding=False, **settings)
