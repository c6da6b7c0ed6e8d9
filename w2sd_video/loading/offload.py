"""Where the networks of a pair live while they wait: on the device, or on the host until they are called."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNetMotionModel

from w2sd_video.errors import UserError
from w2sd_video.loading.memory import share_equal_tensors

OFFLOADS = ("none", "model", "sequential", "group")
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")


def check_offload(offload: str | None, device: str) -> str:
    """Returns the kind of offloading, "none" for None.

    Raises:
        UserError: an unknown kind, or offloading asked for where there is nothing to offload from.
    """
    kind = offload or "none"
    if kind not in OFFLOADS:
        raise UserError(f"offload is {offload!r}; choose one of {', '.join(OFFLOADS)}")
    if kind != "none" and torch.device(device).type == "cpu":
        raise UserError(f"offload {kind!r} keeps networks off an accelerator, but the device is cpu; leave offload out")
    return kind


def place(pipe: Any, weak: Any, device: torch.device, offload: str) -> None:
    """Put a strong pipeline and a weak network (or pipeline) on `device`, or leave them to be fetched when called.

    "model" moves whole networks in turn. The weak network then takes no turn of its own: strong and weak alternate many
    times, so once called it stays on the device beside the strong one. "group" and "sequential" fetch layer by layer.
    """
    parts = _own_parts(pipe, weak)
    if offload == "none":
        pipe.to(device)
        for module in parts:
            module.to(device)
        network = weak if isinstance(weak, UNetMotionModel) else weak.unet
        for module in (network, pipe.motion_adapter):
            share_equal_tensors(pipe.unet, module)  # moving parameters keeps them shared, moving buffers does not
    elif offload == "model":
        from accelerate import cpu_offload_with_hook

        pipe.enable_model_cpu_offload(device=device)
        for module in parts:
            cpu_offload_with_hook(module, device)
    elif offload == "sequential":
        from accelerate import cpu_offload

        pipe.enable_sequential_cpu_offload(device=device)
        for module in parts:
            cpu_offload(module, device, offload_buffers=len(module._parameters) > 0)
    else:
        from diffusers.hooks import apply_group_offloading

        settings = {"offload_type": "leaf_level", "use_stream": device.type == "cuda"}
        pipe.enable_group_offload(onload_device=device, **settings)
        for module in parts:
            apply_group_offloading(module, onload_device=device, **settings)


def _own_parts(pipe: Any, weak: Any) -> list[torch.nn.Module]:
    """The modules of the weak side that the strong pipeline does not hold."""
    if isinstance(weak, UNetMotionModel):
        return [weak]
    parts = [weak.unet, *(getattr(weak, name) for name in TEXT_ENCODERS)]
    held = {id(module) for module in pipe.components.values()}
    return [module for module in parts if module is not None and id(module) not in held]
