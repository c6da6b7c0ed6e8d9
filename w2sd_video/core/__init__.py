"""The algorithm alone: levels, paths, one sampling loop, solvers and reflections over any tensor. Needs torch only."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from w2sd_video.core.algorithms import (
        W2SD,
        AutoSelect,
        Resample,
        reflect,
        reflect_fused,
        sample,
    )
    from w2sd_video.core.denoisers import (
        CachedDenoiser,
        Callback,
        Combine,
        Denoiser,
        GapDenoiser,
        JointDenoiser,
        NoiseSampler,
        OnReflect,
        Reflection,
        autoguidance,
        lerp_guidance,
        with_gap,
    )
    from w2sd_video.core.levels import Level, check_chain
    from w2sd_video.core.options import MODES, ReflectionConfig
    from w2sd_video.core.paths import FlowPath, NoisePath, Path, renoised
    from w2sd_video.core.sampling import CustomReflection, Observed, w2sd
    from w2sd_video.core.solvers import DPMSolverMultistep, Euler, Past, Solver, UniPC, second_order_step
    from w2sd_video.core.trained_levels import TrainedLevels, at_trained_levels
    from w2sd_video.core.variations import (
        CachedGap,
        Reward,
        Selector,
        Still,
        bounded,
        converges,
        invert,
        mean_over_frames,
        reflect_release,
    )

__all__ = [
    "MODES",
    "W2SD",
    "AutoSelect",
    "CachedDenoiser",
    "CachedGap",
    "Callback",
    "Combine",
    "CustomReflection",
    "DPMSolverMultistep",
    "Denoiser",
    "Euler",
    "FlowPath",
    "GapDenoiser",
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
    "Still",
    "TrainedLevels",
    "UniPC",
    "at_trained_levels",
    "autoguidance",
    "bounded",
    "check_chain",
    "converges",
    "invert",
    "lerp_guidance",
    "mean_over_frames",
    "reflect",
    "reflect_fused",
    "reflect_release",
    "renoised",
    "sample",
    "second_order_step",
    "w2sd",
    "with_gap",
]

_MODULES = (
    *("options", "levels", "paths", "denoisers", "solvers", "variations", "algorithms", "sampling"),
    "trained_levels",
)


def __getattr__(name: str) -> Any:
    # Loaded on first use, the first of these without torch: `core.options` is read by programs that do not load it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    modules = (importlib.import_module(f"{__name__}.{module}") for module in _MODULES)
    return next(getattr(module, name) for module in modules if hasattr(module, name))
