"""What plans of pictures have alike on their way to a run: the device they are for, and what run.json says of them."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from w2sd_video.commands.rewards import reward_record
from w2sd_video.runs.runs import library_versions


class PicturePlan(Protocol):
    """A plan of one of the commands: a frozen dataclass with at least these."""

    @property
    def preset(self) -> str: ...
    @property
    def methods(self) -> tuple[str, ...]: ...
    @property
    def prompts(self) -> tuple[str, ...]: ...
    @property
    def num_pictures(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def memory(self) -> str: ...
    def pair_record(self) -> Mapping[str, Any]: ...
    def settings(self) -> Mapping[str, Any]: ...


Plan = TypeVar("Plan", bound=PicturePlan)


def on_device(plan: Plan) -> tuple[Plan, str]:
    """Returns the plan with "auto" resolved, and the device's name; refuses what this machine has not."""
    import torch

    from w2sd_video.loading.memory import memory_plan
    from w2sd_video.loading.placement import choose_device, choose_dtype

    device = choose_device(plan.device)
    dtype = str(choose_dtype(plan.dtype, device)).removeprefix("torch.")
    memory_plan(plan.memory, device)
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    return replace(plan, device=device, dtype=dtype), name  # type: ignore[type-var]


def run_record(plan: PicturePlan, command: str, device_name: str) -> dict[str, Any]:
    """Returns what run.json says of a plan: everything needed to repeat it."""
    seeds: Sequence[int] = range(plan.seed, plan.seed + plan.num_pictures)
    return {
        "command": command,
        "preset": plan.preset,
        "pair": plan.pair_record(),
        "settings": plan.settings(),
        "methods": plan.methods,
        "prompts": plan.prompts,
        "seeds": list(seeds),
        "device": plan.device.partition(":")[0],  # which of several accelerators is no matter
        "dtype": plan.dtype,
        **reward_record(getattr(plan, "reward", None)),
        "versions": library_versions(device_name),
    }
