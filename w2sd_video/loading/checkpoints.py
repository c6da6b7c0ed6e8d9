"""What a checkpoint is, read from its path, its JSON files and its safetensors header.

Imports no torch and touches no network, so that a wrong path or a wrong family is refused before anything is loaded.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2sd_video.errors import UserError

PICKLES = (".ckpt", ".bin", ".pt", ".pth")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
NETWORK_CLASSES = ("UNet2DConditionModel", "UNetMotionModel")

# The layout of SDXL's original single file.
LDM_UNET = "model.diffusion_model."
LDM_VAE = "first_stage_model."
LDM_TEXT = (
    "conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight",
    "conditioner.embedders.1.model.positional_embedding",
)


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as a safetensors header describes it; `dtype` is its name there ("F16", "BF16", "F32", ...)."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Checkpoint:
    """One side of a pair, or a motion adapter, as it was given.

    `kind` is "hub" (owner/name), "pipeline" (a diffusers folder), "network" (a folder that holds one network only) or
    "file" (a single file in SDXL's original layout). `path` is where the network's folder or the file lies; None for a
    hub id. `header` describes the tensors of a single safetensors file.
    """

    given: str
    kind: str
    path: Path | None = None
    header: Mapping[str, TensorInfo] | None = None

    def config(self, part: str) -> dict[str, Any] | None:
        """The JSON config of `part` ("unet", "vae", "scheduler", "model_index", ...); None where there is none here."""
        if self.path is None or self.kind == "file":
            return None
        if self.kind == "network":
            return read_json(self.path / "config.json") if part == "unet" else None
        if part == "model_index":
            return read_json(self.path / "model_index.json")
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        file = self.path / part / name
        return read_json(file) if file.is_file() else None

    def part_folder(self, part: str) -> Path | None:
        """The folder of `part`, or None where it is not on this machine."""
        if self.path is None or self.kind == "file":
            return None
        if self.kind == "network":
            return self.path if part == "unet" else None
        return self.path / part if (self.path / part).is_dir() else None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: the file is missing, unreadable, or holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; download the checkpoint again or name another one") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a JSON {type(content).__name__}, where an object is expected")
    return content


def read_safetensors_header(path: Path) -> dict[str, TensorInfo]:
    """Returns the tensors a safetensors file describes, by name, after checking that the file is all there.

    Raises:
        UserError: not a safetensors file, or cut short.
    """
    remedy = "download it again, or check that it is a .safetensors file"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, 100_000_000):
                raise ValueError("no header where one is expected")
            header = json.loads(file.read(length))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        tensors = {name: TensorInfo(entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is corrupt or no safetensors file ({error}); {remedy}") from error
    if 8 + length + end != size:
        raise UserError(f"{path} is cut short or corrupt: it has {size} bytes and needs {8 + length + end}; {remedy}")
    return tensors


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of one network's folder: of several sets (plain, fp16) the plain one, shards included.

    Raises:
        UserError: a file the index names is missing.
    """
    for stem in ("diffusion_pytorch_model", "model"):
        for variant in ("", ".fp16"):
            single = folder / f"{stem}{variant}.safetensors"
            if single.is_file():
                return [single]
            index = folder / f"{stem}.safetensors.index{variant}.json"
            if index.is_file():
                shards = [folder / name for name in sorted(set(read_json(index).get("weight_map", {}).values()))]
                missing = [shard.name for shard in shards if not shard.is_file()]
                if missing:
                    raise UserError(
                        f"{index} names {', '.join(missing)}, which is not there; download the folder again"
                    )
                return shards
    return []


def describe_checkpoint(given: str, role: str, *, allow_pickle: bool = False) -> Checkpoint:
    """Returns what `given` is: a hub id, a diffusers folder, a network's folder or a single file.

    Local weights are checked by their headers, so a truncated file is found here. `role` ("strong", "weak") is for the
    messages.

    Raises:
        UserError: it does not exist, is none of these, is damaged, or holds pickles that were not allowed.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        return _describe_folder(given, path, role, NETWORK_CLASSES, allow_pickle)
    if path.is_file():
        return _describe_file(given, path, role, allow_pickle)
    if HUB_ID.fullmatch(given) and path.suffix not in (".safetensors", *PICKLES) and not path.parent.is_dir():
        return Checkpoint(given, "hub")
    raise UserError(
        f"the {role} checkpoint {given!r} does not exist; give a diffusers folder, a single .safetensors file, "
        "or a hub id such as stabilityai/stable-diffusion-xl-base-1.0"
    )


def describe_motion_adapter(given: str, *, allow_pickle: bool = False) -> Checkpoint:
    """Returns what the motion adapter `given` is: a hub id or a diffusers folder with a MotionAdapter.

    Raises:
        UserError: as `describe_checkpoint`.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        inner = path / "motion_adapter"
        folder = inner if not (path / "config.json").is_file() and inner.is_dir() else path
        return _describe_folder(given, folder, "motion adapter", ("MotionAdapter",), allow_pickle)
    if HUB_ID.fullmatch(given) and not path.parent.is_dir() and not path.is_file():
        return Checkpoint(given, "hub")
    raise UserError(
        f"the motion adapter {given!r} is no folder; give a diffusers folder (config.json beside .safetensors weights) "
        "or a hub id such as guoyww/animatediff-motion-adapter-sdxl-beta"
    )


def _describe_folder(given: str, path: Path, role: str, classes: tuple[str, ...], allow_pickle: bool) -> Checkpoint:
    networks = [folder for folder in (path / "unet", path) if (folder / "config.json").is_file()]
    is_pipeline = (path / "model_index.json").is_file() and "MotionAdapter" not in classes
    if not networks or (is_pipeline and networks[0] == path):
        raise UserError(
            f"the {role} folder {given} holds no network; it needs unet/config.json (or, for one network alone, "
            "config.json) beside .safetensors weights"
        )
    name = read_json(networks[0] / "config.json").get("_class_name")
    if name not in classes:
        raise UserError(f"the {role} folder {networks[0]} holds a {name}; allowed: {' or '.join(classes)}")
    parts = [networks[0]]
    if is_pipeline:
        parts += [path / part for part in ("vae", "text_encoder", "text_encoder_2") if (path / part).is_dir()]
    for part in parts:
        files = weight_files(part)
        for file in files:
            read_safetensors_header(file)
        if not files and not (allow_pickle and any(part.glob("*.bin"))):
            hint = "its .bin weights are pickles: convert them, or allow pickles" if any(part.glob("*.bin")) else ""
            raise UserError(f"the {role} folder {part} holds no .safetensors weights; {hint or 'download it again'}")
    return Checkpoint(given, "pipeline" if is_pipeline else "network", path if is_pipeline else networks[0])


def _describe_file(given: str, path: Path, role: str, allow_pickle: bool) -> Checkpoint:
    if path.suffix == ".safetensors":
        header = read_safetensors_header(path)
        check_single_file(header, path)
        return Checkpoint(given, "file", path, header)
    if path.suffix in PICKLES and allow_pickle:
        return Checkpoint(given, "file", path)
    if path.suffix in PICKLES:
        raise UserError(
            f"the {role} checkpoint {given} is a pickle, which can run code when opened; "
            "convert it to .safetensors, or allow pickles if you trust where it came from"
        )
    raise UserError(f"the {role} checkpoint {given} has suffix {path.suffix!r}; allowed: .safetensors, or a folder")


def check_single_file(header: Mapping[str, TensorInfo], path: Path) -> None:
    """Raises `UserError` unless the header is that of an SDXL text-to-image checkpoint in its original layout."""
    wanted = "a single file must be an SDXL text-to-image checkpoint in its original layout"
    entry = header.get(LDM_UNET + "input_blocks.0.0.weight")
    if entry is None:
        kinds = {
            "lora": "a LoRA",
            "double_blocks": "a Flux network",
            "down_blocks.0": "one network in diffusers' layout (give its folder, with config.json)",
        }
        found = next((kind for mark, kind in kinds.items() if any(mark in key for key in header)), "something else")
        raise UserError(f"{path} has no {LDM_UNET}* tensors and looks like {found}; {wanted}")
    if LDM_UNET + "label_emb.0.0.weight" not in header:
        raise UserError(
            f"{path} has no size-and-pooled-text conditioning, so it is of the SD1.5 / SD2 family; {wanted}"
        )
    if len(entry.shape) == 4 and entry.shape[1] != 4:
        raise UserError(
            f"{path} takes {entry.shape[1]} input channels; allowed: 4 (9 is an inpainting checkpoint, 8 an editing "
            "one); give a text-to-image checkpoint"
        )
