"""DiT-MoE (Fei et al., arXiv 2407.11633): a class-conditional transformer whose routing makes a weak-to-strong pair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridges.dit_moe.checkpoints import convert, from_checkpoint
    from bridges.dit_moe.configurations import count_parameters, named
    from bridges.dit_moe.network import DiTMoE

__all__ = ["DiTMoE", "convert", "count_parameters", "from_checkpoint", "named"]

_HOMES = {
    "DiTMoE": "bridges.dit_moe.network",
    "convert": "bridges.dit_moe.checkpoints",
    "count_parameters": "bridges.dit_moe.configurations",
    "from_checkpoint": "bridges.dit_moe.checkpoints",
    "named": "bridges.dit_moe.configurations",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: the command checks its arguments before torch and diffusers are imported (seconds).
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
