"""AnimateDiff's motion UNet put together from a 2-D UNet and a motion adapter, every tensor accounted for.

`UNetMotionModel.from_unet2d` of diffusers 0.42 copies part by part and forgets SDXL's `add_embedding` (size, crop and
pooled-text conditioning), which keeps its random initial values: no two constructions agree. Here the model is built
without any values at all, and each tensor must come from one of the two sources by its name.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch import Tensor, nn

from w2sd_video.errors import UserError
from w2sd_video.loading.pair_description import check_adapter_fits


def assemble_motion_unet(unet: UNet2DConditionModel, motion_adapter: MotionAdapter) -> UNetMotionModel:
    """Returns the motion UNet made of the 2-D UNet's tensors and the adapter's, in evaluation mode.

    No tensor is copied: the result holds the very parameters of its two sources, so two UNets assembled with one
    adapter share its motion modules. Both sources must have the same dtype and device.

    Raises:
        UserError: the adapter does not fit; a tensor of the result has no source (it is named); a tensor of a source
            has no place; the UNet uses a setting that the motion UNet cannot express.
    """
    check_adapter_fits(motion_adapter.config, unet.config, type(unet).__name__)
    _check_settings(unet)
    waiting = "meta" in (unet.device.type, motion_adapter.device.type)  # for its weights
    if unet.dtype != motion_adapter.dtype or (unet.device != motion_adapter.device and not waiting):
        raise UserError(
            f"the UNet is {unet.dtype} on {unet.device} and the motion adapter {motion_adapter.dtype} on "
            f"{motion_adapter.device}; load both with the same dtype and device"
        )
    motion: dict[str, nn.Module | dict[str, Tensor]] = {"the motion adapter": tensors_of(motion_adapter)}
    with torch.device("meta"):
        model = UNetMotionModel.from_unet2d(unet, motion_adapter, load_weights=False)
    assign_all(motion_adapter, motion)  # which diffusers moved to where the UNet is, that may still be nowhere
    assign_all(model, {"the 2-D UNet": unet, **motion})
    return model.eval()


def motion_adapter_of(unet: UNetMotionModel) -> MotionAdapter:
    """Returns the motion modules inside a motion UNet as an adapter that shares their parameters."""
    config = unet.config
    with torch.device("meta"):
        adapter = MotionAdapter(
            block_out_channels=config["block_out_channels"],
            motion_layers_per_block=config["layers_per_block"],
            motion_transformer_layers_per_block=config["temporal_transformer_layers_per_block"],
            motion_mid_block_layers_per_block=config["mid_block_layers"],
            motion_transformer_layers_per_mid_block=config["temporal_transformer_layers_per_mid_block"],
            motion_num_attention_heads=config["motion_num_attention_heads"],
            motion_norm_num_groups=config["norm_num_groups"],
            motion_max_seq_length=config["motion_max_seq_length"],
            use_motion_mid_block=config["use_motion_mid_block"],
        )
    motion = {name: tensor for name, tensor in tensors_of(unet).items() if "motion_modules" in name}
    assign_all(adapter, {"the motion UNet": motion})
    return adapter.eval()


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name, the objects themselves; tied ones under each of their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def assign_all(model: nn.Module, sources: dict[str, nn.Module | dict[str, Tensor]]) -> None:
    """Give every parameter and buffer of `model` the tensor of that name in `sources`, by reference.

    Raises:
        UserError: a tensor of the model is in no source and would keep its initial value, a tensor of a source is not
            in the model, is in two sources, or has another shape.
    """
    wanted = tensors_of(model)
    found: dict[str, Tensor] = {}
    for title, source in sources.items():
        tensors = tensors_of(source) if isinstance(source, nn.Module) else source
        for name, tensor in tensors.items():
            if name not in wanted or name in found:
                problem = "has no place in the result" if name not in wanted else "is also in another source"
                raise UserError(f"tensor {name} of {title} {problem}; the parts are not made for each other")
            if tensor.shape != wanted[name].shape:
                raise UserError(
                    f"tensor {name} of {title} has shape {tuple(tensor.shape)}; allowed: {tuple(wanted[name].shape)}"
                )
            found[name] = tensor
    unset = [name for name in wanted if name not in found]
    if unset:
        raise UserError(
            f"{len(unset)} tensors are in none of {', '.join(sources)} and would be left at their initial value: "
            f"{', '.join(unset[:8])}{', ...' if len(unset) > 8 else ''}; the parts are not made for each other"
        )
    for name, tensor in found.items():
        parent, _, leaf = name.rpartition(".")
        owner = model.get_submodule(parent)
        (owner._parameters if leaf in owner._parameters else owner._buffers)[leaf] = tensor  # type: ignore[assignment]


def _check_settings(unet: UNet2DConditionModel) -> None:
    """Refuse settings that `UNetMotionModel` has no argument for and would silently drop."""
    known = set(inspect.signature(UNetMotionModel.__init__).parameters) | {
        "attention_head_dim",  # becomes num_attention_heads, which it is
        "down_block_types",
        "up_block_types",
        "sample_size",
        "addition_embed_type_num_heads",  # of another embedding type than SDXL's
    }
    defaults: dict[str, Any] = {
        name: parameter.default
        for name, parameter in inspect.signature(UNet2DConditionModel.__init__).parameters.items()
    }
    for name, value in unet.config.items():
        if name in known or name not in defaults:
            continue
        default = defaults[name]
        if value != default and not (not value and not default):
            raise UserError(
                f"the UNet has {name} = {value!r}, which AnimateDiff's motion UNet lacks; allowed: {default!r}"
            )
