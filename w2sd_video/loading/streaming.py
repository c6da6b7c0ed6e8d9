"""Weights from safetensors files into networks that have no values yet, one tensor at a time.

A tensor is read from the file to where it stays: the host holds what the network keeps and one tensor more, and nothing
of a tensor that the other side of a pair has already.
"""

from __future__ import annotations

import ctypes
import gc
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from w2sd_video.errors import UserError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
}
Told = Callable[[int], None]


def read_tensors(files: Iterable[Path], names: Mapping[str, str] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors of safetensors files in the order in which they lie there, each read when it is asked for.

    `names` has those that are wanted, and what each is called then; None wants all.
    """
    for path in files:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
            header.pop("__metadata__", None)
            for name, about in sorted(header.items(), key=lambda entry: entry[1]["data_offsets"][0]):
                if names is not None and name not in names:
                    continue
                tensor = torch.empty(about["shape"], dtype=DTYPES[about["dtype"]])
                if tensor.numel():
                    file.seek(8 + size + about["data_offsets"][0])
                    file.readinto(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]
                yield (name if names is None else names[name]), tensor


def without_weights(kind: Any, config: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """Returns a network of a class of diffusers in evaluation mode whose parameters have no values; buffers have."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with init_empty_weights():
            return kind.from_config(dict(config)).eval()
    finally:
        torch.set_default_dtype(before)


def fill(
    module: Any,
    tensors: Iterable[tuple[str, Tensor]],
    dtype: torch.dtype,
    *,
    other: nn.Module | None = None,
    told: Told = lambda size: None,
) -> None:
    """Gives a network of diffusers its tensors, by name; one that `other` has equal, under that name, is that very one.

    Numbers are cast to `dtype`, but for the parts that the class keeps in float32.

    Raises:
        KeyError: a tensor that the network has no place for.
        UserError: one of another shape.
    """
    wide: Sequence[str] = getattr(module, "_keep_in_fp32_modules", None) or ()
    wide = [wide] if isinstance(wide, str) else wide
    slots = dict(_slots(module))
    ours = {} if other is None else dict(_slots(other))
    for name, tensor in tensors:
        holder, leaf = slots[name]
        told(tensor.nbytes)
        if tensor.is_floating_point():
            tensor = tensor.to(torch.float32 if set(wide) & set(name.split(".")) else dtype)
        if tensor.shape != holder[leaf].shape:
            raise UserError(
                f"{name} is of {tuple(tensor.shape)}, the config describes {tuple(holder[leaf].shape)}; give the "
                "config made for it"
            )
        held = None if name not in ours else ours[name][0][ours[name][1]]
        if held is not None and _equal(held, tensor):
            holder[leaf] = held
        elif isinstance(holder[leaf], nn.Parameter):
            holder[leaf] = nn.Parameter(tensor, requires_grad=holder[leaf].requires_grad)
        else:
            holder[leaf] = tensor


def _equal(held: Tensor, tensor: Tensor) -> bool:
    alike = (held.shape, held.dtype, held.device) == (tensor.shape, tensor.dtype, tensor.device)
    return alike and torch.equal(held, tensor)


def _slots(module: nn.Module) -> Iterator[tuple[str, tuple[dict[str, Any], str]]]:
    for prefix, owner in module.named_modules(remove_duplicate=False):
        for holder in (owner._parameters, owner._buffers):
            for leaf, tensor in holder.items():
                if tensor is not None:
                    yield (f"{prefix}.{leaf}" if prefix else leaf), (holder, leaf)


def names_in_diffusers(convert: Callable[..., dict[str, Tensor]], names: Iterable[str], **settings: Any) -> Any:
    """Returns what each tensor of another layout is called in diffusers', as a conversion of diffusers has it; None
    where that is no mere renaming.
    """
    stand_ins = {name: torch.empty(0, device="meta") for name in names}
    called = {id(tensor): name for name, tensor in stand_ins.items()}
    converted = convert(dict(stand_ins), **settings)
    if any(id(tensor) not in called for tensor in converted.values()):
        return None
    return {called[id(tensor)]: name for name, tensor in converted.items()}


def trim() -> None:
    """Gives memory that was freed back to the system."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # glibc keeps what was freed, unless asked to give it back
        ctypes.CDLL("libc.so.6").malloc_trim(0)
