"""Reflection inside stock diffusers pipelines: the only place that knows diffusers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from w2sd_video.hosting.host import reflected
    from w2sd_video.hosting.run import NonFiniteLatentError, Run

__all__ = ["NonFiniteLatentError", "Run", "reflected"]

_HOMES = {
    "NonFiniteLatentError": "w2sd_video.hosting.run",
    "Run": "w2sd_video.hosting.run",
    "reflected": "w2sd_video.hosting.host",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: some modules here are read before torch and diffusers are needed.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
