"""Files of checkpoints by their JSON and safetensors headers: what they hold, of what family, whether they are whole.

Imports no torch and touches no network, so that a wrong path or a wrong family is refused before anything is loaded.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vbench_eval.network import may_fetch
from w2sd_video.errors import UserError

PICKLES = (".ckpt", ".bin", ".pt", ".pth")
GGUF = ".gguf"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# The original layouts of single files: SDXL and SD 1.5 share the prefixes; Flux has them or not.
LDM_UNET = "model.diffusion_model."
LDM_VAE = "first_stage_model."
FAMILIES = {"sdxl": "StableDiffusionXLPipeline", "sd15": "StableDiffusionPipeline", "flux": "FluxPipeline"}
TEXT = {  # where they keep the text encoders
    "sdxl": {
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
    "sd15": {"text_encoder": "cond_stage_model.transformer."},
}
SD2_TEXT = "cond_stage_model.model."
FLUX_LAYOUT = ("double_blocks.0.img_attn.qkv.weight", "img_in.weight", "txt_in.weight", "vector_in.in_layer.weight")
FLUX_OUT = "final_layer.linear.weight"
_WANTED = "a single file must be an SDXL, SD 1.5 or Flux.1 text-to-image checkpoint in its original layout"
# Marks of weights that are numbers only together with a scale or a table: their names, and what wrote them.
QUANTISED = {
    "scale_weight": "scaled fp8",
    "weight_scale": "scaled fp8",
    "scaled_fp8": "scaled fp8",
    "comfy_quant": "scaled fp8",
    "quant_state": "bitsandbytes",
    ".absmax": "bitsandbytes",
    ".qweight": "GPTQ or AWQ",
}
LORA_MARKS = (".lora_A.", ".lora_B.", "lora_down", "lora_up", ".lora.down", ".lora.up", "_lora.down", "_lora.up")
NO_PLAIN_LORA = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    ".hada_w": "LoHa",
    ".lokr_w": "LoKr",
    ".oft_blocks": "OFT",
    ".a1.weight": "GLoRA",
}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as a safetensors header describes it; `dtype` is its name there ("F16", "BF16", "F32", ...)."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        bits = re.search(r"\d+", self.dtype)
        return self.numel * (1 if bits is None else max(1, int(bits[0]) // 8))


def is_hub_id(given: str) -> bool:
    """Whether a name that is no path here can be a repository of the hub (owner/name)."""
    path = Path(given).expanduser()
    suffixed = path.suffix in (".safetensors", GGUF, *PICKLES)
    return bool(HUB_ID.fullmatch(given)) and not suffixed and not path.exists() and not path.parent.is_dir()


def class_on_hub(given: str) -> str | None:
    """Returns the class of pipelines of a hub id, None where the local cache does not have it; nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(given, "model_index.json")
    return str(read_json(Path(index)).get("_class_name")) if isinstance(index, str) else None


def local_only(given: str | Path) -> bool:
    """Whether nothing may be fetched for what was given: the loaders' `local_files_only`.

    A hub id may be where the network may be used, and a path never: not where it is there, and not where it is missing.
    """
    return not is_hub_id(str(given)) or not may_fetch()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint, whose settings are of the kinds and sizes that networks have.

    Raises:
        UserError: the file is missing, unreadable, or holds no JSON object; a setting is absurd.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise UserError(f"cannot read {path}: it is no file; download the checkpoint again or name another one")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}; download the checkpoint again or name another one") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a JSON {type(content).__name__}, where an object is expected")
    for names, wanted, fits in SETTINGS:
        for name in names:
            if content.get(name) is not None and not fits(content[name]):
                raise UserError(
                    f"{path}: {name} is {content[name]!r:.80}, not {wanted}; correct it, or download it again"
                )
    return content


def _whole(value: Any, low: int = 1, high: int = 1_000_000) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _number(value: Any, low: float = -1e6, high: float = 1e6) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high  # NaN is not


def _listed(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and 0 < len(value) <= 100_000 and all(map(fits, value))


def _per_block(value: Any, high: int) -> bool:
    """Whether it is one number for all blocks or one for each, which may be one for each layer again."""
    return _whole(value, 0, high) or _listed(value, lambda one: _whole(one, 0, high) or _listed(one, _whole))


# Settings that are read here or size a network: what they must be wherever a config gives them.
SETTINGS: tuple[tuple[tuple[str, ...], str, Callable[[Any], bool]], ...] = (
    (("_class_name", "beta_schedule", "prediction_type", "timestep_spacing"), "a name", lambda v: isinstance(v, str)),
    (
        ("block_out_channels", "encoder_block_out_channels", "decoder_block_out_channels", "dim_mult"),
        "a list of whole numbers, one for each resolution",
        lambda v: _listed(v, _whole) and len(v) <= 16,
    ),
    (
        ("in_channels", "out_channels", "latent_channels", "z_dim", "cross_attention_dim", "hidden_size"),
        "a whole number of channels",
        lambda v: _whole(v) or _listed(v, _whole),
    ),
    (
        (
            *("layers_per_block", "num_layers", "num_single_layers", "num_hidden_layers", "mid_block_layers"),
            *("transformer_layers_per_block", "temporal_transformer_layers_per_block", "motion_layers_per_block"),
        ),
        "a number of layers from 0 to 1000",
        lambda v: _per_block(v, 1000),
    ),
    (("num_attention_heads", "attention_head_dim"), "a whole number", lambda v: _per_block(v, 100_000)),
    (("motion_max_seq_length", "num_experts", "num_experts_per_tok", "vocab_size"), "a whole number", _whole),
    (("patch_size",), "a whole number", lambda v: _whole(v, 1, 1024) or _listed(v, _whole)),
    (("num_train_timesteps",), "a whole number from 2 to 100000", lambda v: _whole(v, 2, 100_000)),
    (("sample_size",), "a whole number, or two", lambda v: _whole(v) or _listed(v, _whole)),
    (("scale_factor_temporal", "scale_factor_spatial"), "a whole number", lambda v: _whole(v, 1, 1024)),
    (("scaling_factor",), "a number above 0", lambda v: _number(v, 1e-6)),
    (("shift_factor", "shift", "flow_shift"), "a number", _number),
    (("latents_mean", "latents_std"), "a list of numbers", lambda v: _listed(v, _number)),
    (("beta_start", "beta_end"), "a number between 0 and 1", lambda v: _number(v, 0.0, 1.0)),
    (("trained_betas",), "a list of numbers between 0 and 1", lambda v: _listed(v, lambda b: _number(b, 0.0, 1.0))),
)


def read_safetensors_header(path: Path) -> dict[str, TensorInfo]:
    """Returns the tensors a safetensors file describes, by name, after checking that the file is all there.

    Raises:
        UserError: not a safetensors file, or cut short.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():  # a pipe, say, would be waited for
        raise UserError(f"cannot read {path}: it is no file")
    try:
        with safe_open(path, framework="np") as file:  # only looks: numpy could not hold bfloat16
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {name: TensorInfo(part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error}") from error
    except SafetensorError as error:
        reason = str(error).rpartition("header: ")[2]
        raise UserError(
            f"{path} is cut short, corrupt or no safetensors file ({reason}); download it again, or check that it is a "
            ".safetensors file"
        ) from error


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
                shards = [folder / name for name in shards_of(index)]
                missing = [shard.name for shard in shards if not shard.is_file()]
                if missing:
                    raise UserError(
                        f"{index} names {', '.join(missing)}, which is not there; download the folder again"
                    )
                return shards
    return []


def shards_of(index: Path) -> list[str]:
    """Returns the names of the files that an index of shards names; raises `UserError` where it names none."""
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise UserError(f"{index} has no weight_map of file names; download the folder again")
    return sorted(set(found.values()))


def check_weights(folder: Path, place: str, allow_pickle: bool = False) -> None:
    """Raises `UserError` unless a part's folder has safetensors weights that are all there (or allowed pickles)."""
    files = weight_files(folder) if folder.is_dir() else []
    headers = {file.name: read_safetensors_header(file) for file in files}
    for index in folder.glob("*.safetensors.index*.json") if len(files) > 1 else ():
        named = read_json(index).get("weight_map") or {}
        lacking = sorted(name for name, file in named.items() if file in headers and name not in headers[file])
        if lacking:
            raise UserError(
                f"{index} names {len(lacking)} tensors that its files do not hold: {', '.join(lacking[:10])}"
                f"{', ...' if len(lacking) > 10 else ''}; download the folder again"
            )
    pickles = folder.is_dir() and any(any(folder.glob(f"*{suffix}")) for suffix in PICKLES)
    if not files and not (pickles and allow_pickle):
        hint = "its weights are pickles, which can run code: convert them, or allow pickles" if pickles else ""
        raise UserError(f"{place} {folder} holds no .safetensors weights; {hint or 'download it again'}")


def check_vae_folder(given: str, place: str, classes: tuple[str, ...]) -> None:
    """Raises `UserError` unless `given` is a hub id, or a folder with a VAE of one of these classes."""
    path = Path(given).expanduser()
    if path.is_dir():
        name = read_json(path / "config.json").get("_class_name")
        if name not in classes:
            raise UserError(f"{place} {given} is a {name}; allowed: {', '.join(classes)}")
        check_weights(path, place)
    elif not is_hub_id(given):
        raise UserError(f"{place} {given} does not exist; give its folder (config.json beside weights) or a hub id")


def check_not_quantised(names: Iterable[str], path: Path) -> None:
    """Raises `UserError` if tensors of these names need a scale or a table beside them to be read."""
    for name in names:
        kind = next((kind for mark, kind in QUANTISED.items() if mark in name), None)
        if kind is not None:
            raise UserError(
                f"{path} holds quantised weights ({kind}: {name}); give one in 16 or 32 bits (or plain fp8); {_WANTED}"
            )


def family_of(header: Mapping[str, TensorInfo], path: Path) -> str:
    """Returns "sdxl", "sd15" or "flux" for the header of a single file in the original layout.

    Raises:
        UserError: anything else: a LoRA, a network in another layout, SD 2, quantised or scaled weights, a network that
            takes more than a noisy latent.
    """
    names = {name.removeprefix(LDM_UNET) for name in header}
    check_not_quantised(names, path)
    if names.issuperset((*FLUX_LAYOUT, FLUX_OUT)):
        prefix = flux_prefix(header)
        channels, out = header[prefix + "img_in.weight"].shape[1], header[prefix + FLUX_OUT].shape[0]
        if channels != out:
            raise UserError(
                f"{path} takes {channels} input channels and makes {out}: a Flux that fills, edits or follows depth; "
                f"{_WANTED}"
            )
        return "flux"
    entry = header.get(LDM_UNET + "input_blocks.0.0.weight")
    if entry is None:
        raise UserError(f"{path} looks like {_likeness(header)}; {_WANTED}")
    if len(entry.shape) == 4 and entry.shape[1] != 4:
        raise UserError(
            f"{path} takes {entry.shape[1]} input channels, not 4 (9 is an inpainting checkpoint, 8 an editing one); "
            f"{_WANTED}"
        )
    if LDM_UNET + "label_emb.0.0.weight" in header:
        return "sdxl"
    if any(name.startswith(SD2_TEXT) for name in header):
        raise UserError(f"{path} is of the SD 2 family: give it as a diffusers folder; {_WANTED}")
    return "sd15"


def missing_parts(family: str, header: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    """Returns the parts with weights that are not taken from a single file, so that they come from its config.

    Of Flux's files the transformer alone is used: all-in-one files hold the rest in several layouts.
    """
    if family == "flux":
        return ("vae", "text_encoder", "text_encoder_2")

    def holds(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in header)

    has_text = all(holds(prefix) for prefix in TEXT[family].values())
    return (*(() if holds(LDM_VAE) else ("vae",)), *(() if has_text else TEXT[family]))


def flux_prefix(header: Mapping[str, TensorInfo]) -> str:
    """Returns what stands before the names of a Flux transformer's tensors in a single file."""
    return "" if FLUX_LAYOUT[0] in header else LDM_UNET


def _likeness(header: Mapping[str, TensorInfo]) -> str:
    kinds = {
        "lora": "a LoRA",
        "double_blocks": "a relative of Flux.1 of another build",
        "transformer_blocks.0.norm1": "one network in diffusers' layout (give the whole pipeline's folder)",
        "down_blocks.0": "one network in diffusers' layout (give the whole pipeline's folder)",
    }
    return next((kind for mark, kind in kinds.items() if any(mark in name for name in header)), "something else")


def found_lora(name: str, given: str) -> Path | None:
    """Returns the .safetensors file that is meant by a file or by a folder with one; None where neither is there.

    Raises:
        UserError: a folder without such a file or with several, a pickle, a damaged file, a DoRA, or no LoRA at all.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        inside = sorted(file for file in path.iterdir() if file.suffix == ".safetensors")
        preferred = [file for file in inside if file.name == "pytorch_lora_weights.safetensors"] or inside
        if len(preferred) != 1:
            listed = ", ".join(file.name for file in inside) or "no .safetensors file"
            raise UserError(f"the folder {given} of LoRA {name!r} holds {listed}; name the one file")
        path = preferred[0]
    if not path.is_file():
        return None
    if path.suffix in PICKLES:
        raise UserError(
            f"the LoRA {given} is a pickle, which can run any code; give it as a .safetensors file (most are "
            "published as one too)"
        )
    header = read_safetensors_header(path)
    for mark, kind in NO_PLAIN_LORA.items():
        if any(mark in key for key in header):
            raise UserError(f"the LoRA {given} is a {kind}, whose scale cannot be switched; give a plain LoRA")
    if not any(mark in key for key in header for mark in LORA_MARKS):
        first = next(iter(header), "nothing")
        raise UserError(f"{given} is no LoRA: it holds {len(header)} tensors such as {first}; give a LoRA's file")
    return path
