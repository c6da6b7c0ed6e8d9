"""What cannot be bridged is refused before anything is evaluated, saying what was got, what is allowed, what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch

from bridges.pixel.bridged import bridged
from bridges.pixel.noise_maps import Mapped
from tests.support import tiny
from tests.support.bridging import STEPS, UNGUIDED, call, mapped, pipeline
from w2sd_video import ModelSpec, reflected
from w2sd_video.errors import UserError


def small_vae(channels: int, stages: int = 2) -> diffusers.AutoencoderTiny:
    widths, blocks = (8,) * stages, (1,) * stages
    return diffusers.AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=blocks,
        num_decoder_blocks=blocks,
        latent_channels=channels,
    )


def fitted_for(*fingerprints: str) -> Mapped:
    return Mapped(torch.eye(4, dtype=torch.float64), 1.0, fingerprints=fingerprints)


def refused(said: str, strong: Any, weak: Any, arguments: dict[str, Any] | None = None, **settings: Any) -> None:
    """Refused on entry or in the call, with no network evaluated, and the strong pipeline as it was after it."""
    kind, evaluated = type(strong), []
    networks = [p.unet if hasattr(p, "unet") else p.transformer for p in (strong, pipeline("sdxl", 2))]
    hooks = [network.register_forward_pre_hook(lambda *_: evaluated.append(1)) for network in networks]
    try:
        with (
            pytest.raises(UserError, match=said),
            bridged(strong, weak, **{"num_reflections": 3, "noise_map": mapped(), **settings}),
        ):
            call(strong, "flux" if kind is diffusers.FluxPipeline else "sdxl", **(arguments or {}))
    finally:
        for hook in hooks:
            hook.remove()
    assert type(strong) is kind and evaluated == []


@pytest.mark.parametrize(
    ("weak", "said"),
    [
        ("sdxl", "weak is a str; give a pipeline"),
        (None, "weak is a NoneType"),
        (lambda: pipeline("sdxl").unet, "weak is a UNet2DConditionModel; give a pipeline"),
        (lambda: (pipeline("sdxl"), "guidance 1"), "weak has a str where a ModelSpec belongs"),
        (lambda: (pipeline("sdxl"), ModelSpec(loras=(("a", 1.0),))), "weak sets loras"),
        (lambda: pipeline("animatediff_sdxl"), "makes videos; through pixels the weak side must be an image pipeline"),
        (lambda: (pipeline("sdxl"), ModelSpec(guidance=1.0, negative_prompt="dark")), "its guidance 1 uses none"),
        (lambda: (pipeline("flux", 2), ModelSpec(negative_prompt="dark")), "its guidance 1 uses none"),
    ],
)
def test_weak_sides_that_cannot_be_told_anything_are_refused(weak, said):
    made = weak() if isinstance(weak, Callable) and not isinstance(weak, str) else weak
    refused(said, pipeline("flux"), made, force=True)


def test_a_weak_pipeline_with_a_controlnet_is_refused():
    parts = pipeline("sdxl", 2).components
    net = tiny.seeded(1, lambda: diffusers.ControlNetModel.from_unet(parts["unet"]))
    weak = diffusers.StableDiffusionXLControlNetPipeline(
        **{name: part for name, part in parts.items() if name not in ("image_encoder", "feature_extractor")},
        controlnet=net,
        add_watermarker=False,
    )
    refused("has a ControlNet", pipeline("flux"), weak)


@pytest.mark.parametrize("role", ["strong", "weak"])
def test_a_pipeline_without_a_vae_is_refused(role):
    strong, weak = tiny.flux(), tiny.sdxl(2)
    (strong if role == "strong" else weak).vae = None
    refused(f"the {role} .* has no VAE", strong, weak)


def test_a_weak_pipeline_that_is_being_reflected_itself_is_refused():
    weak = tiny.sdxl(2)
    with reflected(weak, UNGUIDED):
        refused("inside a `with reflected", pipeline("flux"), weak)


def test_a_call_without_a_prompt_is_refused():
    strong = pipeline("flux")
    embeds, pooled, _ = strong.encode_prompt("a red cat", device="cpu", prompt_2=None, max_sequence_length=16)
    arguments = {"prompt": None, "prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
    refused("the weak pipeline has no prompt", strong, pipeline("sdxl", 2), arguments)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"noise_map": "identity"}, "the identity noise map serves one latent space"),
        ({"noise_map": "mapped"}, "the noise map is 'mapped'; choose one of identity, fresh, fixed"),
        ({"noise_map": fitted_for("0" * 16, "1" * 16)}, "fitted for other VAEs"),
        ({"noise_map": Mapped(torch.eye(6, dtype=torch.float64)[:4], 1.0)}, "takes 6 dimensions to 4"),
        ({"weak_inputs": {"height": 24, "width": 24}}, r"needs one to be a whole multiple of the other"),
        ({"weak_inputs": {"height": 32, "width": 32}}, r"fit one at these sizes"),
        ({"weak_inputs": {"steps": 3}}, "does not take steps"),
        ({"weak_inputs": {"prompt": ["a", "b", "c"]}}, "was given 3 prompts for 1 pictures"),
        ({"vae": small_vae(16)}, "the AutoencoderTiny has 16 latent channels and the pipeline's latents 4"),
        ({"weak_vae": small_vae(4, stages=3)}, "has 4 pixels to a cell and the pipeline 2"),
        ({"noise": "fresh"}, "noise is 'fresh'; choose \"mapped\""),
        ({"noise": "mapped", "noise_map": None}, 'noise is "mapped" and no noise_map is given'),
        ({"noise": "paired", "noise_map": "fresh"}, "noise is \"paired\" and noise_map 'fresh'"),
        ({"draws": 2}, "draws is 2, of paired noise, and a noise map is given"),
        ({"noise": "paired", "draws": 0}, "draws is 0; it must be a whole number of 1 or more"),
        ({"noise": "paired", "draws": 2.5}, r"draws is 2\.5; it must be a whole number from 1"),
        ({"num_reflections": 1}, "none of the 1 reflections can be made: .* use more --reflections"),
        ({"num_reflections": STEPS + 1}, "num_reflections is 7, more than the 6 steps"),
        ({"num_reflections": -1}, "num_reflections is -1"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"reflector": "strong"}, "reflector has a str where a ModelSpec belongs"),
        ({"chunk": 0}, "chunk is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, said):
    refused(said, pipeline("flux"), (pipeline("sdxl", 2), UNGUIDED), **{"num_reflections": 5, **settings})


def test_latents_of_another_size_than_the_call_says_are_refused():
    noise = torch.randn(1, 4, 12, 12, generator=tiny.generator())
    refused("are a grid of 12 x 12", pipeline("sdxl"), pipeline("sd15", 2), {"latents": noise})


def test_schedulers_that_reflection_does_not_know_are_refused():
    strong = tiny.sdxl(scheduler=diffusers.DDPMScheduler.from_config(tiny.ddim().config))
    refused("draws noise at every step", strong, pipeline("sd15", 2))


@pytest.mark.parametrize("kind", ["DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler", "PNDMScheduler"])
def test_the_weak_sides_own_scheduler_may_be_any_with_a_noise_schedule(kind):
    """Only its levels count: the weak network answers at one of them, and never makes a step."""
    strong, ddim = pipeline("flux"), pipeline("sdxl", 2)
    other = tiny.sdxl(2, scheduler=getattr(diffusers, kind).from_config(tiny.ddim().config))
    found = []
    for weak in (ddim, other):
        with bridged(strong, (weak, UNGUIDED), num_reflections=3, noise_map=mapped()):
            found.append(call(strong, "flux"))
    assert torch.equal(*found)
