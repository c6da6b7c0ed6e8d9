"""One storage for equal tensors, bytes counted by their addresses, and decoding in chunks of frames."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# A chunk is as many frames as fit this many pixels: one frame at 1024 x 1024, all of a small video.
CHUNK_PIXELS = 1024 * 1024


def share_equal_tensors(first: nn.Module, second: nn.Module) -> int:
    """Make `second` hold the tensors of `first` wherever both have an equal one under the same name.

    Equal means same shape, dtype and device and every element equal. Parameter objects themselves are shared, so that
    moving either module moves both. Returns the bytes of `second` that live in `first`'s storage afterwards.
    """
    ours = dict(_slots(first))
    shared = 0
    for name, (holder, leaf) in _slots(second):
        if name not in ours:
            continue
        source_holder, source_leaf = ours[name]
        source, tensor = source_holder[source_leaf], holder[leaf]
        if (source.shape, source.dtype, source.device) != (tensor.shape, tensor.dtype, tensor.device):
            continue
        if source is tensor or source.data_ptr() == tensor.data_ptr() or torch.equal(source, tensor):
            holder[leaf] = source
            shared += tensor.nbytes
    return shared


def _slots(module: nn.Module) -> Iterator[tuple[str, tuple[dict[str, Any], str]]]:
    for prefix, owner in module.named_modules(remove_duplicate=False):
        for holder in (owner._parameters, owner._buffers):
            for leaf, tensor in holder.items():
                if tensor is not None and not tensor.is_meta:
                    yield (f"{prefix}.{leaf}" if prefix else leaf), (holder, leaf)


def unique_bytes(*modules: nn.Module | None) -> int:
    """Returns the bytes that the parameters and buffers of all modules occupy, each address counted once."""
    spans: dict[torch.device, set[tuple[int, int]]] = defaultdict(set)
    for module in modules:
        for holder, leaf in (slot for _, slot in _slots(module)) if module is not None else ():
            tensor = holder[leaf]
            spans[tensor.device].add((tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes))
    total = 0
    for found in spans.values():
        reached = 0
        for start, end in sorted(found):  # the union of the intervals: views may overlap
            total += max(0, end - max(start, reached))
            reached = max(reached, end)
    return total


def install_chunked_decode(vae: Any, frames: int | None = None) -> Callable[[], None]:
    """Make `vae.decode` take a long batch in chunks of `frames` and return the function that undoes it.

    The stock AnimateDiffSDXLPipeline decodes all frames in one call: 24 GiB for 16 frames at 1024 x 1024, more than
    the sampler needs. Frames do not meet in an image VAE, so chunks change nothing but rounding. None takes as many
    frames as hold `CHUNK_PIXELS`. Latents are cast to the VAE's dtype, which may be wider than the networks'.
    """
    if frames is not None and frames < 1:
        raise ValueError(f"frames is {frames}; it must be at least 1")
    previous = vae.__dict__.get("decode")
    whole = getattr(previous, "decodes_whole", None) or vae.decode  # a second wrapper replaces the first
    factor = 2 ** (len(vae.config.block_out_channels) - 1)

    @functools.wraps(whole)
    def decode(z: Tensor, return_dict: bool = True, **settings: Any) -> Any:
        # [B, C, h, w] -> [B, 3, H, W]
        pixels = z.shape[-2] * z.shape[-1] * factor**2
        size = frames or max(1, CHUNK_PIXELS // pixels)
        parts = [whole(part, return_dict=False, **settings)[0] for part in z.to(vae.dtype).split(size)]
        images = torch.cat(parts) if len(parts) > 1 else parts[0]
        if not return_dict:
            return (images,)
        from diffusers.models.autoencoders.vae import DecoderOutput

        return DecoderOutput(sample=images)

    decode.decodes_whole = whole  # type: ignore[attr-defined]
    vae.decode = decode

    def undo() -> None:
        if previous is None:
            del vae.decode
        else:
            vae.decode = previous

    return undo


@contextmanager
def decoding_in_chunks(pipe: Any, frames: int | None = None) -> Iterator[None]:
    """Inside, `pipe` decodes `frames` frames per VAE call (`install_chunked_decode`); afterwards it is as it was."""
    undo = install_chunked_decode(pipe.vae, frames)
    try:
        yield
    finally:
        undo()
