"""Hosted calls against Algorithm 1 written out: a loop of its own over networks called by hand, in batches of two."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import tiny
from w2sd_video import ModelSpec, reflected

PROMPTS, NEGATIVE = ["a red cat", "two dogs"], ["blurry", "dark"]
STEPS, LAMBDA = 4, 3
Predict = Callable[[Tensor, int], Tensor]  # a guided prediction in float64, for a latent and the step's index
CALL: dict[str, Any] = {"num_inference_steps": STEPS, "height": 16, "width": 16, "output_type": "latent"}


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


def guided(evaluate: Callable[[Tensor, int, int], Tensor], scale: float) -> Predict:
    """Guidance over evaluate(x, step, half): half 0 is told the negative prompt, half 1 the prompt."""

    def predict(x: Tensor, i: int) -> Tensor:
        without, with_prompt = (evaluate(x.float(), i, half).double() for half in (0, 1))
        return without + scale * (with_prompt - without)

    return predict


def ddim_grid(spacing: str) -> tuple[list[int], list[float], list[float]]:
    """SDXL's betas on DDIM's grids: timesteps, alphas and sigmas, chained (stock DDIM misses its "linspace" grid)."""
    alpha_bar = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)
    if spacing == "leading":  # offset 1, and the last step ends at level 0
        told, end = [k * (1000 // STEPS) + 1 for k in reversed(range(STEPS))], float(alpha_bar[0])
    else:  # the last timestep is 0, so the last step ends at clean data
        told, end = [round(999 * k / (STEPS - 1)) for k in reversed(range(STEPS))], 1.0
    ends = [*alpha_bar[told].tolist(), end]
    return told, [math.sqrt(a) for a in ends], [math.sqrt(1 - a) for a in ends]


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
    text, without, pooled, pooled_without = pipe.encode_prompt(PROMPTS, device="cpu", negative_prompt=NEGATIVE)
    states, pools = (without, text), (pooled_without, pooled)
    sizes = torch.tensor([[16.0, 16.0, 0.0, 0.0, 16.0, 16.0]] * 2)  # original size, crop, target size
    told, alphas, sigmas = ddim_grid(spacing)

    def evaluation(unet: Any) -> Callable[[Tensor, int, int], Tensor]:
        def evaluate(x: Tensor, i: int, half: int) -> Tensor:
            added = {"text_embeds": pools[half], "time_ids": sizes}
            context = states[half].repeat_interleave(frames, 0)
            return unet(x, torch.tensor(told[i]), encoder_hidden_states=context, added_cond_kwargs=added)[0]

        return evaluate

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
    texts = [pipe.encode_prompt(p, p, device="cpu", max_sequence_length=16) for p in (NEGATIVE, PROMPTS)]
    tokens = torch.randn(2, 16, 16, generator=tiny.generator(5))  # 16 patches of 2 x 2 x 4 channels
    places = torch.tensor([[0.0, row, column] for row in range(4) for column in range(4)])
    mu = 0.5 + (16 - 256) * (1.15 - 0.5) / (4096 - 256)  # the pipeline's shift for 16 patches
    grid = [1 - k * (1 - 1 / STEPS) / (STEPS - 1) for k in range(STEPS)]
    sigmas = [math.exp(mu) / (math.exp(mu) + 1 / s - 1) for s in grid] + [0.0]

    def evaluation(transformer: Any) -> Callable[[Tensor, int, int], Tensor]:
        def evaluate(x: Tensor, i: int, half: int) -> Tensor:
            embeds, pooled, text_places = texts[half]
            return transformer(
                x,
                encoder_hidden_states=embeds,
                pooled_projections=pooled,
                timestep=torch.full((2,), sigmas[i]),
                img_ids=places,
                txt_ids=text_places,
                guidance=torch.full((2,), 3.5),
            )[0]

        return evaluate

    strong, weakly = guided(evaluation(pipe.transformer), true_scale or 1.0), guided(evaluation(weak), 1.0)
    expected = algorithm_1(tokens, [1.0] * (STEPS + 1), sigmas, strong, strong, weakly)
    true = {} if true_scale is None else {"true_cfg_scale": true_scale, "negative_prompt": NEGATIVE}

    def call() -> Tensor:
        return pipe(PROMPTS, guidance_scale=3.5, latents=tokens, max_sequence_length=16, **CALL, **true)[0]

    spec = ModelSpec() if true_scale is None else ModelSpec(guidance=1.0)
    check_against_algorithm_1(call, expected, true_scale or 1.0, pipe, (weak, spec), None)
