"""Published DiT-MoE checkpoints into our network, and into a safetensors folder."""

from __future__ import annotations

import argparse
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bridges.dit_moe.layout import config_of, layout_of
from bridges.dit_moe.network import DiTMoE
from w2sd_video.errors import UserError
from w2sd_video.loading.files import read_json, read_safetensors_header, weight_files
from w2sd_video.loading.streaming import fill, read_tensors, trim, without_weights
from w2sd_video.runs.journal import held

DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
WEIGHTS = ("ema", "model")  # where a training's checkpoint keeps them, the one to prefer first


def from_checkpoint(
    path: str | Path,
    *,
    torch_dtype: torch.dtype | None = None,
    weights: str | None = None,
    num_attention_heads: int | None = None,
    num_experts_per_tok: int = 2,
    allow_pickle: bool = False,
    told: Callable[[int], None] = lambda size: None,
) -> DiTMoE:
    """The network in a published file (a state dict, or one under "ema" or "model") or in a folder of ours.

    Everything but `num_experts_per_tok` is told by the tensors' shapes. Experts are stacked as they are read, straight
    from the mapped file, so that the weights are in memory once.

    Args:
        torch_dtype: of the network; None keeps the file's (float32 where it has several).
        weights: "ema" or "model", where the file has both; None takes "ema" first.
        num_attention_heads: for widths that are no named configuration's.
        allow_pickle: open a file that holds more than tensors, which can run code.
        told: hears of bytes as they are read.

    Raises:
        UserError: no such file, damaged, a pickle that was not allowed, no DiT-MoE, or keys, shapes or expert counts
            that do not fit; each is named.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _from_folder(path, torch_dtype, told)
    state = read_state(path, weights=weights, allow_pickle=allow_pickle)
    return network_of(
        state,
        str(path),
        torch_dtype=torch_dtype,
        num_attention_heads=num_attention_heads,
        num_experts_per_tok=num_experts_per_tok,
        told=told,
    )


def network_of(
    state: Mapping[str, Tensor],
    source: str,
    *,
    torch_dtype: torch.dtype | None = None,
    num_attention_heads: int | None = None,
    num_experts_per_tok: int = 2,
    told: Callable[[int], None] = lambda size: None,
) -> DiTMoE:
    """The network of a state dict with the published keys, on its device (meta too). Arguments as `from_checkpoint`."""
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    config = config_of(shapes, source, heads=num_attention_heads)
    layout = layout_of(shapes, config)
    dtypes = {tensor.dtype for tensor in state.values()}
    dtype = torch_dtype or (dtypes.pop() if len(dtypes) == 1 else torch.float32)
    if not dtype.is_floating_point:
        raise UserError(f"the tensors of {source} are {dtype}; a network's are floating-point numbers")
    device = next(iter(state.values())).device
    with torch.device("meta"):
        network = DiTMoE(**config, num_experts_per_tok=num_experts_per_tok)
    ours = {
        name: torch.empty(tensor.shape, dtype=dtype, device=device) for name, tensor in network.state_dict().items()
    }
    for key, place in layout.items():
        ours[place.ours][place.index].copy_(state[key])
        told(state[key].nbytes)
    network.load_state_dict(ours, strict=True, assign=True)
    return network.eval()


def read_state(path: Path, *, weights: str | None = None, allow_pickle: bool = False) -> dict[str, Tensor]:
    """The state dict in a file, its tensors mapped from disk where the format allows; see `from_checkpoint`."""
    if not path.is_file():
        raise UserError(f"the checkpoint {path} does not exist; give a file (.pt, .safetensors) or a converted folder")
    if path.suffix == ".safetensors":
        read_safetensors_header(path)
        return load_file(path)
    content = _unpickled(path, allow_pickle)
    if weights is not None and not (isinstance(content, Mapping) and isinstance(content.get(weights), Mapping)):
        held = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else type(content).__name__
        raise UserError(f'{path} has no weights under "{weights}"; it holds {held}')
    for name in (weights,) if weights else WEIGHTS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    entries = content.items() if isinstance(content, Mapping) else ()
    if not entries or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in entries):
        raise UserError(f'{path} holds no state dict, neither bare nor under "ema" or "model"')
    # Trainings on several devices, and compiled ones, put a word before every key.
    prefix = re.match(r"(module\.|_orig_mod\.)*", next(iter(content))).group()  # type: ignore[union-attr]
    return {key.removeprefix(prefix): tensor.detach() for key, tensor in content.items()}


def _unpickled(path: Path, allow_pickle: bool) -> Any:
    mapped = zipfile.is_zipfile(path)
    remedy = "download it again, or check that it is a checkpoint"
    try:
        # A training's own arguments, which stand beside the weights, are harmless.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", mmap=mapped, weights_only=not allow_pickle)
    except pickle.UnpicklingError as error:
        if allow_pickle:
            raise UserError(f"{path} is corrupt ({_first_line(error)}); {remedy}") from error
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({named.group(1)})" if named else ""
        raise UserError(
            f"{path} is a pickle that holds more than tensors{what}, and opening it could run code; convert it to "
            ".safetensors, or allow pickles (--allow-pickle) if you trust where it came from"
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError, IndexError, AttributeError, ImportError) as error:
        raise UserError(f"{path} is corrupt or no checkpoint ({_first_line(error)}); {remedy}") from error


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _from_folder(path: Path, torch_dtype: torch.dtype | None, told: Callable[[int], None]) -> DiTMoE:
    folder = path / "transformer" if (path / "model_index.json").is_file() else path
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no config.json; give a folder written by the conversion, or a checkpoint file")
    kind = read_json(folder / "config.json").get("_class_name")
    if kind != DiTMoE.__name__:
        raise UserError(f"{folder} holds a {kind}; allowed: {DiTMoE.__name__}")
    held = {info.dtype for file in weight_files(folder) for info in read_safetensors_header(file).values()}
    torch_dtype = torch_dtype or (DTYPES.get(held.pop()) if len(held) == 1 else None) or torch.float32
    files = weight_files(folder)
    header = {name: info.shape for file in files for name, info in read_safetensors_header(file).items()}
    try:
        network = without_weights(DiTMoE, read_json(folder / "config.json"), torch_dtype)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"cannot read the network in {folder}: {_first_line(error)}; convert it again") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {
        "missing_keys": [name for name in shapes if name not in header],
        "unexpected_keys": [name for name in header if name not in shapes],
        "mismatched_keys": [name for name, shape in shapes.items() if header.get(name, shape) != shape],
    }
    if wrong := {title: keys for title, keys in found.items() if keys}:
        raise UserError(f"the weights in {folder} do not fit its config.json: {wrong}; convert it again")
    fill(network, read_tensors(files, reused=True), torch_dtype, told=told)
    trim()
    return network


def convert(checkpoint: str | Path, output: str | Path, **settings: Any) -> DiTMoE:
    """Writes the network of a checkpoint as a folder (config.json, safetensors) and returns it.

    `settings` are those of `from_checkpoint`. The folder appears under its name only when it is complete.

    Raises:
        UserError: see `from_checkpoint`; or `output` is there already.
    """
    output = Path(output).expanduser()
    if output.exists():
        raise UserError(f"{output} is there already; name another folder, or remove it")
    partial = output.with_name(f".{output.name}.partial")
    with held(partial):
        try:
            network = from_checkpoint(checkpoint, **settings)
            network.save_pretrained(partial)
            os.replace(partial, output)
        except SafetensorError as error:  # a full disk, say, which is no OSError there
            raise UserError(f"{output} cannot be written: {error}; make room, or name another folder") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return network
