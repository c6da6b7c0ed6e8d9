"""Hosted calls with ControlNets against Algorithm 1 written out, every network and ControlNet called by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.hosting.test_hosting_reference import (
    CALL,
    NEGATIVE,
    PROMPTS,
    STEPS,
    algorithm_1,
    check_against_algorithm_1,
    ddim_grid,
    guided,
)
from tests.support import tiny, tiny_controls
from w2sd_video import ModelSpec

PICTURES = tiny_controls.picture(count=2)
Evaluate = Callable[[Tensor, int, int], Tensor]


# App. C.1: sampling at 5.5, both sides of a reflection at 0.5. The weak side plain, or less controlled.
@pytest.mark.parametrize(
    ("family", "weak_scale", "window"),
    [("sd15", 0.0, (0.0, 1.0)), ("sdxl", 0.0, (0.0, 0.5)), ("sd15", 0.4, (0.2, 0.8))],
)
@torch.no_grad()
def test_unets_equal_algorithm_1_with_the_controlnet_called_at_every_latent(family, weak_scale, window):
    pipe = tiny_controls.sd15() if family == "sd15" else tiny_controls.sdxl()
    encoded = pipe.encode_prompt(
        PROMPTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True, negative_prompt=NEGATIVE
    )
    states = encoded[1], encoded[0]
    added: list[Any] = [None, None]
    if family == "sdxl":
        sizes = torch.tensor([[16.0, 16.0, 0.0, 0.0, 16.0, 16.0]] * 2)  # original size, crop, target size
        added = [{"text_embeds": pooled, "time_ids": sizes} for pooled in (encoded[3], encoded[2])]
    told, alphas, sigmas = ddim_grid("leading")

    def evaluation(scale: float) -> Evaluate:
        def evaluate(x: Tensor, i: int, half: int) -> Tensor:
            given = {"encoder_hidden_states": states[half], "added_cond_kwargs": added[half]}
            timestep, residuals = torch.tensor(told[i]), {}
            if scale != 0 and window[0] <= i / STEPS and (i + 1) / STEPS <= window[1]:
                down, mid = pipe.controlnet(x, timestep, controlnet_cond=PICTURES, return_dict=False, **given)
                residuals = {
                    "down_block_additional_residuals": [scale * each for each in down],
                    "mid_block_additional_residual": scale * mid,
                }
            return pipe.unet(x, timestep, **given, **residuals)[0]

        return evaluate

    x = torch.randn(2, 4, 8, 8, generator=tiny.generator(5))
    strong, reflector = (guided(evaluation(1.0), scale) for scale in (5.5, 0.5))
    expected = algorithm_1(x, alphas, sigmas, strong, reflector, guided(evaluation(weak_scale), 0.5))
    windows = {"control_guidance_start": window[0], "control_guidance_end": window[1]}

    def call() -> Tensor:
        arguments = {**CALL, **windows, "image": PICTURES, "latents": x, "guidance_scale": 5.5}
        return pipe(PROMPTS, negative_prompt=NEGATIVE, **arguments)[0]

    weak = ModelSpec(guidance=0.5, control={"scale": weak_scale})
    check_against_algorithm_1(call, expected, 5.5, pipe, weak, ModelSpec(guidance=0.5))


@torch.no_grad()
def test_flux_equals_algorithm_1_with_the_controlnet_called_at_every_latent():
    """Real guidance 2.5: both halves have what the ControlNet makes of the prompt, as in the stock pipeline."""
    pipe = tiny_controls.flux()
    texts = [pipe.encode_prompt(p, p, device="cpu", max_sequence_length=16) for p in (NEGATIVE, PROMPTS)]
    tokens = torch.randn(2, 16, 16, generator=tiny.generator(5))  # 16 patches of 2 x 2 x 4 channels
    places = torch.tensor([[0.0, row, column] for row in range(4) for column in range(4)])
    mu = 0.5 + (16 - 256) * (1.15 - 0.5) / (4096 - 256)  # the pipeline's shift for 16 patches
    grid = [1 - k * (1 - 1 / STEPS) / (STEPS - 1) for k in range(STEPS)]
    sigmas = [math.exp(mu) / (math.exp(mu) + 1 / s - 1) for s in grid] + [0.0]
    encoded = pipe.vae.encode(PICTURES).latent_dist.sample(tiny.generator(9))
    control = ((encoded - 0.0609) * 1.5035).view(2, 4, 4, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(2, 16, 16)

    def evaluation(scale: float) -> Evaluate:
        def evaluate(x: Tensor, i: int, half: int) -> Tensor:
            def given(embeds: Tensor, pooled: Tensor, text_places: Tensor) -> dict[str, Any]:
                return {
                    "encoder_hidden_states": embeds,
                    "pooled_projections": pooled,
                    "timestep": torch.full((2,), sigmas[i]),
                    "img_ids": places,
                    "txt_ids": text_places,
                    "guidance": torch.full((2,), 3.5),
                }

            residuals = {}
            if scale != 0:
                blocks, singles = pipe.controlnet(x, control, **given(*texts[1]), return_dict=False)
                residuals["controlnet_block_samples"] = [scale * each for each in blocks]
                residuals["controlnet_single_block_samples"] = [scale * each for each in singles]
            return pipe.transformer(x, **given(*texts[half]), **residuals)[0]

        return evaluate

    strong, weakly = guided(evaluation(0.8), 2.5), guided(evaluation(0.3), 2.5)
    expected = algorithm_1(tokens, [1.0] * (STEPS + 1), sigmas, strong, strong, weakly)

    def call() -> Tensor:
        arguments = {**CALL, "latents": tokens, "max_sequence_length": 16, "generator": tiny.generator(9)}
        return pipe(
            PROMPTS,
            negative_prompt=NEGATIVE,
            guidance_scale=3.5,
            true_cfg_scale=2.5,
            control_image=PICTURES,
            controlnet_conditioning_scale=0.8,
            **arguments,
        )[0]

    check_against_algorithm_1(call, expected, 2.5, pipe, ModelSpec(control={"scale": 0.3}), None)
