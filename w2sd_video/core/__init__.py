"""The algorithm alone: noise levels, paths, reflection and samplers over any tensor. Imports torch only."""

from w2sd_video.core.guidance import lerp_guidance
from w2sd_video.core.levels import Level, check_chain
from w2sd_video.core.paths import FlowPath, NoisePath, Path
from w2sd_video.core.reflection import Denoiser, reflect, reflect_fused, reflect_release
from w2sd_video.core.samplers import (
    MODES,
    OnReflect,
    OnStep,
    Reflection,
    StopSampling,
    autoguided,
    num_evaluations,
    sample,
    sample_reflected,
    w2sd,
)

__all__ = [
    "MODES",
    "Denoiser",
    "FlowPath",
    "Level",
    "NoisePath",
    "OnReflect",
    "OnStep",
    "Path",
    "Reflection",
    "StopSampling",
    "autoguided",
    "check_chain",
    "lerp_guidance",
    "num_evaluations",
    "reflect",
    "reflect_fused",
    "reflect_release",
    "sample",
    "sample_reflected",
    "w2sd",
]
