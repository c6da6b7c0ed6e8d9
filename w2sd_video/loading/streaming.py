"""Weights from safetensors files into networks that have no values yet, one tensor at a time.

A tensor is read from the file to where it stays: the host holds what the network keeps and one tensor more, and nothing
of a tensor that the other side of a pair has already.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from torch import Tensor, nn
from transformers import PreTrainedModel

from w2sd_video.errors import UserError
from w2sd_video.loading.describe import Weights
from w2sd_video.loading.files import FLUX_LAYOUT
from w2sd_video.loading.original_layouts import Layout, Piece, flux_layout, text_layout

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
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


def read_tensors(
    files: Iterable[Path], names: Mapping[str, str] | None = None, *, reused: bool = False
) -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors of safetensors files in the order in which they lie there, each read when it is asked for.

    `names` has those that are wanted, and what each is called then; None wants all. `reused`: all are read into one
    buffer, so that a tensor is there until the next one is asked for.
    """
    buffer = torch.empty(0, dtype=torch.uint8)
    for path in files:
        with path.open("rb") as file:
            start = int.from_bytes(file.read(8), "little") + 8
            header = json.loads(file.read(start - 8))
            wanted = {name: about for name, about in header.items() if name != "__metadata__"}
            if names is not None:
                wanted = {name: about for name, about in wanted.items() if name in names}
            largest = max((end - begin for begin, end in (each["data_offsets"] for each in wanted.values())), default=0)
            if reused and buffer.numel() < largest:
                buffer = torch.empty(largest, dtype=torch.uint8)
            for name, about in sorted(wanted.items(), key=lambda entry: entry[1]["data_offsets"][0]):
                begin, end = about["data_offsets"]
                held = buffer[: end - begin] if reused else torch.empty(end - begin, dtype=torch.uint8)
                if end > begin:
                    file.seek(start + begin)
                    file.readinto(memoryview(held.numpy()))  # type: ignore[arg-type]
                yield (name if names is None else names[name]), held.view(DTYPES[about["dtype"]]).view(about["shape"])


def cut(tensors: Iterable[tuple[str, Tensor]], layout: Layout) -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors that tensors of another layout are, or are cut into."""
    for name, tensor in tensors:
        for piece in layout[name]:
            part = tensor if piece.rows is None else tensor[slice(*piece.rows)]
            if piece.change == "halves":
                part = torch.cat(part.chunk(2)[::-1])
            yield piece.name, part.T if piece.change == "transposed" else part


def without_weights(kind: Any, config: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """Returns a network of a class of diffusers or a text encoder in evaluation mode whose parameters have no values;
    buffers have.
    """
    if issubclass(kind, PreTrainedModel):
        with init_empty_weights():
            return kind._from_config(kind.config_class.from_dict(dict(config)), dtype=dtype).eval()
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
    device: torch.device | str = "cpu",
    told: Callable[[int], None] = lambda size: None,
) -> None:
    """Gives a network copies of its tensors, by name, on a device; one that `other` has equal, under that name, is that
    very one.

    Numbers are cast to `dtype`, but for the parts that the class keeps in float32 and those that the network has in 8
    bits.

    Raises:
        KeyError: a tensor that the network has no place for.
        UserError: one of another shape.
    """
    wide, device = kept_wide(module, dtype), torch.device(device)
    slots = dict(_slots(module))
    ours = {name: holder[leaf] for name, (holder, leaf) in ({} if other is None else dict(_slots(other))).items()}
    ours = {name: tensor for name, tensor in ours.items() if tensor.device.type == device.type}
    # One place for all that is compared: many, made and dropped, leave holes.
    largest = max((tensor.nbytes for name, tensor in ours.items() if name in slots), default=0)
    spare = torch.empty(largest, dtype=torch.uint8, device=device)
    for name, tensor in tensors:
        holder, leaf = slots[name]
        told(tensor.nbytes)
        if tensor.shape != holder[leaf].shape:
            raise UserError(
                f"{name} is of {tuple(tensor.shape)}, the config describes {tuple(holder[leaf].shape)}; give the "
                "config made for it"
            )
        kind = tensor.dtype
        if kind.is_floating_point:
            kind = torch.float32 if wide & set(name.split(".")) else dtype
            if holder[leaf].is_floating_point() and holder[leaf].itemsize == 1:
                tensor, kind = tensor.to(kind), holder[leaf].dtype
        held = ours.get(name)
        if (
            held is not None
            and (held.shape, held.dtype) == (tensor.shape, kind)
            and _equal(held, spare[: held.nbytes].view(kind).view(held.shape).copy_(tensor))
        ):
            holder[leaf] = held
            continue
        with _apart():
            made = torch.empty(tensor.shape, dtype=kind, device=device)
        made.copy_(tensor)
        if isinstance(holder[leaf], nn.Parameter):
            holder[leaf] = nn.Parameter(made, requires_grad=holder[leaf].requires_grad)
        else:
            holder[leaf] = made
    if isinstance(module, PreTrainedModel):
        module.tie_weights()


@contextmanager
def _apart() -> Iterator[None]:
    """Inside, glibc takes what is a MiB or more from the system, each by itself, so that it goes back to it whole when
    it is freed: among others in one heap it would leave holes.
    """
    libc = _libc()
    if libc is None:
        yield
        return
    libc.mallopt(M_MMAP_THRESHOLD, 2**20)
    try:
        yield
    finally:  # as glibc has it once large pieces were freed
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)
        libc.mallopt(M_TRIM_THRESHOLD, 2**26)


def keep_apart() -> None:
    """From now on glibc takes what is a MiB or more from the system, and gives it back: for networks whose numbers are
    cast before and after each layer, which would leave holes, at true size 1.8 GB of them; a fifth slower.
    """
    if (libc := _libc()) is not None:
        libc.mallopt(M_MMAP_THRESHOLD, 2**20)


@functools.cache
def _libc() -> Any:
    """The C library, where it is glibc; None elsewhere."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        return libc if libc.mallopt and libc.malloc_trim else None
    except (OSError, AttributeError):
        return None


def kept_wide(module: Any, dtype: torch.dtype) -> set[str]:
    """Returns the modules that a class keeps in float32; transformers does so with most of them in float16 alone."""
    names = [getattr(module, "_keep_in_fp32_modules", None), getattr(module, "_keep_in_fp32_modules_strict", None)]
    if isinstance(module, PreTrainedModel) and dtype != torch.float16:
        names[0] = None
    return {each for found in names for each in ([found] if isinstance(found, str) else found or ())}


def _equal(held: Tensor, tensor: Tensor) -> bool:
    if held.itemsize == 1:  # torch compares no float8 numbers everywhere
        held, tensor = held.view(torch.uint8), tensor.view(torch.uint8)
    return torch.equal(held, tensor)


def _slots(module: nn.Module) -> Iterator[tuple[str, tuple[dict[str, Any], str]]]:
    for prefix, owner in module.named_modules(remove_duplicate=False):
        for holder in (owner._parameters, owner._buffers):
            for leaf, tensor in holder.items():
                if tensor is not None:
                    yield (f"{prefix}.{leaf}" if prefix else leaf), (holder, leaf)


def layout_of(part: str, weights: Weights, config: Mapping[str, Any], module: nn.Module) -> Layout | None:
    """Returns what the tensors of a part are in a module; None where that is not known, or not all of the module."""
    header = {name.removeprefix(weights.prefix): tensor.shape for name, tensor in weights.header.items()}
    known = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    text, ties = isinstance(module, PreTrainedModel), getattr(module, "_tied_weights_keys", None) or ()
    if text:
        layout = {
            name: tuple(replace(piece, name=_as_known(piece.name, known)) for piece in pieces)
            for name, pieces in text_layout(header).items()
        }
    elif part == "transformer" and FLUX_LAYOUT[0] in header:
        layout = flux_layout(known)
        if not layout.keys() <= header.keys():
            return None
    elif weights.prefix:
        names = names_in_diffusers(convert_ldm_unet_checkpoint, weights.header, config=config) if part == "unet" else {}
        layout = {name.removeprefix(weights.prefix): (Piece(ours),) for name, ours in (names or {}).items()}
    else:
        layout = {name: (Piece(name),) for name in header}
    reached = [piece.name for pieces in layout.values() for piece in pieces]
    whole = known.keys() - {*ties} <= {*reached} <= known.keys() and len({*reached}) == len(reached)
    return layout if whole else None


def _as_known(name: str, known: Mapping[str, Any]) -> str:
    """A tensor's name in a text encoder: some versions of transformers begin names with another word."""
    return next((each for each in (name, name.partition(".")[2], f"text_model.{name}") if each in known), name)


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
    if (libc := _libc()) is not None:  # glibc keeps what was freed, unless asked to give it back
        libc.malloc_trim(0)
