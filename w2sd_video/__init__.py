"""Weak-to-Strong Diffusion with Reflection for any diffusers pipeline (Bai, Sugiyama and Xie, arXiv 2502.00473)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from w2sd_video.errors import UserError
    from w2sd_video.hosting import reflected
    from w2sd_video.pair import ModelPair, ModelSpec, ReflectionConfig, Routing, Selection

__version__ = "0.1.0"
__all__ = ["ModelPair", "ModelSpec", "ReflectionConfig", "Routing", "Selection", "UserError", "reflected"]

_HOMES = {
    "reflected": "w2sd_video.hosting",
    "UserError": "w2sd_video.errors",
    "ModelPair": "w2sd_video.pair",
    "ModelSpec": "w2sd_video.pair",
    "ReflectionConfig": "w2sd_video.pair",
    "Routing": "w2sd_video.pair",
    "Selection": "w2sd_video.pair",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: `import w2sd_video` alone must not import torch and diffusers (seconds).
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
