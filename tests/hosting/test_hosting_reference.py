"""Hosted calls against Algorithm 1 written out: a loop of its own over networks called by hand, in batches of two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support import tiny
from tests.support.written_out import (
    CALL,
    LAMBDA,
    NEGATIVE,
    PROMPTS,
    STEPS,
    Predict,
    ddim_grid,
    flux_evaluations,
    flux_grid,
    guided,
    unet_evaluations,
)
from w2sd_video import ModelSpec, reflected


def algorithm_1(
    x: Tensor, alphas: list[float], sigmas: list[float], strong: Predict, reflector: Predict, weak: Predict
) -> Tensor:
    """Alg. 1 in float64 on x / alpha, which moves by the difference of sigma / alpha; a flow has alpha 1 here."""
    kappas = [sigma / alpha for alpha, sigma in zip(alphas, sigmas, strict=True)]
    x = x.double()
    for i in range(STEPS):
        here, there = alphas[i], alphas[i + 1]
        down = kappas[i + 1] - kappas[i]
        if i < LAMBDA:
            lower = there * (x / here + down * reflector(x, i))  # x_{t-1}
            x = here * (lower / there - down * weak(lower, i))  # x~_t, the weak network told t
        x = there * (x / here + down * strong(x, i))
    return x


def rounding(latents: Tensor, scale: float) -> float:
    """What float32 may add: each of T + 2 lambda evaluations rounds its latent and its prediction to 6e-8 of the
    largest value, and guidance passes a difference on up to (2 scale - 1)-fold."""
    return (STEPS + 2 * LAMBDA) * 2 * (2 * scale - 1) * 6e-8 * float(latents.abs().max())


def check_against_algorithm_1(
    call: Callable[..., Tensor], expected: Tensor, scale: float, pipe: Any, weak: Any, reflector: ModelSpec | None
) -> None:
    stock = call()
    with reflected(pipe, weak, reflector=reflector, num_reflections=LAMBDA) as run:
        got = call()
    tolerance = rounding(expected, scale)
    assert (got - expected).abs().max() <= tolerance
    assert (stock - expected).abs().max() > 1000 * tolerance  # the reflections did something
    assert run.num_evaluations == STEPS + 2 * LAMBDA


# guidance of the strong side, of the strong side as it reflects, of the weak side: App. C.1, and the video setting
@pytest.mark.parametrize(("frames", "scales"), [(1, (5.5, 1.0, 1.0)), (3, (3.0, 3.0, 1.0))])
@pytest.mark.parametrize("spacing", ["leading", "linspace"])
@torch.no_grad()
def test_sdxl_and_animatediff_equal_algorithm_1_with_the_networks_called_by_hand(frames, scales, spacing):
    build = tiny.sdxl if frames == 1 else tiny.animatediff_sdxl
    pipe = build(scheduler=tiny.ddim(timestep_spacing=spacing))
    weak = tiny.sdxl_unet(2) if frames == 1 else tiny.motion_unet(2)
    told, alphas, sigmas = ddim_grid(spacing)
    evaluation = unet_evaluations(pipe, told, frames)
    x = torch.randn((2, 4, frames, 8, 8) if frames > 1 else (2, 4, 8, 8), generator=tiny.generator(5))
    strong, reflector = (guided(evaluation(pipe.unet), scale) for scale in scales[:2])
    expected = algorithm_1(x, alphas, sigmas, strong, reflector, guided(evaluation(weak), scales[2]))
    more = {"num_frames": frames} if frames > 1 else {}

    def call() -> Tensor:
        return pipe(PROMPTS, negative_prompt=NEGATIVE, guidance_scale=scales[0], latents=x, **CALL, **more)[0]

    pair = (weak, ModelSpec(guidance=scales[2]))
    check_against_algorithm_1(call, expected, scales[0], pipe, pair, ModelSpec(guidance=scales[1]))


@pytest.mark.parametrize("true_scale", [None, 2.5])
@torch.no_grad()
def test_flux_equals_algorithm_1_with_the_networks_called_by_hand(true_scale):
    """Embedded guidance 3.5 on both sides; with true guidance 2.5 (strong) and 1.0 (weak) too."""
    pipe, weak = tiny.flux(), tiny.flux_transformer(2)
    tokens = torch.randn(2, 16, 16, generator=tiny.generator(5))  # 16 patches of 2 x 2 x 4 channels
    sigmas = flux_grid()
    evaluation = flux_evaluations(pipe, sigmas)
    strong, weakly = guided(evaluation(pipe.transformer), true_scale or 1.0), guided(evaluation(weak), 1.0)
    expected = algorithm_1(tokens, [1.0] * (STEPS + 1), sigmas, strong, strong, weakly)
    true = {} if true_scale is None else {"true_cfg_scale": true_scale, "negative_prompt": NEGATIVE}

    def call() -> Tensor:
        return pipe(PROMPTS, guidance_scale=3.5, latents=tokens, max_sequence_length=16, **CALL, **true)[0]

    spec = ModelSpec() if true_scale is None else ModelSpec(guidance=1.0)
    check_against_algorithm_1(call, expected, true_scale or 1.0, pipe, (weak, spec), None)
