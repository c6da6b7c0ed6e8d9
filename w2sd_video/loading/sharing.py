"""One storage for equal tensors of two models, and bytes counted by their addresses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def share_pipelines(strong: Any, weak: Any) -> int:
    """Make every component of `weak` hold the tensors of the strong pipeline's component of that name wherever equal.

    Text encoders, VAEs and networks alike; components that are one object stay so. Nothing is computed otherwise: the
    same bits are read from one place. Returns the bytes that are kept once instead of twice.
    """
    shared = 0
    for name, module in weak.components.items():
        other = getattr(strong, name, None)
        if isinstance(module, nn.Module) and isinstance(other, nn.Module):
            shared += share_equal_tensors(other, module)
    if shared and hasattr(weak, "motion_adapter"):  # whose parameters are the network's
        share_equal_tensors(weak.unet, weak.motion_adapter)
    return shared


def separate(strong: Any, weak: Any) -> None:
    """Give the weak pipeline (or network) copies of what it shares with the strong one, to be moved apart."""
    held = {id(module) for module in modules_of(strong)}
    ours = {id(tensor) for module in modules_of(strong) for tensor in _tensors(module)}
    copies: dict[int, Any] = {}  # what the weak side's own parts share stays shared
    for module in (module for module in modules_of(weak) if id(module) not in held):
        for _, (holder, leaf) in _slots(module):
            tensor = holder[leaf]
            if id(tensor) in ours and id(tensor) not in copies:
                copy = tensor.detach().clone()
                parameter = isinstance(tensor, nn.Parameter)
                copies[id(tensor)] = nn.Parameter(copy, tensor.requires_grad) if parameter else copy
            holder[leaf] = copies.get(id(tensor), tensor)


def modules_of(side: Any) -> list[nn.Module]:
    """The networks, text encoders and VAE of a pipeline; a bare network is its own."""
    if isinstance(side, nn.Module):
        return [side]
    return [part for part in side.components.values() if isinstance(part, nn.Module)]


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from (holder[leaf] for _, (holder, leaf) in _slots(module))


def share_equal_tensors(first: nn.Module, second: nn.Module) -> int:
    """Make `second` hold the tensors of `first` wherever both have an equal one under the same name.

    Equal means same shape, dtype and device and every element equal; quantised ones, made of several tensors, are left.
    Parameter objects themselves are shared, so that
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
        if source is not tensor and (is_traceable_wrapper_subclass(source) or is_traceable_wrapper_subclass(tensor)):
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
