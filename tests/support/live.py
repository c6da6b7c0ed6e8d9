"""Bytes alive at the peak of a computation without values (on the meta device), attention in one pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from benchmarks.measuring import LiveBytes


def _attention(query: Any, key: Any, value: Any, *args: Any, **settings: Any) -> torch.Tensor:
    return torch.empty(*query.shape[:-1], value.shape[-1], dtype=query.dtype, device=query.device)


def activations(make: Callable[[], Any], call: Callable[[Any], Any], dtype: torch.dtype) -> int:
    """Returns the bytes alive at the peak of `call` of the module that `make` makes, beside its weights."""
    with pytest.MonkeyPatch.context() as patch, torch.device("meta"), torch.no_grad():
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", _attention)
        module = make().to(dtype).eval()
        held = [*module.parameters(), *module.buffers()]
        with LiveBytes("meta", held) as live:
            call(module)
    return live.peak
