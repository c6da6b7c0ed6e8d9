"""Conditioned pipelines, image-to-video among them: what they are given is untouched by reflections."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from tests.support import black_box, tiny, tiny_conditioned, tiny_loops
from tests.support.pipelines_page import LAMBDA, STEPS, latents, network_of
from w2sd_video import ModelSpec, UserError, reflected
from w2sd_video.hosting.own_scale import check_guider
from w2sd_video.hosting.recording import NotRecorded
from w2sd_video.hosting.refusals import check_replay
from w2sd_video.hosting.sides import Side

LONG = (
    "wan_animate",
    "hunyuan_video15_i2v",
    "ltx2_i2v",
)  # seconds each


def sampled(pipe: Any, settings: dict[str, Any], **more: Any) -> Tensor:
    given = {"num_inference_steps": STEPS, "output_type": "latent", **settings, **more}
    with torch.no_grad():
        return latents(pipe(generator=tiny.generator(), **given))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in tiny_conditioned.CONDITIONED]
)
def test_what_a_pipeline_is_conditioned_on_is_untouched_by_reflections(name: str) -> None:
    pipe, settings, given = tiny_conditioned.CONDITIONED[name]()
    network = network_of(pipe)
    weak = tiny_loops.another(network)
    stock, seen = sampled(pipe, settings), list[Tensor]()
    names = list(inspect.signature(type(network).forward).parameters)[1:]

    def see(_: Any, args: Any, kwargs: Any) -> None:
        seen.append(given({**dict(zip(names, args, strict=False)), **kwargs}).clone())

    hooks = [each.register_forward_pre_hook(see, with_kwargs=True) for each in (network, weak)]
    with reflected(pipe, weak, num_reflections=LAMBDA) as run:
        got = sampled(pipe, settings)
    for hook in hooks:
        hook.remove()
    sections = run.num_steps // STEPS
    assert run.num_evaluations == sections * (STEPS + 2 * LAMBDA) and len(run.gaps) == sections * LAMBDA
    assert (got - stock).abs().max() > 1e-2 * stock.abs().max()
    # evaluations of one step see the same, and (but for a known part, whose noise becomes less) those of all steps do
    per_step = [3 * len(seen) // run.num_evaluations] * LAMBDA + [len(seen) // run.num_evaluations] * (STEPS - LAMBDA)
    steps = [part for k in range(sections) for part in torch.arange(len(seen)).chunk(sections)[k].split(per_step)]
    for step in steps:
        assert all(torch.equal(seen[i], seen[int(step[0])]) for i in step.tolist())
    constant = all(torch.equal(each, seen[0]) for each in seen)
    assert constant == (name not in ("z_image_inpaint", "framepack")) and float(seen[0].abs().max()) > 0
    for weak_side, lam, mode in ((None, 0, "paper"), ("zero-gap", LAMBDA, "fused")):
        with reflected(pipe, weak_side, num_reflections=lam, mode=mode):
            assert (sampled(pipe, settings) - stock).abs().max() <= 1e-5 * stock.abs().max()


@pytest.mark.parametrize("name", ["svd", "wan_i2v", "qwen_image"])
def test_a_weak_pipeline_without_a_guidance_of_its_own_samples_as_the_strong_one(name: str) -> None:
    (pipe, settings, *_), (weak, *_) = (getattr(tiny_loops, name)() for _ in range(2))
    weak.register_modules(**{"unet" if name == "svd" else "transformer": tiny_loops.another(network_of(weak))})
    made = []
    for side in (weak, network_of(weak)):
        with reflected(pipe, side, num_reflections=LAMBDA, mode="fused"):
            made.append(sampled(pipe, settings))
    assert (made[0] - made[1]).abs().max() <= 1e-5 * made[1].abs().max()
    assert (made[0] - sampled(pipe, settings)).abs().max() > 1e-3 * made[0].abs().max()


def test_a_weak_pipeline_with_a_guider_prepares_its_halves_by_itself() -> None:
    (pipe, settings, _), (weak, _, _) = (tiny_conditioned.hunyuan_video15_i2v() for _ in range(2))
    weak.transformer = tiny_loops.another(weak.transformer)
    made = []
    for side in (weak, (weak, ModelSpec(guidance=3.0)), (weak.transformer, ModelSpec(guidance=3.0))):  # its own scale
        with reflected(pipe, side, num_reflections=LAMBDA, mode="fused", host="replay") as run:
            made.append(sampled(pipe, settings))
        assert run.num_evaluations == STEPS + 2 * LAMBDA
    with reflected(pipe, (weak, ModelSpec(guidance=1.0)), num_reflections=LAMBDA, mode="fused", host="replay"):
        other = sampled(pipe, settings)
    assert all((each - made[2]).abs().max() <= 1e-5 * made[2].abs().max() for each in made)
    assert (other - made[2]).abs().max() > 1e-3 * made[2].abs().max()


def test_a_side_has_a_guidance_of_its_own_among_three_branches() -> None:
    pipe, settings = tiny_conditioned.instruct_pix2pix()
    stock = sampled(pipe, settings)
    nearly = {**settings, "guidance_scale": 1.0 + 1e-6}  # at 1 the pipeline leaves out the picture's guidance too
    expected = black_box.algorithm_1(pipe, lambda: sampled(pipe, settings), lambda: sampled(pipe, nearly), LAMBDA)
    with reflected(pipe, ModelSpec(guidance=1.0), num_reflections=LAMBDA) as run:
        got = sampled(pipe, settings)
    assert run.host == "replay" and run.num_evaluations == STEPS + 2 * LAMBDA
    assert (got - expected).abs().max() <= 1e-4 * stock.abs().max() < (got - stock).abs().max() / 10
    assert pipe.guidance_scale == 3.0


def test_three_branches_of_a_scale_that_cannot_be_changed_are_refused_before_the_first_evaluation() -> None:
    why = NotRecorded("three branches")
    why.rows, why.batch = (3,), 1
    with pytest.raises(UserError, match=r"guidance 1 of a side needs two halves .* evaluates \[3\] rows"):
        check_replay(SimpleNamespace(), why, [1.0], cross_latent=False)
    check_replay(SimpleNamespace(), why, [None], cross_latent=False)  # sides of one guidance need none
    why.rows, why.batch = (1, 1), 2
    with pytest.raises(UserError, match="step both halves of guidance"):
        check_replay(SimpleNamespace(), why, [None], cross_latent=False)


def test_frames_stepped_by_copies_of_the_scheduler_are_refused_before_the_first_evaluation() -> None:
    pipe, settings = tiny_conditioned.diffusion_forcing()
    evaluated: list[int] = []
    pipe.transformer.register_forward_pre_hook(lambda *_: evaluated.append(1))
    with pytest.raises(UserError, match="outside of a loop"), reflected(pipe, num_reflections=0):
        sampled(pipe, settings)
    with pytest.raises(NotRecorded, match="by copies of its"), reflected(pipe, num_reflections=0, host="record"):
        sampled(pipe, settings)
    assert not evaluated


@pytest.mark.slow
def test_a_guider_with_momentum_remembers_the_sampling_steps_alone() -> None:
    pipe, settings, _ = tiny_conditioned.hunyuan_video15_i2v()
    pipe.register_modules(
        guider=diffusers.AdaptiveProjectedGuidance(guidance_scale=3.0, adaptive_projected_guidance_momentum=-0.5)
    )
    stock = sampled(pipe, settings)
    with reflected(pipe, "zero-gap", num_reflections=LAMBDA, mode="fused"):
        assert (sampled(pipe, settings) - stock).abs().max() <= 1e-5 * stock.abs().max()
    for guidance in (1.0, 2.0):
        with reflected(pipe, ModelSpec(guidance=guidance), num_reflections=LAMBDA) as run:
            assert (sampled(pipe, settings) - stock).abs().max() > 1e-3 * stock.abs().max()
        assert run.num_evaluations == STEPS + 2 * LAMBDA and pipe.guider.guidance_scale == 3.0
    pipe.register_modules(guider=diffusers.SkipLayerGuidance(guidance_scale=3.0, skip_layer_guidance_layers=[0]))
    weak = tiny_loops.another(pipe.transformer)
    with pytest.raises(UserError, match="changes its own network"), reflected(pipe, weak, num_reflections=LAMBDA):
        sampled(pipe, settings)


def test_a_network_of_its_own_for_the_unconditional_prediction_is_its_half_of_guidance() -> None:
    pipe, settings = tiny_loops.ideogram4()
    stock, weak = sampled(pipe, settings), tiny_loops.another(pipe.transformer)
    unconditional = tiny_loops.another(pipe.unconditional_transformer, 12)
    own = {"transformer": pipe.transformer, "unconditional_transformer": pipe.unconditional_transformer}

    def weaker(scale: float, **parts: Any) -> Tensor:
        vars(pipe).update({**own, **parts})
        try:
            return sampled(pipe, {**settings, "guidance_scale": scale})
        finally:
            vars(pipe).update(own)

    def check(side: Any, *at: Any, **parts: Any) -> Any:
        expected = black_box.algorithm_1(pipe, lambda: sampled(pipe, settings), lambda: weaker(*at, **parts), LAMBDA)
        with reflected(pipe, side, num_reflections=LAMBDA) as run:
            assert (sampled(pipe, settings) - expected).abs().max() <= 1e-5 * stock.abs().max()
        return run

    run = check(weak, 3.0, transformer=weak)
    assert run.num_rows == 2 * run.num_evaluations  # both networks'
    for guidance in (0.0, 1.0, 2.0):  # 0: the unconditional network alone
        check(ModelSpec(guidance=guidance), guidance)
    check((weak, ModelSpec(guidance=0.5)), 0.5, transformer=weak)
    other, _ = tiny_loops.ideogram4()
    other.register_modules(transformer=weak, unconditional_transformer=unconditional)
    check(other, 3.0, transformer=weak, unconditional_transformer=unconditional)
    assert torch.equal(sampled(pipe, settings), stock)


def test_perturbed_attention_of_the_pipelines_own_network_is_refused_beside_another_network() -> None:
    pipe, other = SimpleNamespace(do_perturbed_attention_guidance=True), Side(network=torch.nn.Identity())
    check_guider(pipe, Side())
    with pytest.raises(UserError, match="perturbed-attention guidance changes the attention"):
        check_guider(pipe, other)
    pipe.do_perturbed_attention_guidance = False
    check_guider(pipe, other)
