"""Calls whose own loop makes every evaluation: against recording, and against Algorithm 1 around a black box."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from tests.support import black_box, tiny, tiny_controls, tiny_loops
from tests.support.pipelines_page import LAMBDA, SETTINGS, STEPS, latents, network_of, with_network
from w2sd_video import ModelSpec, ReflectionConfig, Selection, UserError, reflected
from w2sd_video.hosting.outputs import as_halves, moved, weights_of
from w2sd_video.hosting.turns import Done, Turns


@cache
def made(name: str) -> tuple[Any, Any, Callable[..., Any], Tensor]:
    """A pipeline, a network that could take its own's place, a call, and what that comes to."""
    pipe, settings = tiny_loops.LOOPS[name]()

    def call(**more: Any) -> Any:
        settled = {"num_inference_steps": STEPS, "output_type": "latent", **settings, **more}
        with torch.no_grad():
            return pipe(generator=tiny.generator(), **settled)

    return pipe, tiny_loops.another(network_of(pipe)), call, latents(call())


LONG = ("svd", "flux2_klein_kv")  # a few seconds each; what they do is among the others, but for the cache


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in tiny_loops.LOOPS]
)
def test_every_loop_is_reflected_as_algorithm_1_around_a_black_box(name: str) -> None:
    pipe, weak, call, stock = made(name)
    near = 1e-5 * float(stock.abs().max())

    def weakly() -> Any:
        return with_network(pipe, weak, call)

    with reflected(pipe, num_reflections=0) as run:
        assert (latents(call()) - stock).abs().max() <= near and run.num_evaluations == STEPS
    with reflected(pipe, "zero-gap", num_reflections=LAMBDA, mode="fused"):
        assert (latents(call()) - stock).abs().max() <= near
    expected = latents(black_box.algorithm_1(pipe, call, weakly, LAMBDA, **SETTINGS.get(name, {})))
    with reflected(pipe, weak, num_reflections=LAMBDA) as run:
        got = latents(call())
    assert (got - expected).abs().max() <= 10 * near < (got - stock).abs().max() / 10
    assert (run.num_evaluations, run.num_steps, len(run.gaps)) == (STEPS + 2 * LAMBDA, STEPS, LAMBDA)
    assert run.host == ("record" if name in ("krea2", "t2i_adapter") else "replay")
    assert run.host == "record" or run.notes[0].startswith("replayed: ")
    assert torch.equal(latents(call()), stock)  # the pipeline is as it was


# A side's guidance is uncond + guidance * (cond - uncond), whatever a pipeline's own argument says of that
@pytest.mark.parametrize(
    ("name", "argument", "guidance", "own"),
    [
        *(("qwen_image", "true_cfg_scale", guidance, guidance) for guidance in (2.0, 5.0)),
        ("qwen_image", "true_cfg_scale", 1.0, 1.0),
        *(("lumina2", "guidance_scale", guidance, guidance) for guidance in (1.0, 2.0)),
        *(("z_image", "guidance_scale", guidance, guidance - 1) for guidance in (1.0, 3.0)),
        *(("krea2", "guidance_scale", guidance, guidance - 1) for guidance in (1.0, 3.0)),
    ],
)
def test_a_sides_guidance_is_the_pipelines_own_rule_at_that_scale(
    name: str, argument: str, guidance: float, own: float
) -> None:
    pipe, _, call, stock = made(name)
    expected = latents(black_box.algorithm_1(pipe, call, lambda: call(**{argument: own}), LAMBDA))
    with reflected(pipe, ModelSpec(guidance=guidance), num_reflections=LAMBDA, host="replay") as run:
        got = latents(call())
    assert (got - expected).abs().max() <= 1e-4 * float(stock.abs().max()) < (got - stock).abs().max() / 10
    assert run.num_evaluations == STEPS + 2 * LAMBDA


@pytest.mark.parametrize(("name", "channels"), [("svd", (2, 4)), ("wan_i2v", (1, 16))])
def test_what_a_latent_is_conditioned_on_is_untouched_by_reflections(name: str, channels: tuple[int, int]) -> None:
    pipe, weak, call, _ = made(name)
    dim, own = channels
    seen: list[Tensor] = []
    hooks = [
        network.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(kwargs.get("hidden_states", kwargs.get("sample")).clone()),
            with_kwargs=True,
        )
        for network in (network_of(pipe), weak)
    ]
    with reflected(pipe, weak, num_reflections=LAMBDA) as run:
        call()
    for hook in hooks:
        hook.remove()
    given = [latent.narrow(dim, own, latent.shape[dim] - own) for latent in seen]
    assert len(given) == run.num_forwards and float(given[0].abs().max()) > 0
    assert all(torch.equal(each, given[0]) for each in given[:: run.num_forwards // run.num_evaluations])
    assert not torch.equal(seen[0].narrow(dim, 0, own), seen[-1].narrow(dim, 0, own))


def test_a_first_frame_that_is_given_stays_as_it_is() -> None:
    _, weak, call, _ = made("ltx_i2v")
    pipe, (stock, moved) = made("ltx_i2v")[0], (call()[0], None)
    with reflected(pipe, weak, num_reflections=LAMBDA):
        moved = call()[0]
    tokens = moved.shape[1] // 3  # of each of three latent frames
    assert torch.equal(moved[:, :tokens], stock[:, :tokens])
    assert (moved[:, tokens:] - stock[:, tokens:]).abs().amin(dim=(0, 2)).max() > 1e-3


CASES = {
    "guidance 1": (ModelSpec(guidance=1.0), {"num_reflections": 2}),
    "guidance 2": (ModelSpec(guidance=2.0), {"num_reflections": 2}),
    "prompts": (ModelSpec(prompt="a dog"), {"num_reflections": 2, "reflector": ModelSpec(guidance=1.5)}),
    "fused": (ModelSpec(guidance=0.0), {"num_reflections": 3, "mode": "fused"}),
    "lag": (ModelSpec(guidance=0.0), {"config": ReflectionConfig(num_reflections=2, lag=True)}),
    "cached gaps": (
        ModelSpec(guidance=0.0),
        {"config": ReflectionConfig(num_reflections=3, mode="fused", gap_every=2)},
    ),
    "noise": (ModelSpec(guidance=0.0), {"config": ReflectionConfig(num_reflections=3, mode="fused", noise=0.1)}),
    "fixed points": (ModelSpec(guidance=0.0), {"config": ReflectionConfig(num_reflections=2, fixed_point=1)}),
    "resampled": (ModelSpec(guidance=0.0), {"method": "resample-aligned", "num_reflections": 2}),
    "selected": (
        ModelSpec(guidance=0.0),
        {"method": "w2sd-auto", "num_reflections": 2, "selection": Selection(lambda frames, _: float(frames.mean()))},
    ),
    "autoguided": (ModelSpec(guidance=-1.0), {"method": "autoguided", "strength": 2.0}),
}


@pytest.mark.parametrize(
    ("case", "build", "arguments"),
    [
        *((case, tiny.sdxl, tiny.IMAGE_CALL) for case in CASES),
        *((case, tiny.wan, tiny.WAN_CALL) for case in ("guidance 1", "guidance 2", "prompts", "fused", "cached gaps")),
    ],
)
def test_replaying_equals_recording(build: Any, arguments: dict[str, Any], case: str) -> None:
    pipe, (weak, settings) = build(), CASES[case]
    outcomes = []
    for host in ("record", "replay"):
        with reflected(pipe, weak, host=host, **settings) as run:
            made = pipe(
                "a cat", generator=tiny.generator(), num_inference_steps=4, guidance_scale=3.0, **LATENT, **arguments
            )
        outcomes.append((made[0], run.num_evaluations, run.num_reflections, run.host))
    (one, *counts, _), (other, *others, host) = outcomes
    assert (one - other).abs().max() <= 1e-5 * float(one.abs().max()) and counts == others and host == "replay"


LATENT: dict[str, Any] = {"output_type": "latent"}


def test_a_call_without_guidance_prepares_both_halves_for_sides_that_need_them() -> None:
    pipe = tiny.sdxl()
    outcomes = []
    for host in ("record", "replay"):
        with reflected(pipe, ModelSpec(guidance=-1.0), num_reflections=2, host=host):
            settings = {**tiny.IMAGE_CALL, **LATENT, "num_inference_steps": 4, "guidance_scale": 1.0}
            outcomes.append(pipe("a cat", generator=tiny.generator(), **settings)[0])
        assert pipe.guidance_scale == 1.0
    torch.testing.assert_close(*outcomes, rtol=0, atol=2e-5)


@pytest.mark.parametrize("end", [1.0, 0.5])
def test_the_scale_of_a_controlnet_differs_from_side_to_side(end: float) -> None:
    pipe, outcomes, calls = tiny_controls.sd15(), [], []
    settings = {"num_inference_steps": 4, "guidance_scale": 3.0, "control_guidance_end": end, **LATENT}
    for host in ("record", "replay"):
        with reflected(pipe, ModelSpec(control={"scale": 0.3}), num_reflections=3, host=host) as run:
            outcomes.append(pipe("a cat", image=tiny_controls.picture(), generator=tiny.generator(), **settings)[0])
        calls.append(run.num_control_calls)
    torch.testing.assert_close(*outcomes, rtol=0, atol=5e-5)
    assert calls[1] == 4 + 2 * 3 >= calls[0]


def test_callbacks_see_each_step_once_and_what_they_change_is_gone_on_from() -> None:
    pipe, seen = tiny.sdxl(), []

    def callback(pipe: Any, step: int, timestep: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append((step, int(timestep)))
        if step == 1:
            given["latents"] = given["latents"].clone()
            given["latents"][:, :2] *= 0.5
        return given

    outcomes = []
    for host in ("record", "replay"):
        settings = {**tiny.IMAGE_CALL, **LATENT, "num_inference_steps": 4, "callback_on_step_end": callback}
        with reflected(pipe, ModelSpec(guidance=1.0), num_reflections=3, host=host):
            outcomes.append(pipe("a cat", generator=tiny.generator(), guidance_scale=3.0, **settings)[0])
    assert [step for step, _ in seen] == [0, 1, 2, 3] * 2 and seen[:4] == seen[4:]
    torch.testing.assert_close(*outcomes, rtol=0, atol=2e-5)


def test_an_interrupt_ends_the_steps() -> None:
    pipe = tiny.sdxl()

    def interrupt(pipe: Any, step: int, timestep: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
        pipe._interrupt = step == 1
        return given

    settings = {**tiny.IMAGE_CALL, **LATENT, "num_inference_steps": 4, "callback_on_step_end": interrupt}
    pipe.unet.register_forward_hook(lambda *_: None)
    with reflected(pipe, ModelSpec(guidance=1.0), num_reflections=3, host="replay") as run:
        pipe("a cat", generator=tiny.generator(), guidance_scale=3.0, **settings)
    assert run.num_steps in (2, 4)  # a pipeline that knows no interrupt goes on


def test_an_error_leaves_everything_as_it_was() -> None:
    pipe = tiny.sdxl()
    kinds, calls = (type(pipe), type(pipe.unet), type(pipe.scheduler)), []

    def fail(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    hook = pipe.unet.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt), reflected(pipe, ModelSpec(guidance=2.0), host="replay"):
        pipe("a cat", num_inference_steps=4, guidance_scale=3.0, **tiny.IMAGE_CALL)
    hook.remove()
    assert kinds == (type(pipe), type(pipe.unet), type(pipe.scheduler))
    assert type(pipe.scheduler.timesteps) is Tensor
    assert "enumerate" not in vars(sys.modules[kinds[0].__module__])


def test_what_cannot_be_replayed_is_refused_before_the_first_evaluation() -> None:
    pipe, evaluated = tiny.sdxl(), []
    pipe.unet.register_forward_pre_hook(lambda *_: evaluated.append(1))
    settings = {**tiny.IMAGE_CALL, "num_inference_steps": 4, "guidance_scale": 3.0}
    rows: list[tuple[str, Any, dict[str, Any]]] = [
        ("differs in nothing", ModelSpec(), {}),
        ("num_reflections must be a whole", ModelSpec(guidance=1.0), {"num_reflections": 4}),
    ]
    for words, weak, more in rows:
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, set_alpha_to_one=True)
        with pytest.raises(UserError, match=words), reflected(pipe, weak, host="replay", **more):
            pipe("a cat", **settings)
    assert not evaluated
    with pytest.raises(UserError, match="differs in nothing"), reflected(pipe, ModelSpec(guidance=3.0), host="replay"):
        pipe("a cat", **settings)
    assert len(evaluated) == 1  # how the pipeline guides is known after the first


def test_weights_are_found_in_any_mixture_with_a_norm_of_its_own() -> None:
    first, second = (torch.randn(2, 6, 8, generator=tiny.generator(seed)) for seed in (1, 2))
    plain = -2.0 * first + 3.0 * second
    normed = plain * second.norm(dim=-1, keepdim=True) / plain.norm(dim=-1, keepdim=True)
    for combined in (plain, -plain, 0.3 * plain, normed, plain * torch.tensor([0.5, 2.0])[:, None, None]):
        assert weights_of(combined, first, second) == pytest.approx((-2.0, 3.0), rel=1e-4)
    assert weights_of(plain + first.roll(1), first, second) is None
    assert weights_of(first.sign() * second.abs().sqrt(), first, second) is None


def test_halves_of_every_form_are_taken_apart_moved_and_put_together() -> None:
    c, u = torch.randn(2, 3, generator=tiny.generator()), torch.zeros(2, 3)
    forms: list[tuple[Any, list[int], Callable[[Any], Tensor]]] = [
        ([torch.cat([u, c])], [4], lambda made: made[0]),
        ([(torch.cat([u, c]), None)], [4], lambda made: made[0][0]),
        ([([*u, *c],)], [4], lambda made: torch.stack(made[0][0])),
    ]
    for outputs, rows, read in forms:
        halves = as_halves(outputs, rows, 2)
        assert halves is not None
        made = halves.joined(moved(halves.second, halves.first, 0.5), halves.second)
        assert torch.equal(read(made), torch.cat([0.5 * c, c]))
    assert as_halves([c], [2], 2) is None and as_halves([c, c, c], [2, 2, 2], 2) is None


def test_turns_hand_over_questions_answers_and_errors() -> None:
    turns: Turns[str, str] = Turns(lambda: turns.ask("one") + turns.ask("two"))
    assert turns.start() == "one" and turns.answer("a") == "two"
    end = turns.answer("b")
    assert isinstance(end, Done) and end.value == "ab"

    def fails() -> str:
        raise UserError(failing.ask("why"))

    failing: Turns[str, str] = Turns(fails)
    failing.start()
    with pytest.raises(UserError, match="so"):
        failing.answer("so")
    left: Turns[str, str] = Turns(lambda: left.ask("one"))
    left.start()
    left.close()
    assert left._thread is not None and not left._thread.is_alive()
