"""Samples by each algorithm in one call, its options as keywords, to say in tests what differs and no more."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from w2sd_video.core import (
    AutoSelect,
    Denoiser,
    JointDenoiser,
    NoiseSampler,
    Observed,
    OnReflect,
    Reflection,
    ReflectionConfig,
    Resample,
    Selector,
    Solver,
    autoguidance,
    sample,
    w2sd,
)
from w2sd_video.core.denoisers import Callback

Run = tuple[Any, ...]  # x, levels, strong, weak (first and second for "auto"), path


def by_w2sd(
    *run: Any,
    joint: JointDenoiser | None = None,
    noise_sampler: NoiseSampler = torch.randn_like,
    solver: Solver | None = None,
    callback: Callback | None = None,
    on_reflect: OnReflect | None = None,
    **options: Any,
) -> Tensor:
    return w2sd(
        *run,
        options=ReflectionConfig(**options),
        joint=joint,
        noise_sampler=noise_sampler,
        solver=solver,
        callback=callback,
        on_reflect=on_reflect,
    )


def by_selection(
    x: Tensor,
    levels: Any,
    first: Denoiser,
    second: Denoiser,
    path: Any,
    selector: Selector,
    *,
    joint: JointDenoiser | None = None,
    noise_sampler: NoiseSampler = torch.randn_like,
    solver: Solver | None = None,
    callback: Callback | None = None,
    on_reflect: OnReflect | None = None,
    **options: Any,
) -> Tensor:
    """Algorithm 2."""
    config = ReflectionConfig(**options)
    auto = AutoSelect(levels, first, second, path, selector, config, joint=joint, noise_sampler=noise_sampler)
    reflection: Reflection = auto if on_reflect is None else Observed(auto, on_reflect)
    return sample(x, levels, auto.strong, path, reflect=reflection, solver=solver, callback=callback)


def by_resampling(
    x: Tensor,
    levels: Any,
    strong: Denoiser,
    weak: Denoiser | None,
    path: Any,
    *,
    reflector: Denoiser | None = None,
    opposed: bool = False,
    noise_sampler: NoiseSampler = torch.randn_like,
    solver: Solver | None = None,
    callback: Callback | None = None,
    on_reflect: OnReflect | None = None,
    **options: Any,
) -> Tensor:
    """Algorithm 3 without a weak model, else 4."""
    config, inner = ReflectionConfig(**options), strong if reflector is None else reflector
    reflection: Reflection = Resample(
        levels, inner, path, config, weak=weak, opposed=opposed, noise_sampler=noise_sampler
    )
    reflection = reflection if on_reflect is None else Observed(reflection, on_reflect)
    return sample(x, levels, strong, path, reflect=reflection, solver=solver, callback=callback)


def by_autoguidance(
    x: Tensor, levels: Any, strong: Denoiser, weak: Denoiser, path: Any, weight: float = 1.0, **more: Any
) -> Tensor:
    return sample(x, levels, autoguidance(strong, weak, weight), path, **more)
