"""The algorithm alone: noise levels, paths, reflection and samplers over any tensor. Imports torch only."""

from w2sd_video.core.guidance import lerp_guidance
from w2sd_video.core.levels import Level, check_chain
from w2sd_video.core.multistep import Multistep, Past, second_order_step
from w2sd_video.core.paths import FlowPath, NoisePath, Path
from w2sd_video.core.reflection import Denoiser, Together, reflect, reflect_fused, reflect_release
from w2sd_video.core.samplers import (
    MODES,
    MainStep,
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
    "MainStep",
    "Multistep",
    "NoisePath",
    "OnReflect",
    "OnStep",
    "Past",
    "Path",
    "Reflection",
    "StopSampling",
    "Together",
    "autoguided",
    "check_chain",
    "lerp_guidance",
    "num_evaluations",
    "reflect",
    "reflect_fused",
    "reflect_release",
    "sample",
    "sample_reflected",
    "second_order_step",
    "w2sd",
]
