"""What goes with a pipeline beside its own parts, a ControlNet or an IP-Adapter: whether files are that and fit (no
torch).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from w2sd_video.errors import UserError
from w2sd_video.loading.files import check_weights, is_hub_id, read_json, read_safetensors_header

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
ADAPTED = ("image_proj.", "ip_adapter.")  # how the names of an IP-Adapter's tensors begin
Config = Mapping[str, Any]


def check_controlnet(given: str, name: str, network: Config | None, *, allow_pickle: bool = False) -> None:
    """Raises `UserError` for a ControlNet that is not there, damaged, or not for a pipeline of the class `name` with
    this network (None: not known yet).
    """
    if name not in CONTROLLED:
        raise UserError(f"no ControlNet goes with a {name} here; it goes with {', '.join(CONTROLLED)}")
    path = Path(given).expanduser()
    if path.is_dir():
        check_weights(path, "the ControlNet's folder", allow_pickle)
        check_widths(given, name, network or {}, read_json(path / "config.json"))
    elif not is_hub_id(given):
        raise UserError(f"there is no ControlNet at {given}; give its folder (config.json beside weights) or a hub id")


def check_widths(given: str, name: str, network: Config, net: Config) -> None:
    """Raises `UserError` where the configs of a network and of a ControlNet say that they are told other things."""
    own = CONTROLLED[name][1]
    if net.get("_class_name", own) != own:
        raise UserError(f"the ControlNet {given} is a {net['_class_name']} and a {name} takes a {own}; give one")
    for width in WIDTHS:
        ours, theirs = network.get(width), net.get(width)
        if ours is not None and theirs is not None and ours != theirs:
            raise UserError(
                f"the ControlNet {given} has {width} {theirs} and the {name} {ours}; give one made for this family"
            )


def place_of_ip_adapter(given: str, name: str) -> tuple[str, str, str]:
    """Returns folder (or hub id), subfolder and file of an IP-Adapter for a pipeline of the class `name`.

    Raises:
        UserError: there is none, or which file of a repository it is, is not known.
    """
    path = Path(given).expanduser()
    if path.is_file():
        if not (path.parent / "image_encoder").is_dir():
            raise UserError(
                f"the IP-Adapter {given} needs its image encoder; put it in {path.parent / 'image_encoder'}"
            )
        return str(path.parent), "", path.name
    if not is_hub_id(given):
        raise UserError(f"there is no IP-Adapter at {given}; give a .safetensors file or a hub id")
    family = name.partition("Pipeline")[0].removesuffix("ControlNet")
    if family not in ADAPTERS:
        raise UserError(f"which file of {given} is for a {name} is not known; give the file itself")
    return given, *ADAPTERS[family]


def check_ip_adapter(given: str, name: str, network: Config | None) -> None:
    """Raises `UserError` for an IP-Adapter that is not there, damaged, none, or of another width than the network of a
    pipeline of the class `name` (None: not known yet).
    """
    place_of_ip_adapter(given, name)
    path = Path(given).expanduser()
    if not path.is_file() or path.suffix != ".safetensors":
        return
    check_weights(path.parent / "image_encoder", "the IP-Adapter's image encoder")
    header = read_safetensors_header(path)
    if lacking := [start for start in ADAPTED if not any(key.startswith(start) for key in header)]:
        raise UserError(f"{given} is no IP-Adapter: it has no tensors called {' or '.join(lacking)}; give one's file")
    width = (network or {}).get("cross_attention_dim")
    widths = {info.shape[1] for key, info in header.items() if key.endswith("to_k_ip.weight") and len(info.shape) == 2}
    if isinstance(width, int) and widths and widths != {width}:
        raise UserError(
            f"the IP-Adapter {given} is for networks told {', '.join(map(str, sorted(widths)))} numbers a token, and "
            f"the {name} is told {width}; give one made for this family"
        )
