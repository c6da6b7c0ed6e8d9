"""Which ControlNets a pipeline has, and how much of each is in force at a step: the scale of a side's setting."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from w2sd_video.errors import UserError

# Known to take the latent, to be called once a step, and to hand their outputs to the network as they are.
KNOWN = ("ControlNetModel", "FluxControlNetModel", "SD3ControlNetModel")
MULTIPLE = ("MultiControlNetModel", "FluxMultiControlNetModel", "SD3MultiControlNetModel")
# Arguments of a pipeline's call that are about its ControlNet.
ARGUMENTS = (
    "control_image",
    "conditioning_frames",
    "control_mode",
    "controlnet_conditioning_scale",
    "controlnet_pooled_projections",
    "control_guidance_start",
    "control_guidance_end",
    "guess_mode",
)


@dataclass(frozen=True)
class ControlSetting:
    """How much of each ControlNet: `scales`, in force for the share of the steps between start and end (`windows`)."""

    scales: tuple[float, ...]
    windows: tuple[tuple[float, float], ...]

    def at(self, step: int, num_steps: int) -> tuple[float, ...]:
        """The scales at the pipeline's step, counted from 0: as every diffusers pipeline has it, 0 outside a window."""
        first, last = step / num_steps, (step + 1) / num_steps
        pairs = zip(self.scales, self.windows, strict=True)
        return tuple(scale * (1.0 - float(first < start or last > end)) for scale, (start, end) in pairs)

    def with_scale(self, control: Mapping[str, Any] | None) -> ControlSetting:
        """The same with the scale of a `ModelSpec.control`, None leaving it."""
        if control is None:
            return self
        return replace(self, scales=_per_net("control", control["scale"], len(self.windows)))


def control_of(pipe: Any) -> nn.Module | None:
    """The ControlNet of a pipeline (several of them in one), None if it has none."""
    net = getattr(pipe, "controlnet", None)
    return net if isinstance(net, nn.Module) else None


def check_control(pipe: Any, arguments: Mapping[str, Any]) -> None:
    """Raises `UserError` for a ControlNet, or a way of using it, that cannot be repeated at another latent."""
    net = control_of(pipe)
    if net is None:
        return
    kinds = {kind.__name__ for kind in type(unwrapped(net)).__mro__}
    nets = nets_of(net)
    if not kinds & {*KNOWN, *MULTIPLE}:
        raise UserError(
            f"{type(pipe).__name__} has a ControlNet of a kind that reflection does not know, "
            f"{type(unwrapped(net)).__name__}; known are {', '.join((*KNOWN, *MULTIPLE))}"
        )
    if nets is not None and len(nets) == 1 and "FluxMultiControlNetModel" in kinds:
        raise UserError(
            "the pipeline's FluxMultiControlNetModel has one ControlNet for several images, which reflection does not "
            "know; give the pipeline as many ControlNets as images, or one without the list"
        )
    pooled = any(getattr(each.config, "global_pool_conditions", False) for each in nets or [unwrapped(net)])
    if arguments.get("guess_mode") or pooled:
        raise UserError(
            "guess mode (guess_mode, and ControlNets that pool their conditions) evaluates the ControlNet for one half "
            "of guidance only, which reflection does not know; leave guess_mode off and use another ControlNet"
        )
    pictures = arguments.get("control_image", arguments.get("image"))
    if nets is not None and isinstance(pictures, list) and arguments.get("height") is None:
        sizes = {size for each in pictures if (size := _size(each)) is not None}
        if len(sizes) > 1:
            said = " and ".join(f"{width} x {height}" for width, height in sorted(sizes))
            raise UserError(
                f"the control images are of {said} pixels, and they say how large the output is; give images of one "
                "size, or height and width, to which they are then resized"
            )


def check_spec_control(control: Mapping[str, Any] | None, role: str, pipe: Any) -> None:
    """Raises `UserError` for a `ModelSpec.control` that does not fit the pipeline's ControlNet."""
    if control is None:
        return
    net = control_of(pipe)
    if net is None:
        raise UserError(
            f"{role} sets control, which {type(pipe).__name__} does not support: it has no ControlNet; give the "
            "pipeline with one, and scale 0 to the side that is to be without"
        )
    nets = nets_of(net)
    _per_net(f"{role}: control", control["scale"], 1 if nets is None else len(nets))


def control_setting(parameters: Mapping[str, inspect.Parameter], pipe: Any, arguments: Mapping[str, Any]) -> Any:
    """Returns the `ControlSetting` of a call with these arguments, None for a pipeline without ControlNet.

    `parameters` are those of the pipeline's call, by name.
    """
    net = control_of(pipe)
    if net is None:
        return None
    nets = nets_of(net)
    count = 1 if nets is None else len(nets)

    def value(name: str, default: float) -> Any:
        own = parameters[name].default if name in parameters else default
        return arguments.get(name, own)

    starts, ends = (
        _per_net(name, value(name, default), count)
        for name, default in (("control_guidance_start", 0.0), ("control_guidance_end", 1.0))
    )
    scales = _per_net("controlnet_conditioning_scale", value("controlnet_conditioning_scale", 1.0), count)
    return ControlSetting(scales, tuple(zip(starts, ends, strict=True)))


def _size(picture: Any) -> tuple[int, int] | None:
    """Width and height of a control image; None for a list of them."""
    if isinstance(picture, Tensor):  # [..., C, H, W]
        return int(picture.shape[-1]), int(picture.shape[-2])
    size = getattr(picture, "size", None)
    return size if isinstance(size, tuple) else None


def unwrapped(net: Any) -> Any:
    """The module inside a compiled one."""
    return getattr(net, "_orig_mod", net)


def nets_of(net: nn.Module) -> list[Any] | None:
    """The ControlNets in one that adds up several, None for a single one."""
    inner = unwrapped(net)
    return list(inner.nets) if any(kind.__name__ in MULTIPLE for kind in type(inner).__mro__) else None


def _per_net(name: str, value: Any, count: int) -> tuple[float, ...]:
    """One number for each of `count` ControlNets, from one number or a list."""
    if isinstance(value, list | tuple):
        if len(value) != count:
            raise UserError(
                f"{name} has {len(value)} numbers for {count} ControlNet{'s' * (count > 1)}; give one number, or one "
                "for each ControlNet"
            )
        return tuple(float(each) for each in value)
    return (float(value),) * count
