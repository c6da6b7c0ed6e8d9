"""The forms a weak side and a reflector can take, and what each is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support import tiny, tiny_families, tiny_loops
from w2sd_video import ModelSpec, ReflectionConfig, reflected
from w2sd_video.errors import UserError

ARGUMENTS: dict[str, Any] = {"num_inference_steps": 4, "output_type": "latent"}


def call(pipe: Any, prompt: str | None = "a cat", **arguments: Any) -> Tensor:
    return pipe(prompt, **{**ARGUMENTS, "generator": tiny.generator(), **arguments})[0]


def sdxl_call(pipe: Any, prompt: str | None = "a cat", **arguments: Any) -> Tensor:
    return call(pipe, prompt, **{**tiny.IMAGE_CALL, "guidance_scale": 3.0, **arguments})


def test_a_weak_pipeline_equals_its_network_where_it_shares_everything_else():
    strong, weak = tiny.sdxl(1), tiny.sdxl(2)
    with reflected(strong, weak):
        by_pipeline = sdxl_call(strong)
    with reflected(strong, weak.unet):
        by_network = sdxl_call(strong)
    assert torch.equal(by_pipeline, by_network)
    assert (by_network - sdxl_call(strong)).abs().max() > 1e-2


@pytest.mark.parametrize("guidance", [-2.0, 0.0, 1.0, 1.7])
def test_a_weak_pipeline_and_network_take_a_guidance_of_their_own(guidance):
    strong, weak = tiny.animatediff_sdxl(1), tiny.animatediff_sdxl(2)
    results = []
    for form in (weak, weak.unet):
        with reflected(strong, (form, ModelSpec(guidance=guidance))) as run:
            results.append(call(strong, **tiny.ANIMATEDIFF_CALL, guidance_scale=3.0))
    assert torch.equal(*results)
    assert run.num_rows == 2 * 4 + (2 + (1 if guidance in (0, 1) else 2)) * 3


def test_a_weak_pipeline_encodes_prompts_with_its_own_text_encoders():
    strong, weak = tiny.sd15(1), tiny.sd15(1)
    weak.text_encoder = tiny.clip_text_encoder(99)
    with reflected(strong, weak) as run:
        sdxl_call(strong)
    assert min(run.gaps) > 0
    other = tiny.sd15(1)
    with reflected(strong, other) as same:
        sdxl_call(strong)
    with reflected(strong, "zero-gap") as zero:
        sdxl_call(strong)
    assert same.gaps == zero.gaps != run.gaps


@pytest.mark.parametrize("guidance", [-1.0, 0.0, 2.0])
def test_a_guidance_gap_works_where_the_call_itself_has_guidance_off(guidance):
    for build, arguments in ((tiny.sdxl, tiny.IMAGE_CALL), (tiny.wan, tiny.WAN_CALL)):
        pipe = build()
        x_t = {**arguments, "guidance_scale": 1.0}
        stock = call(pipe, **x_t)
        with reflected(pipe, ModelSpec(guidance=guidance)) as run:
            moved = call(pipe, **x_t)
        assert (moved - stock).abs().max() > 1e-4
        assert run.num_rows == 4 + (1 + (1 if guidance == 0 else 2)) * 3
        assert pipe.guidance_scale == 1.0
        with reflected(pipe, ModelSpec(guidance=guidance), strength=0.0):
            unmoved = call(pipe, **x_t)
        # strength 0 samples with the strong side alone, at guidance 1: rounding differs as in the parity tests
        assert (unmoved - stock).abs().max() <= 1e-5


def test_a_scale_of_one_and_less_in_the_call_is_no_guidance_as_in_diffusers():
    pipe = tiny.sdxl()
    results = []
    for scale in (1.0, 0.0, -3.0):
        with reflected(pipe, ModelSpec(guidance=2.0)):
            results.append(sdxl_call(pipe, guidance_scale=scale))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_what_the_weak_side_leaves_out_is_as_the_strong_side_reflects():
    pipe, weak = tiny.sdxl(1), tiny.sdxl_unet(2)
    with reflected(pipe, weak, reflector=ModelSpec(guidance=1.0)) as run:
        left_out = sdxl_call(pipe)
    with reflected(pipe, (weak, ModelSpec(guidance=1.0)), reflector=ModelSpec(guidance=1.0)):
        said = sdxl_call(pipe)
    assert torch.equal(left_out, said)
    assert run.num_rows == 2 * 4 + 2 * 3


def test_another_prompt_on_one_side_is_what_a_call_with_it_is_told():
    pipe = tiny.sdxl()
    with torch.no_grad():
        prompt, negative, pooled, negative_pooled = pipe.encode_prompt("a dog", device="cpu", negative_prompt="grey")
    embedded = {
        "prompt_embeds": prompt,
        "negative_prompt_embeds": negative,
        "pooled_prompt_embeds": pooled,
        "negative_pooled_prompt_embeds": negative_pooled,
    }
    results = []
    for weak, inputs in (
        (ModelSpec(prompt="a dog", negative_prompt="grey"), None),
        (ModelSpec(), embedded),
        (tiny.sdxl(1), embedded),
        (ModelSpec(guidance=3.0), {"prompt": "a dog", "negative_prompt": "grey"}),
    ):
        with reflected(pipe, weak, weak_inputs=inputs):
            results.append(sdxl_call(pipe))
    for other in results[1:]:
        assert torch.equal(results[0], other)
    assert (results[0] - sdxl_call(pipe)).abs().max() > 1e-4


def test_the_reflector_can_have_another_prompt():
    pipe = tiny.sdxl()
    dog = ModelSpec(prompt="a dog")
    with reflected(pipe, ModelSpec(prompt="a dog", guidance=1.0), reflector=dog) as run:
        sdxl_call(pipe)
    with reflected(pipe, "zero-gap", reflector=dog, mode="fused") as zero:
        sdxl_call(pipe)
    assert min(run.gaps) > 0 and max(zero.gaps) == 0


def test_prompts_of_a_batch_are_replaced_for_every_item():
    pipe = tiny.sdxl()
    arguments = {**tiny.IMAGE_CALL, "guidance_scale": 3.0}
    with reflected(pipe, ModelSpec(prompt="a dog")) as run:
        call(pipe, ["a cat", "a bird"], **arguments)
    assert run.num_rows == 2 * (2 * 4 + 4 * 3)


def test_flux_guidance_is_the_embedded_one_unless_the_call_runs_the_real_one():
    pipe = tiny.flux()
    told: list[float] = []
    pipe.transformer.register_forward_hook(
        lambda module, args, kwargs, output: told.append(float(kwargs["guidance"][0])), with_kwargs=True
    )
    with reflected(pipe, ModelSpec(guidance=1.0), reflector=ModelSpec(guidance=2.0), num_reflections=1):
        call(pipe, **tiny.FLUX_CALL, guidance_scale=3.5)
    assert told == pytest.approx([2.0, 1.0, 3.5, 3.5, 3.5, 3.5])
    told.clear()
    with reflected(pipe, ModelSpec(guidance=1.0), num_reflections=1) as run:
        call(pipe, **tiny.FLUX_CALL, guidance_scale=3.5, true_cfg_scale=2.0, negative_prompt="a dog")
    assert set(told) == {3.5} and run.num_rows == 2 * 4 + 3


def test_a_weak_flux_pipeline_is_told_its_own_embedded_guidance():
    strong, weak = tiny.flux(1), tiny.flux(2)
    told: list[float] = []
    weak.transformer.register_forward_hook(
        lambda module, args, kwargs, output: told.append(float(kwargs["guidance"][0])), with_kwargs=True
    )
    with reflected(strong, (weak, ModelSpec(guidance=1.5)), num_reflections=2):
        call(strong, **tiny.FLUX_CALL, guidance_scale=3.5)
    with reflected(strong, weak, num_reflections=1):
        call(strong, **tiny.FLUX_CALL, guidance_scale=3.5)
    with reflected(strong, weak, num_reflections=1, weak_inputs={"guidance_scale": 2.5}):
        call(strong, **tiny.FLUX_CALL, guidance_scale=3.5)
    assert told == [1.5, 1.5, 3.5, 2.5]


def test_a_flux_without_embedded_guidance_as_the_weak_side_works_as_a_pipeline():
    strong, weak = tiny.flux(1), tiny.flux(2, guidance_embeds=False)
    with reflected(strong, weak) as run:
        call(strong, **tiny.FLUX_CALL, guidance_scale=3.5)
    assert run.num_rows == 4 + 2 * 3
    with pytest.raises(UserError, match="guidance_embeds"), reflected(strong, weak.transformer):
        pass


def test_a_weak_side_may_predict_something_else():
    # One network read as predicting noise on one side and velocity on the other: different models, one noise schedule.
    strong, weak = tiny.sdxl(1, prediction_type="v_prediction"), tiny.sdxl(1, prediction_type="epsilon")
    with reflected(strong, weak) as run:
        sdxl_call(strong)
    with reflected(strong, tiny.sdxl(1, prediction_type="v_prediction")) as same:
        sdxl_call(strong)
    assert run.gaps[0] > 1.5 * same.gaps[0]


def test_a_config_is_the_same_as_its_settings():
    pipe = tiny.sdxl()
    config = ReflectionConfig(num_reflections=2, mode="fused", strength=1.5, reflector=ModelSpec(guidance=2.0))
    with reflected(pipe, ModelSpec(guidance=0.0), config=config):
        by_config = sdxl_call(pipe)
    with reflected(
        pipe, ModelSpec(guidance=0.0), num_reflections=2, mode="fused", strength=1.5, reflector=ModelSpec(guidance=2.0)
    ):
        by_settings = sdxl_call(pipe)
    assert torch.equal(by_config, by_settings)


def test_the_callers_random_state_is_used_once_whatever_the_weak_side_is():
    strong, weak = tiny.sdxl(1), tiny.sdxl(2)
    generator = tiny.generator(7)
    torch.manual_seed(11)
    with reflected(strong, (weak, ModelSpec(prompt="a dog"))):
        sdxl_call(strong, generator=generator)
    after = generator.get_state(), torch.get_rng_state()
    generator = tiny.generator(7)
    torch.manual_seed(11)
    sdxl_call(strong, generator=generator)
    assert torch.equal(generator.get_state(), after[0])
    assert torch.equal(torch.get_rng_state(), after[1])


def test_a_side_with_another_prompt_follows_a_pipeline_that_changes_networks():
    pipe, told = tiny.wan22(), []
    for name in ("transformer", "transformer_2"):
        getattr(pipe, name).register_forward_pre_hook(
            lambda module, args, kwargs, name=name: told.append((int(kwargs["timestep"][0]), name)), with_kwargs=True
        )
    with reflected(pipe, ModelSpec(prompt="a dog")) as run:
        pipe("a cat", num_inference_steps=4, guidance_scale=3.0, generator=tiny.generator(), **tiny.WAN_CALL)
    assert len(told) == run.num_forwards == 2 * run.num_evaluations
    assert {t for t, _ in told if t >= 800} and {t for t, _ in told if t < 800}
    assert all(name == ("transformer" if t >= 800 else "transformer_2") for t, name in told)


@torch._dynamo.config.patch(disable=True)
def test_compiled_networks_are_reflected_like_those_inside():
    # What pipelines meet of a compiled module is its wrapper; without Dynamo it runs the module inside.
    pipe, weak = tiny.wan(1), tiny.wan_transformer(2)

    def frames() -> torch.Tensor:
        settings = {"num_inference_steps": 3, "guidance_scale": 3.0, "generator": tiny.generator()}
        return pipe("a cat", **tiny.WAN_CALL, **settings, output_type="latent")[0]

    with reflected(pipe, (weak, ModelSpec(guidance=1.0))):
        plain = frames()
    pipe.transformer, weak = torch.compile(pipe.transformer), torch.compile(weak)
    with reflected(pipe, (weak, ModelSpec(guidance=1.0))) as run:
        compiled = frames()
    assert torch.equal(plain, compiled) and run.num_reflections == 2
    assert isinstance(pipe.transformer, torch._dynamo.eval_frame.OptimizedModule)


def test_a_weak_pipeline_of_another_family_has_guidance_of_its_own_kind():
    """Chroma has Flux's latents: its guidance is no input of its network, and it has no pooled prompt."""
    flux, chroma = tiny.flux(), tiny_families.chroma()
    settings = {**tiny.FLUX_CALL, "guidance_scale": 3.0, "pooled_prompt_embeds": torch.ones(1, 16)}
    settings |= {"prompt": None, "prompt_embeds": tiny_loops._text(1, 16, 32)}
    rows, made = [], []
    for guidance in (1.0, 2.0):
        inputs = {f"{half}prompt_attention_mask": torch.ones(1, 16) for half in ("", "negative_")}
        inputs["negative_prompt_embeds"] = tiny_loops._text(1, 16, 32, seed=4)
        with reflected(flux, (chroma, ModelSpec(guidance=guidance)), num_reflections=2, weak_inputs=inputs) as run:
            made.append(call(flux, **settings))
        rows.append(run.num_rows)
    assert rows == [4 + 2 * 2, 4 + 2 * 3] and not torch.equal(*made)
