"""Reads weight files without running anything they hold, and puts them into networks that must match key by key."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vbench_eval.backbones.finding import content_sha256, sha256
from vbench_eval.backbones.weights import Weights
from vbench_eval.errors import UserError

WRAPPINGS = ("state_dict", "params", "model", "params_ema")  # keys under which files keep the state itself
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SHOWN = 6


def load_state(path: str | os.PathLike[str], *, allow_pickle: bool = False) -> dict[str, Tensor]:
    """Returns the tensors of a .safetensors or torch file, on the CPU, by name.

    A state kept under "state_dict", "params" or "model" is taken out, and the prefix "module." of every name removed.
    Files that hold more than tensors are unpickled, which runs code they bring, only with `allow_pickle`. Raises
    UserError for a file that is missing, damaged or not a state.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is not a file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=not allow_pickle)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors and would run code when it is opened; if you trust who made it, allow "
            f"pickled files (--allow-pickle). ({_first_line(error)})"
        ) from error
    except Exception as error:  # damaged files raise many kinds, by where the damage is
        raise UserError(f"{path} cannot be read as weights: {_first_line(error)}") from error
    if isinstance(found, nn.Module):
        found = found.state_dict()
    for wrapping in WRAPPINGS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapping), Mapping):
            found = found[wrapping]
            break
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        raise UserError(f"{path} does not hold a network's tensors by name, but {_described(found)}")
    state = {str(key): value for key, value in found.items()}
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def members(path: Path) -> list[str]:
    """Returns the names of the members of a zip file, which is what torch saves; none for another file."""
    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as inside:
        return inside.namelist()


def is_archive(path: Path) -> bool:
    """Returns whether a file is a TorchScript archive, a program, rather than saved tensors."""
    return any("/code/" in name for name in members(path))


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Puts a state into a module; raises UserError naming every key that is missing, left over or of another shape."""
    wanted = module.state_dict()
    missing = [key for key in wanted if key not in state]
    extra = [key for key in state if key not in wanted]
    shapes = [
        f"{key} is {list(state[key].shape)}, not {list(wanted[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    refuse_differences(source, missing=missing, extra=extra, shapes=shapes)
    module.load_state_dict(state, assign=any(tensor.is_meta for tensor in wanted.values()))


def refuse_differences(source: str, *, missing: list[str], extra: list[str], shapes: list[str]) -> None:
    """Raises UserError saying what differs between a file and the network it is meant for; nothing if nothing does."""
    found = [f"{kind}: {_some(keys)}" for kind, keys in _kinds(missing, extra, shapes) if keys]
    if found:
        raise UserError(
            f"{source} is not this network ({'; '.join(found)}); give the published file of the network asked for"
        )


def placed(module: nn.Module, device: str, dtype: str | torch.dtype | None) -> nn.Module:
    """Returns the module on `device` in `dtype` (None: float32), in evaluation mode, its weights not to be trained."""
    module = module.to(device=usable_device(device), dtype=as_dtype(dtype))
    return module.eval().requires_grad_(False)


def as_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """Returns float32 for None, or the type of that name; raises UserError for one that networks here do not run in."""
    if dtype is None:
        return torch.float32
    known = DTYPES.get(str(dtype).removeprefix("torch."))
    if known is None:
        raise UserError(f"dtype is {dtype}; choose one of {', '.join(DTYPES)}")
    return known


def usable_device(device: str | torch.device) -> torch.device:
    """Returns the device; raises UserError if this machine or this build of torch has none such."""
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device} cannot be used here ({_first_line(error)}); cpu always can") from error
    return found


def origin(
    weights: Weights, path: Path, module: nn.Module, *, cache: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """Returns the provenance of a network that was loaded from `path`."""
    parameter = next(module.parameters())
    parts = path.parts
    snapshot = parts.index("snapshots") + 1 if "snapshots" in parts else len(parts)
    found = sha256(path, cache=cache) if path.is_file() else content_sha256(path, cache=cache)
    return {
        "id": weights.name,
        "revision": parts[snapshot] if snapshot < len(parts) else None,
        "file": str(path),
        "sha256": found,
        "sha256_verified": bool(weights.sha256) and found == weights.sha256,
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": str(parameter.device),
        "licence": weights.licence,
        "commercial_ok": weights.commercial_ok,
    }


def pretrained(
    kind: Any, folder: Path | None, *, source: Path | None = None, allowed_extra: str = "", **arguments: Any
) -> Any:
    """Returns `kind.from_pretrained(folder, **arguments)` in float32, from this machine alone.

    `source` names the file where there is no folder but a state among the arguments. Raises UserError naming every
    missing key, shape that differs and key left over that does not begin with the pattern `allowed_extra`.
    """
    source = source or folder
    try:
        with quiet_transformers():
            network, report = kind.from_pretrained(
                folder,
                dtype=torch.float32,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # so that they are told to us rather than raised in another form
                output_loading_info=True,
                **arguments,
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise UserError(f"{source} cannot be loaded as {kind.__name__}: {_first_line(error)}") from error
    extra = [key for key in report["unexpected_keys"] if not (allowed_extra and re.match(allowed_extra, key))]
    shapes = [f"{key} is {list(got)}, not {list(wanted)}" for key, got, wanted in report["mismatched_keys"]]
    refuse_differences(str(source), missing=sorted(report["missing_keys"]), extra=sorted(extra), shapes=sorted(shapes))
    return network


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keeps transformers from drawing bars and printing its loading report while a network is loaded: we report."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _kinds(missing: list[str], extra: list[str], shapes: list[str]) -> list[tuple[str, list[str]]]:
    return [("missing", missing), ("not known", extra), ("of another shape", shapes)]


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + more


def _described(found: Any) -> str:
    if isinstance(found, Mapping):
        return f"a table with {_some([str(key) for key in found])}" if found else "an empty table"
    return f"a {type(found).__name__}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
