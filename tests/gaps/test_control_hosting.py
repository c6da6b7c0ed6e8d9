"""Hosted pipelines with ControlNets: against stock calls, their counts, and the gaps they make."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support import tiny, tiny_controls
from w2sd_video import ModelSpec, reflected

STEPS = 4
PLAIN = ModelSpec(control={"scale": 0.0})
PICTURE, OTHER = tiny_controls.picture(7), tiny_controls.picture(8)
FLUX = {**tiny.FLUX_CALL, "control_image": PICTURE, "guidance_scale": 3.0}
WINDOW = {"control_guidance_start": 0.2, "control_guidance_end": 0.8}  # steps 2 and 3 of 4
# A pipeline, its call, and how many of its ControlNets are in force over the steps.
FAMILIES: dict[str, tuple[Any, dict[str, Any], int]] = {
    "sd15": (tiny_controls.sd15, {"image": PICTURE, "guidance_scale": 3.0}, 4),
    "sd15 window": (tiny_controls.sd15, {"image": PICTURE, "guidance_scale": 3.0, **WINDOW}, 2),
    "sd15 unguided": (tiny_controls.sd15, {"image": PICTURE, "guidance_scale": 1.0}, 4),
    "sd15 two nets": (
        lambda: tiny_controls.sd15(2),
        {
            "image": [PICTURE, OTHER],
            "guidance_scale": 3.0,
            "controlnet_conditioning_scale": [0.5, 0.7],
            "control_guidance_start": [0.0, 0.5],
            "control_guidance_end": [0.5, 1.0],
        },
        4,
    ),
    "sdxl": (tiny_controls.sdxl, {"image": PICTURE, "guidance_scale": 3.0, "controlnet_conditioning_scale": 0.6}, 4),
    "flux": (tiny_controls.flux, FLUX, 4),
    "flux true": (tiny_controls.flux, {**FLUX, "true_cfg_scale": 2.5, "negative_prompt": "a dog", **WINDOW}, 2),
    "flux two nets": (
        lambda: tiny_controls.flux(2),
        {**FLUX, "control_image": [PICTURE, OTHER], "controlnet_conditioning_scale": [1.0, 0.5]},
        8,
    ),
    "sd3": (
        tiny_controls.sd3,
        {**tiny.FLUX_CALL, "control_image": PICTURE, "guidance_scale": 3.0, "control_guidance_end": 0.5},
        2,
    ),
    "animatediff": (
        tiny_controls.animatediff,
        {**tiny.ANIMATEDIFF_CALL, "conditioning_frames": [PICTURE[0], OTHER[0]], "guidance_scale": 3.0},
        4,
    ),
}


def call(pipe: Any, arguments: dict[str, Any], **more: Any) -> Tensor:
    torch.manual_seed(0)  # SD3 encodes the control image with torch's own noise
    settings = {"num_inference_steps": STEPS, "output_type": "latent", "generator": tiny.generator()}
    return torch.as_tensor(pipe("a red cat", **{**settings, **arguments, **more})[0])


def rounding(latents: Tensor) -> float:
    """As in `test_hosting_parity`: per step three roundings differ, and guidance 3 doubles a difference."""
    return STEPS * 3 * 2 * 6e-8 * float(latents.abs().max())


@pytest.mark.parametrize("family", list(FAMILIES))
def test_no_reflections_equal_the_stock_pipeline(family):
    build, arguments, active = FAMILIES[family]
    pipe = build()
    seen: list[int] = []
    for net in getattr(pipe.controlnet, "nets", [pipe.controlnet]):
        net.register_forward_hook(lambda *_: seen.append(1))
    stock = call(pipe, arguments)
    seen.clear()
    with reflected(pipe, num_reflections=0) as run:
        hosted = call(pipe, arguments)
    assert (stock - hosted).abs().max() <= rounding(stock)
    assert run.num_control_calls == len(seen) == active  # none where the stock pipeline multiplies by 0
    assert run.num_evaluations == STEPS
    scale = [0.0] * 2 if "two" in family else 0.0
    assert (stock - call(pipe, arguments, controlnet_conditioning_scale=scale)).abs().max() > 1e3 * rounding(stock)


@pytest.mark.parametrize("family", ["sd15 window", "flux true"])
def test_fused_zero_gap_equals_no_reflections_bit_for_bit(family):
    build, arguments, _ = FAMILIES[family]
    pipe = build()
    with reflected(pipe, num_reflections=0):
        plain = call(pipe, arguments)
    with reflected(pipe, "zero-gap", mode="fused") as run:
        assert torch.equal(call(pipe, arguments), plain)
    assert run.gaps == [0.0] * (STEPS - 1)


@pytest.mark.parametrize("family", ["sd15", "flux"])
def test_a_gap_of_size_zero_equals_zero_gap(family):
    build, arguments, _ = FAMILIES[family]
    pipe, arguments = build(), {**arguments, "num_inference_steps": 2}
    own = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    with reflected(pipe, "zero-gap"):
        zero = call(pipe, arguments)
    with reflected(pipe, (copy.deepcopy(own), ModelSpec(control={"scale": 1.0}))):
        assert torch.equal(call(pipe, arguments), zero)
    # A prompt that is the call's own is recorded in a call of its own, and comes to the same.
    twin = copy.deepcopy(own), ModelSpec(prompt="a red cat", control={"scale": [1.0]})
    with reflected(pipe, twin):
        assert torch.equal(call(pipe, arguments), zero)


@pytest.mark.parametrize(
    ("call_scale", "reflecting", "weak", "window", "calls"),
    [
        (1.0, None, 0.0, {}, 4 + 3),  # T + lambda
        (1.0, None, 0.5, {}, 4 + 2 * 3),
        (0.0, None, 1.0, {}, 3),  # roles swapped
        (1.0, 0.0, 0.5, {}, 4 + 3),
        (1.0, None, 0.5, {"control_guidance_end": 0.5}, 2 + 2 * 2),
        (1.0, 0.0, 1.0, {"control_guidance_start": 0.5}, 2 + 1),  # no difference at the first step
    ],
)
def test_controlnets_of_scale_zero_are_not_evaluated(call_scale, reflecting, weak, window, calls):
    pipe = tiny_controls.sd15()
    seen: list[tuple[float, int]] = []
    pipe.controlnet.register_forward_hook(
        lambda module, args, kwargs, output: seen.append((kwargs["conditioning_scale"], len(kwargs["sample"]))),
        with_kwargs=True,
    )
    reflector = ModelSpec(guidance=0.5, control=None if reflecting is None else {"scale": reflecting})
    with reflected(pipe, ModelSpec(control={"scale": weak}), reflector=reflector, num_reflections=3) as run:
        call(pipe, {"image": PICTURE, "guidance_scale": 5.5, "controlnet_conditioning_scale": call_scale, **window})
    assert run.num_control_calls == len(seen) == calls
    assert {rows for _, rows in seen} == {2} and all(scale != 0 for scale, _ in seen)
    assert (run.num_evaluations, run.num_rows) == (STEPS + 2 * 3, 2 * (STEPS + 2 * 3))
    assert {scale for scale, _ in seen} == {call_scale, weak} - {0.0}


def test_of_several_controlnets_only_those_with_a_scale_are_evaluated():
    pipe = tiny_controls.sd15(2)
    seen: list[int] = []
    for k, net in enumerate(pipe.controlnet.nets):
        net.register_forward_hook(lambda *_, k=k: seen.append(k))
    arguments = {"image": [PICTURE, OTHER], "guidance_scale": 1.0}
    with reflected(pipe, ModelSpec(control={"scale": [0.0, 0.5]}), num_reflections=1) as run:
        one = call(pipe, arguments)
    assert seen == [0, 1, 1, *[0, 1] * STEPS] and run.num_control_calls == len(seen)
    nets = list(pipe.controlnet.nets)
    # The same as one pipeline of the second ControlNet alone on the weak side.
    alone = tiny_controls.sd15()
    alone.register_modules(controlnet=nets[1], unet=pipe.unet)
    weak_inputs = {"image": OTHER, "controlnet_conditioning_scale": 0.5}
    with reflected(pipe, alone, weak_inputs=weak_inputs, num_reflections=1):
        assert torch.equal(call(pipe, arguments), one)


def test_one_half_of_guidance_is_told_its_half_of_what_the_controlnet_is_told():
    pipe = tiny_controls.sdxl()
    told: list[dict[str, Any]] = []
    pipe.controlnet.register_forward_pre_hook(lambda module, args, kwargs: told.append(kwargs), with_kwargs=True)
    sides = {"weak": ModelSpec(guidance=1.0), "reflector": ModelSpec(guidance=0.0)}
    with reflected(pipe, **sides, num_reflections=1) as run:
        pipe(
            ["a cat", "a dog"],
            negative_prompt="blurry",
            image=[PICTURE[0], OTHER[0]],
            num_inference_steps=2,
            guidance_scale=3.0,
            generator=tiny.generator(),
            output_type="latent",
        )
    without, within, both = told[0], told[1], told[2]
    assert [len(each["sample"]) for each in told] == [2, 2, 4, 4] and run.num_rows == 2 + 2 + 4 + 4
    for name in ("encoder_hidden_states", "controlnet_cond"):
        assert torch.equal(torch.cat([without[name], within[name]]), both[name])
    added = [each["added_cond_kwargs"]["text_embeds"] for each in (without, within, both)]
    assert torch.equal(torch.cat(added[:2]), added[2]) and not torch.equal(added[0], added[1])
    assert not torch.equal(within["controlnet_cond"][0], within["controlnet_cond"][1])


def test_guidance_of_the_sides_works_where_the_call_has_none():
    pipe = tiny_controls.sd15()
    with reflected(pipe, ModelSpec(guidance=-1.0, control={"scale": 0.0}), num_reflections=2) as run:
        call(pipe, {"image": PICTURE, "guidance_scale": 1.0})
    assert (run.num_rows, run.num_control_calls) == (STEPS + (1 + 2) * 2, STEPS + 2)
    assert min(run.gaps) > 0


def test_a_weak_side_of_another_prompt_keeps_its_own_conditioning_and_the_window():
    pipe = tiny_controls.sd15()
    told: list[Tensor] = []
    pipe.controlnet.register_forward_pre_hook(
        lambda module, args, kwargs: told.append(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    weak = ModelSpec(prompt="a dog", control={"scale": 0.5}, guidance=1.0)
    arguments = {"image": PICTURE, "guidance_scale": 1.0, "control_guidance_end": 0.5}
    with reflected(pipe, weak, num_reflections=3) as run:
        call(pipe, arguments)
    assert run.num_control_calls == len(told) == 2 + 2 * 2  # two of the four steps are in the window
    cat, dog = (pipe.encode_prompt(text, "cpu", 1, False)[0] for text in ("a red cat", "a dog"))
    assert [torch.equal(each, cat) for each in told] == [True, False, True] * 2
    assert torch.equal(told[1], dog)


def test_a_pipeline_without_controlnet_is_plain_and_may_be_either_side():
    pipe, other = tiny_controls.sd15(), tiny.sd15(2)
    arguments = {"image": PICTURE, "guidance_scale": 3.0}
    with reflected(pipe, other) as run:
        given = call(pipe, arguments)
    with reflected(pipe, (other.unet, PLAIN)):
        assert torch.equal(call(pipe, arguments), given)
    assert run.num_control_calls == STEPS + (STEPS - 1)
    with reflected(other, pipe, weak_inputs={"image": PICTURE}) as run:
        call(other, {**tiny.IMAGE_CALL, "guidance_scale": 3.0})
    assert run.num_control_calls == STEPS - 1


def test_a_compiled_controlnet_is_called_as_such():
    pipe, arguments = tiny_controls.sd15(), {"image": PICTURE, "guidance_scale": 1.0, "num_inference_steps": 2}
    weak = ModelSpec(control={"scale": 0.5})
    with reflected(pipe, weak):
        plain = call(pipe, arguments)
    pipe.controlnet = torch.compile(pipe.controlnet, backend="eager")
    with reflected(pipe, weak) as run, torch.compiler.set_stance("force_eager"):  # compiling takes 10 s
        assert torch.equal(call(pipe, arguments), plain)
    assert run.num_control_calls == 2 + 2 and isinstance(pipe.controlnet, torch._dynamo.OptimizedModule)


def test_a_fused_guidance_gap_has_both_sides_from_one_call_of_the_controlnet():
    pipe = tiny_controls.sd15()
    with reflected(pipe, ModelSpec(guidance=1.0), mode="fused", num_reflections=2) as run:
        call(pipe, {"image": PICTURE, "guidance_scale": 3.0})
    assert (run.num_control_calls, run.num_rows) == (STEPS + 2, 2 * (STEPS + 2))
    assert run.num_evaluations == STEPS + 2 * 2


def test_two_gaps_together_differ_from_each_alone():
    pipe = tiny_controls.sd15()
    arguments = {"image": PICTURE, "guidance_scale": 3.0, "num_inference_steps": 2}
    results = [call(pipe, arguments)]
    control = {"scale": 0.0}
    for weak in (
        ModelSpec(control=control),
        ModelSpec(guidance=1.0),
        ModelSpec(guidance=1.0, control=control),
        ModelSpec(prompt="a dog", guidance=1.0, control=control),
        ModelSpec(control={"scale": 0.5}),
    ):
        with reflected(pipe, weak):
            results.append(call(pipe, arguments))
    for i, one in enumerate(results):
        assert all((one - other).abs().max() > 1e3 * rounding(one) for other in results[:i])


@pytest.mark.parametrize("family", ["sd15", "flux"])
def test_swapped_roles_move_the_other_way(family):
    """Fused, both sides are evaluated at x, and the move is a multiple of their difference."""
    build, arguments, _ = FAMILIES[family]
    pipe = build()
    own = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    inputs: list[Tensor] = []
    name = "sample" if hasattr(pipe, "unet") else "hidden_states"
    own.register_forward_pre_hook(lambda module, args, kwargs: inputs.append(kwargs[name][-1]), with_kwargs=True)

    def moved(strong: float, weak: float) -> Tensor:
        inputs.clear()
        specs = {"weak": ModelSpec(control={"scale": weak}), "reflector": ModelSpec(control={"scale": strong})}
        with reflected(pipe, **specs, mode="fused", num_reflections=1):
            call(pipe, arguments, num_inference_steps=2)
        return inputs[2] - inputs[0]

    there, back = moved(1.0, 0.0), moved(0.0, 1.0)
    # x + d and x - d are each rounded, and so is d, in some operations of size x: 8 roundings of float32.
    assert (there + back).abs().max() <= 8 * 6e-8 * float(inputs[0].abs().max() + there.abs().max())
    assert there.abs().max() > 1e-3
    half = moved(1.0, 0.5)
    assert half.abs().max() < there.abs().max()
