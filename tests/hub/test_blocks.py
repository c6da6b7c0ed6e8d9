"""A reflection block in a modular pipeline is `reflected(...)` of the classic one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from diffusers import LTX2Guidance, UniPCMultistepScheduler

from tests.support.modular import FAMILIES, STEPS, Family, assert_near
from w2sd_video import ModelSpec, ReflectionConfig, reflected
from w2sd_video.errors import UserError
from w2sd_video.hosting.loop_state import check_sound
from w2sd_video.hosting.reflection_block import ReflectionBlock, loops_of


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


def test_without_reflections_a_pipeline_is_the_stock_one(family: Family) -> None:
    stock = family.call(family.modular())
    assert torch.equal(family.call(family.modular(ReflectionBlock()), num_reflections=0), stock)
    assert_near(stock, family.call_classic(family.classic()))


@pytest.mark.parametrize("mode", ["paper", "fused"])
def test_a_weak_network_is_reflected_as_in_the_classic_pipeline(family: Family, mode: str) -> None:
    classic, weak = family.classic(), family.weak()
    with reflected(classic, weak=weak, num_reflections=3, mode=mode) as run:
        expected = family.call_classic(classic)
    pipe = family.modular(ReflectionBlock())
    for loop in loops_of(pipe._blocks):
        loop.sub_blocks["reflect"].weak_networks = dict.fromkeys(family.networks, weak)
    assert_near(family.call(pipe, num_reflections=3, reflection_mode=mode), expected)
    assert not torch.allclose(family.call(pipe, num_reflections=0), expected, atol=1e-3)
    assert run.num_evaluations == STEPS + 6


def test_a_gap_of_guidance_on_one_network(family: Family) -> None:
    if family.own_scale:
        pipe = family.modular(ReflectionBlock())
        same = family.call(pipe, num_reflections=2, weak_guidance_scale=family.guidance)
        assert torch.equal(same, family.call(pipe, num_reflections=2))
        assert not torch.equal(family.call(pipe, num_reflections=2, weak_guidance_scale=1.0), same)
        return
    classic = family.classic()
    weak, reflector = ModelSpec(guidance=0.5), ModelSpec(guidance=2.0)
    with reflected(classic, weak=weak, reflector=reflector, num_reflections=2, strength=0.8):
        expected = family.call_classic(classic)
    pipe = family.modular(ReflectionBlock())
    given = {"weak_guidance_scale": 0.5, "reflect_guidance_scale": 2.0, "reflection_strength": 0.8}
    assert_near(family.call(pipe, num_reflections=2, **given), expected)


def test_other_prompts_on_the_weak_side(family: Family) -> None:
    pipe = family.modular(ReflectionBlock())
    own = family.inputs()[family.prompt]
    other = {family.prompt: [-own[0]] if isinstance(own, list) else -own}
    without = family.call(pipe, num_reflections=2)
    assert not torch.allclose(family.call(pipe, num_reflections=2, weak_inputs=other), without, atol=1e-4)
    same = {family.prompt: own}
    assert torch.equal(family.call(pipe, num_reflections=2, weak_inputs=same), without)
    with pytest.raises(UserError, match="weak_inputs has prompts"):
        family.call(pipe, num_reflections=2, weak_inputs={"prompts": 1})


def test_the_sound_of_a_video_is_reflected_with_it_and_guided_in_proportion() -> None:
    family = FAMILIES["ltx2"]
    classic, pipe = family.classic(), family.modular()
    pipe.update_components(audio_guider=LTX2Guidance(guidance_scale=5.0))
    given = {"weak": (family.weak(), ModelSpec(guidance=2.0)), "num_reflections": 3}
    settings = {**family.inputs(), **family.classic_call, "audio_guidance_scale": 5.0, "num_inference_steps": STEPS}
    settings = {name: value for name, value in settings.items() if value is not None}
    with reflected(classic, **given) as expected_run:
        video, sound = classic(**settings, output_type="latent", return_dict=False)
    sound = classic._normalize_audio_latents(
        classic._pack_audio_latents(sound), classic.audio_vae.latents_mean, classic.audio_vae.latents_std
    )
    asked = {**family.inputs(), "num_inference_steps": STEPS, "output": ["latents", "audio_latents"]}
    plain = pipe(**asked)
    with reflected(pipe, **given) as run:
        made = pipe(**asked)
    assert_near(made["latents"], family.as_modular(video))
    assert_near(made["audio_latents"], sound)
    assert not torch.allclose(made["audio_latents"], plain["audio_latents"], atol=1e-3)
    assert run.num_evaluations == expected_run.num_evaluations == STEPS + 6
    assert run.gaps == pytest.approx(expected_run.gaps, rel=1e-4)
    with reflected(pipe, "zero-gap", num_reflections=3, mode="fused"):
        assert torch.equal(pipe(**asked)["audio_latents"], plain["audio_latents"])
    refused = {"cap is for one latent": {"cap": 0.1}, "motion_strength is for videos": {"motion_strength": 0.5}}
    for said, setting in refused.items():
        config = ReflectionConfig(**setting)
        with pytest.raises(UserError, match=said), reflected(pipe, given["weak"], config=config):
            pipe(**asked)


def test_a_video_of_pictures_with_sound_is_refused() -> None:
    state = SimpleNamespace(audio_latents=torch.zeros(1, 2, 4), conditioning_mask=torch.zeros(1, 2))
    with pytest.raises(UserError, match=r"these begin from pictures.*LTX2ImageToVideoPipeline"):
        check_sound(state, None, ReflectionConfig())


def test_what_cannot_be_reflected_is_refused() -> None:
    family = FAMILIES["wan"]
    pipe = family.modular(ReflectionBlock())
    with pytest.raises(UserError, match="number from 0 to 4"):
        family.call(pipe, num_reflections=5)
    with pytest.raises(UserError, match="reflected already"):
        ReflectionBlock().install(pipe._blocks)
    with pytest.raises(UserError, match="no denoising loop"):
        ReflectionBlock().install(loops_of(pipe._blocks)[0].sub_blocks["denoiser"])
    pipe.update_components(scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True))
    with pytest.raises(UserError, match="UniPCMultistepScheduler keeps a history"):
        family.call(pipe, num_reflections=1)
