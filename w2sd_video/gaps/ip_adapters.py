"""The scale of a network's IP-Adapters, set for the evaluations of one side of a pair and put back after.

What an IP-Adapter is told (embeddings of a picture) does not depend on the latent: it is recorded with the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from w2sd_video.errors import UserError


def find_ip_adapters(network: nn.Module) -> IpAdapterScale:
    """Returns the switch of a network with IP-Adapters (`pipe.load_ip_adapter`).

    Raises:
        UserError: the network has none.
    """
    inner: Any = getattr(network, "_orig_mod", network)  # of a compiled module
    processors = getattr(inner, "attn_processors", {}).values()
    adapted = [p for p in processors if "IPAdapter" in type(p).__name__ and hasattr(p, "scale")]
    if not adapted:
        raise UserError(
            f"{type(inner).__name__} has no IP-Adapter whose scale could differ; call load_ip_adapter first, or leave "
            "ip_adapter out"
        )
    return IpAdapterScale(adapted)


class IpAdapterScale:
    """The scale of attention processors: a list with a number per IP-Adapter, or one number (SD3)."""

    def __init__(self, processors: Sequence[Any]) -> None:
        self._processors = processors

    def check(self, value: float) -> None:
        if not math.isfinite(value):
            raise UserError(f"ip_adapter is {value}; it must be a finite number (0 is as if there were no IP-Adapter)")

    @property
    def now(self) -> Any:
        """The one number they all have, or else all of them."""
        scales = [p.scale if isinstance(p.scale, list) else [p.scale] for p in self._processors]
        single = {each for scale in scales for each in scale if isinstance(each, int | float)}
        plain = all(isinstance(each, int | float) for scale in scales for each in scale)
        return float(single.pop()) if plain and len(single) == 1 else scales

    @contextmanager
    def set_to(self, value: float) -> Iterator[None]:
        before = [p.scale for p in self._processors]
        try:
            for processor, own in zip(self._processors, before, strict=True):
                processor.scale = [value] * len(own) if isinstance(own, list) else value
            yield
        finally:
            for processor, own in zip(self._processors, before, strict=True):
                processor.scale = own
