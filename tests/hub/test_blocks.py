"""A reflection block in a modular pipeline is `reflected(...)` of the classic one."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch
from diffusers import UniPCMultistepScheduler

from tests.support.modular import FAMILIES, STEPS, Family, assert_near
from w2sd_video import ModelSpec, reflected
from w2sd_video.errors import UserError
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
    own = family.inputs()["prompt_embeds"]
    other = {"prompt_embeds": [-own[0]] if isinstance(own, list) else -own}
    without = family.call(pipe, num_reflections=2)
    assert not torch.allclose(family.call(pipe, num_reflections=2, weak_inputs=other), without, atol=1e-4)
    same = {"prompt_embeds": own}
    assert torch.equal(family.call(pipe, num_reflections=2, weak_inputs=same), without)
    with pytest.raises(UserError, match="weak_inputs has prompts"):
        family.call(pipe, num_reflections=2, weak_inputs={"prompts": 1})


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
