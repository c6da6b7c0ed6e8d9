"""A ControlNet or an IP-Adapter added to a loaded pipeline, with the pictures that they are told."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import diffusers
import torch

from w2sd_video.errors import UserError
from w2sd_video.gaps.control_images import canny_edges, read_control_image, read_rgb
from w2sd_video.loading.checkpoints import HUB_ID, Checkpoint
from w2sd_video.loading.pipeline_files import check_weights
from w2sd_video.loading.sources import FolderSource, progress_bars, reading

# By pipeline: the pipeline with a ControlNet, and the ControlNet's class.
CONTROLLED = {
    "StableDiffusionPipeline": ("StableDiffusionControlNetPipeline", "ControlNetModel"),
    "StableDiffusionXLPipeline": ("StableDiffusionXLControlNetPipeline", "ControlNetModel"),
    "AnimateDiffPipeline": ("AnimateDiffControlNetPipeline", "ControlNetModel"),
    "FluxPipeline": ("FluxControlNetPipeline", "FluxControlNetModel"),
    "StableDiffusion3Pipeline": ("StableDiffusion3ControlNetPipeline", "SD3ControlNetModel"),
}
WIDTHS = ("cross_attention_dim", "joint_attention_dim", "pooled_projection_dim")
# By pipeline, in the collection that --ip-adapter takes a hub id for: subfolder and file.
ADAPTERS = {
    "StableDiffusion": ("models", "ip-adapter_sd15.safetensors"),
    "StableDiffusionXL": ("sdxl_models", "ip-adapter_sdxl.safetensors"),
    "AnimateDiff": ("models", "ip-adapter_sd15.safetensors"),
    "AnimateDiffSDXL": ("sdxl_models", "ip-adapter_sdxl.safetensors"),
}


def with_controlnet(pipe: Any, given: str, dtype: torch.dtype, *, allow_pickle: bool = False) -> Any:
    """Returns the pipeline of the same parts that has the ControlNet of a folder or a hub id.

    Raises:
        UserError: no such ControlNet, a damaged one, or one for another family.
    """
    name = type(pipe).__name__
    if name not in CONTROLLED:
        raise UserError(f"no ControlNet goes with a {name} here; it goes with {', '.join(CONTROLLED)}")
    kind, net_class = (getattr(diffusers, each) for each in CONTROLLED[name])
    path = Path(given).expanduser()
    if path.is_dir():
        check_weights(path, "the ControlNet's folder", allow_pickle)
    elif not HUB_ID.fullmatch(given) or path.parent.is_dir():
        raise UserError(f"there is no ControlNet at {given}; give its folder (config.json beside weights) or a hub id")
    checkpoint = Checkpoint(given, "network", path) if path.is_dir() else Checkpoint(given, "hub")
    with progress_bars(shown=False):
        net = FolderSource(checkpoint, dtype, allow_pickle).load(net_class, "controlnet", dtype, subfolder=None)
    network = getattr(pipe, "unet", None) or pipe.transformer
    for width in WIDTHS:
        ours, theirs = network.config.get(width), net.config.get(width)
        if ours is not None and theirs is not None and ours != theirs:
            raise UserError(
                f"the ControlNet {given} has {width} {theirs} and the {name} {ours}; give one made for this family"
            )
    taken = inspect.signature(kind).parameters
    return kind(**{part: module for part, module in pipe.components.items() if part in taken}, controlnet=net)


def control_arguments(pipe: Any, file: str, height: int, width: int, *, canny: bool, resize: bool) -> dict[str, Any]:
    """Returns the call argument with the picture that a ControlNet follows.

    Raises:
        UserError: no picture, or one of another size.
    """
    picture = read_control_image(Path(file).expanduser(), width, height, resize=resize)
    taken = inspect.signature(type(pipe).__call__).parameters
    return {"control_image" if "control_image" in taken else "image": canny_edges(picture) if canny else picture}


def add_ip_adapter(pipe: Any, given: str) -> None:
    """Load an IP-Adapter into the pipeline: a .safetensors file beside a folder `image_encoder`, or a hub id.

    Raises:
        UserError: there is none, or it does not fit.
    """
    path = Path(given).expanduser()
    if path.is_file():
        place = (str(path.parent), "", path.name)
    elif HUB_ID.fullmatch(given) and not path.parent.is_dir():
        family = type(pipe).__name__.partition("Pipeline")[0].removesuffix("ControlNet")
        if family not in ADAPTERS:
            raise UserError(f"which file of {given} is for a {type(pipe).__name__} is not known; give the file itself")
        place = (given, *ADAPTERS[family])
    else:
        raise UserError(f"there is no IP-Adapter at {given}; give a .safetensors file or a hub id")
    folder, subfolder, name = place
    if path.is_file() and not (path.parent / "image_encoder").is_dir():
        raise UserError(f"the IP-Adapter {given} needs its image encoder; put it in {path.parent / 'image_encoder'}")
    with reading(given, "IP-Adapter"), progress_bars(shown=False):
        if hasattr(pipe, "unet"):
            pipe.load_ip_adapter(folder, subfolder=subfolder, weight_name=name)
        else:
            encoder = str(path.parent / "image_encoder")
            pipe.load_ip_adapter(
                folder, subfolder=subfolder, weight_name=name, image_encoder_pretrained_model_name_or_path=encoder
            )


def adapter_arguments(file: str) -> dict[str, Any]:
    """Returns the call argument with the picture that an IP-Adapter is told; raises `UserError` if there is none."""
    return {"ip_adapter_image": read_rgb(Path(file).expanduser(), "picture for the IP-Adapter")}
