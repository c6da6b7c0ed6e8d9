"""The algorithm alone: noise levels, paths, reflection and samplers over any tensor. Imports torch only."""

from w2sd_video.core.guidance import lerp_guidance
from w2sd_video.core.levels import Level, check_chain
from w2sd_video.core.multistep import Multistep, Past, second_order_step
from w2sd_video.core.paths import FlowPath, NoisePath, Path
from w2sd_video.core.refinements import AS_PRINTED, Draw, Lagging, Refinements, num_evaluations, reflected_latent
from w2sd_video.core.reflection import Denoiser, Together, converges, invert, reflect, reflect_fused, reflect_release
from w2sd_video.core.resampling import SIMILARITIES, renoised, resample, resample_aligned
from w2sd_video.core.samplers import (
    MODES,
    MainStep,
    OnReflect,
    OnStep,
    Reflection,
    StopSampling,
    autoguided,
    sample,
    sample_reflected,
    w2sd,
)
from w2sd_video.core.selection import Reward, Selector, w2sd_auto

__all__ = [
    "AS_PRINTED",
    "MODES",
    "SIMILARITIES",
    "Denoiser",
    "Draw",
    "FlowPath",
    "Lagging",
    "Level",
    "MainStep",
    "Multistep",
    "NoisePath",
    "OnReflect",
    "OnStep",
    "Past",
    "Path",
    "Refinements",
    "Reflection",
    "Reward",
    "Selector",
    "StopSampling",
    "Together",
    "autoguided",
    "check_chain",
    "converges",
    "invert",
    "lerp_guidance",
    "num_evaluations",
    "reflect",
    "reflect_fused",
    "reflect_release",
    "reflected_latent",
    "renoised",
    "resample",
    "resample_aligned",
    "sample",
    "sample_reflected",
    "second_order_step",
    "w2sd",
    "w2sd_auto",
]
