"""The algorithm alone: levels, paths, one sampling loop, solvers and reflections over any tensor. Needs torch only."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from w2sd_video.core.guidance import autoguidance, lerp_guidance
    from w2sd_video.core.levels import Level, check_chain
    from w2sd_video.core.options import MODES, ReflectionConfig
    from w2sd_video.core.paths import FlowPath, NoisePath, Path, renoised
    from w2sd_video.core.reflection import (
        W2SD,
        AutoSelect,
        CustomReflection,
        JointDenoiser,
        Reflection,
        Resample,
        reflect,
        reflect_fused,
        reflect_release,
        reflected_latent,
    )
    from w2sd_video.core.sampling import Callback, Observed, OnReflect, sample, w2sd
    from w2sd_video.core.selection import Reward, Selector
    from w2sd_video.core.solvers import DPMSolverMultistep, Euler, Past, Solver, second_order_step
    from w2sd_video.core.variations import CachedDenoiser, Denoiser, NoiseSampler, bounded, converges, invert

__all__ = [
    "MODES",
    "W2SD",
    "AutoSelect",
    "CachedDenoiser",
    "Callback",
    "CustomReflection",
    "DPMSolverMultistep",
    "Denoiser",
    "Euler",
    "FlowPath",
    "JointDenoiser",
    "Level",
    "NoisePath",
    "NoiseSampler",
    "Observed",
    "OnReflect",
    "Past",
    "Path",
    "Reflection",
    "ReflectionConfig",
    "Resample",
    "Reward",
    "Selector",
    "Solver",
    "autoguidance",
    "bounded",
    "check_chain",
    "converges",
    "invert",
    "lerp_guidance",
    "reflect",
    "reflect_fused",
    "reflect_release",
    "reflected_latent",
    "renoised",
    "sample",
    "second_order_step",
    "w2sd",
]

_HOMES = {
    "guidance": ("autoguidance", "lerp_guidance"),
    "levels": ("Level", "check_chain"),
    "options": ("MODES", "ReflectionConfig"),
    "paths": ("FlowPath", "NoisePath", "Path", "renoised"),
    "reflection": (
        *("W2SD", "AutoSelect", "CustomReflection", "JointDenoiser", "Reflection", "Resample"),
        *("reflect", "reflect_fused", "reflect_release", "reflected_latent"),
    ),
    "sampling": ("Callback", "Observed", "OnReflect", "sample", "w2sd"),
    "selection": ("Reward", "Selector"),
    "solvers": ("DPMSolverMultistep", "Euler", "Past", "Solver", "second_order_step"),
    "variations": ("CachedDenoiser", "Denoiser", "NoiseSampler", "bounded", "converges", "invert"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    # Loaded on first use: `core.options` is read by programs that do not load torch.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
