"""Pipelines with ControlNets: as they were afterwards, from files, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import accelerate.hooks
import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    ControlNetUnionModel,
    FluxMultiControlNetModel,
    StableDiffusionControlNetPipeline,
)
from PIL import Image
from torch import Tensor, nn

from tests.support import tiny, tiny_controls
from w2sd_video import ModelSpec, reflected
from w2sd_video.errors import UserError
from w2sd_video.gaps.control_images import canny_edges, read_control_image

PLAIN = ModelSpec(control={"scale": 0.0})
PICTURE = tiny_controls.picture()


def call(pipe: Any, **arguments: Any) -> Tensor:
    settings = {"num_inference_steps": 3, "output_type": "latent", "generator": tiny.generator(), "guidance_scale": 3.0}
    return pipe("a cat", **{**settings, "image": PICTURE, **arguments})[0]


def state(pipe: Any) -> list[Any]:
    """All that hosting could leave behind on a ControlNet and beside it."""
    net = pipe.controlnet
    own = [("__call__" in vars(net), "forward" in vars(net)), [id(each) for each in getattr(net, "nets", [])]]
    return [type(net), id(net), sorted(vars(net)), *own, type(pipe), type(pipe.unet)]


class Boom(Exception):
    pass


def boom(*_: Any) -> None:
    raise Boom


def test_the_pipeline_is_as_it_was_after_a_reflected_call():
    pipe = tiny_controls.sd15()
    stock, before = call(pipe), state(pipe)
    with reflected(pipe, ModelSpec(prompt="a dog", control={"scale": 0.5})):
        call(pipe)
    assert state(pipe) == before and torch.equal(call(pipe), stock)


@pytest.mark.parametrize("where", ["sampling", "the weak side", "recording the weak side"])
def test_the_pipeline_is_as_it_was_after_an_exception_in_one_of_its_controlnets(where):
    pipe = tiny_controls.sd15(2)
    pictures = [PICTURE, tiny_controls.picture(8)]
    stock, before = call(pipe, image=pictures), state(pipe)
    seen: list[int] = []

    def fail(module: nn.Module, *_: Any) -> None:
        seen.append(len(pipe.controlnet.nets))
        if where == "sampling" or seen[-1] == 1:  # the weak side has one of the two
            raise Boom

    hook = pipe.controlnet.nets[1].register_forward_pre_hook(fail)
    spec = ModelSpec(control={"scale": [0.0, 1.0]}, prompt="a dog" if where == "recording the weak side" else None)
    extra = [pipe.text_encoder.register_forward_pre_hook(boom)] if spec.prompt else []
    with pytest.raises(Boom), reflected(pipe, spec):
        call(pipe, image=pictures)
    for each in (hook, *extra):
        each.remove()
    assert seen[-1:] == {"sampling": [2], "the weak side": [1], "recording the weak side": []}[where]
    assert state(pipe) == before and torch.equal(call(pipe, image=pictures), stock)


def test_a_callback_sees_the_controlnet_itself_and_changed_embeddings_are_used():
    pipe = tiny_controls.sd15()
    types: list[type] = []

    def callback(_: Any, step: int, timestep: Any, kwargs: dict) -> dict:
        types.append(type(pipe.controlnet))
        return {"prompt_embeds": torch.zeros_like(kwargs["prompt_embeds"])} if step == 0 else {}

    told: list[Tensor] = []
    pipe.controlnet.register_forward_pre_hook(
        lambda module, args, kwargs: told.append(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    with reflected(pipe, PLAIN, num_reflections=0):
        call(pipe, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"])
    assert types == [ControlNetModel] * 3
    assert told[0].any() and not told[1].any()


def test_accelerate_hooks_on_the_controlnets_run_at_every_evaluation():
    class Counting(accelerate.hooks.ModelHook):
        calls = 0

        def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return args, kwargs

    pipe, hook = tiny_controls.sd15(2), Counting()
    accelerate.hooks.add_hook_to_module(pipe.controlnet, hook)
    with reflected(pipe, ModelSpec(control={"scale": [0.0, 1.0]}), num_reflections=1) as run:
        call(pipe, image=[PICTURE, PICTURE])
    assert hook.calls == 3 + 2 and run.num_control_calls == 2 * 3 + 2 + 1


def test_a_controlnet_and_its_edges_from_files(tmp_path: Path):
    """Saved and loaded again, one and two of them; the picture read, its edges made, as a user would."""
    pipe = tiny_controls.sd15(2)
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[4:12, 4:12] = 255
    Image.fromarray(pixels).save(tmp_path / "square.png")
    edges = canny_edges(read_control_image(tmp_path / "square.png", 16, 16))
    parts = {name: part for name, part in pipe.components.items() if name != "controlnet"}
    for k, net in enumerate(pipe.controlnet.nets):
        net.save_pretrained(tmp_path / str(k))
    loaded = [ControlNetModel.from_pretrained(tmp_path / str(k)) for k in (0, 1)]
    for nets, again, image in (
        (pipe.controlnet.nets[0], loaded[0], edges),
        (list(pipe.controlnet.nets), loaded, [edges, edges]),
    ):
        made = []
        for each in (nets, again):
            one = StableDiffusionControlNetPipeline(**parts, controlnet=each, requires_safety_checker=False)
            one.set_progress_bar_config(disable=True)
            with reflected(one, PLAIN) as run:
                made.append(call(one, image=image))
            assert min(run.gaps) > 0
        assert torch.equal(*made)


def refused(
    message: str, pipe: Any, weak: Any = PLAIN, reflector: Any = None, host: Any = "auto", **arguments: Any
) -> None:
    evaluated: list[int] = []
    hook = pipe.unet.register_forward_pre_hook(lambda *_: evaluated.append(1))
    with pytest.raises(UserError, match=message), reflected(pipe, weak, reflector=reflector, host=host):
        call(pipe, **arguments)
    hook.remove()
    assert evaluated == []


def test_what_cannot_be_controlled_is_refused_before_anything_is_evaluated():
    pipe = tiny_controls.sd15()
    refused("guess mode", pipe, host="record", guess_mode=True)
    pipe.controlnet.register_to_config(global_pool_conditions=True)
    refused("guess mode", pipe, host="record")
    pipe = tiny_controls.sd15()
    refused('differs in nothing.*weak="zero-gap"', pipe, ModelSpec(control={"scale": 1.0}))
    refused("differs in nothing", pipe, PLAIN, controlnet_conditioning_scale=0.0)
    refused("differs in nothing", pipe, PLAIN, ModelSpec(control={"scale": 0.0}))
    refused("weak: control has 2 numbers for 1 ControlNet;", pipe, ModelSpec(control={"scale": [1.0, 0.5]}))
    refused("reflector: control has 2 numbers", pipe, PLAIN, ModelSpec(control={"scale": [1.0, 0.5]}))
    refused("control_guidance_end has 2 numbers for 1 ControlNet", pipe, control_guidance_end=[0.5, 1.0])
    two = tiny_controls.sd15(2)
    refused(
        "controlnet_conditioning_scale has 3 numbers for 2 ControlNets", two, controlnet_conditioning_scale=[1.0] * 3
    )


def test_guess_mode_is_replayed():
    """A ControlNet for one half of guidance only: the pipeline's own loop makes the evaluations."""
    pipe = tiny_controls.sd15()
    stock = call(pipe, guess_mode=True)
    with reflected(pipe, "zero-gap", mode="fused") as run:
        control = call(pipe, guess_mode=True)
    assert run.host == "replay"
    assert torch.allclose(control, stock, atol=1e-5 * float(stock.abs().max()))
    with reflected(pipe, PLAIN, mode="fused") as run:
        moved = call(pipe, guess_mode=True)
    assert min(run.gaps) > 0 and not torch.allclose(moved, stock, atol=0.1)


def test_controlnets_of_other_kinds_are_refused_by_name():
    pipe = tiny_controls.sd15()
    pipe.controlnet.__class__ = type("ControlNetOfTomorrow", (nn.Module,), {})
    refused("of a kind that reflection does not know, ControlNetOfTomorrow", pipe, host="record")
    assert not issubclass(ControlNetUnionModel, ControlNetModel)
    flux = tiny_controls.flux()
    flux.controlnet = FluxMultiControlNetModel([flux.controlnet])
    with pytest.raises(UserError, match="one ControlNet for several images"), reflected(flux, PLAIN, host="record"):
        flux("a cat", control_image=[PICTURE], **tiny.FLUX_CALL)


def test_control_on_a_pipeline_without_controlnet_is_refused_by_role():
    for sides, role in (
        ({"weak": PLAIN}, "weak"),
        ({"weak": ModelSpec(guidance=0.0), "reflector": PLAIN}, "reflector"),
    ):
        with pytest.raises(UserError, match=f"{role} sets control.*it has no ControlNet"):
            reflected(tiny.sd15(), **sides).__enter__()
    with pytest.raises(UserError, match=r"weak sets control.*it has no ControlNet"):
        reflected(tiny_controls.sd15(), (tiny.sd15(2), PLAIN)).__enter__()


@pytest.mark.parametrize(
    "control", [{}, {"scale": "much"}, {"scale": float("nan")}, {"scale": []}, {"scale": True}, {"start": 1.0}, 1.0]
)
def test_a_control_that_says_nothing_usable_is_refused(control):
    with pytest.raises(UserError, match="control"):
        ModelSpec(control=control)


def test_residuals_of_another_origin_are_refused():
    class Doubling(StableDiffusionControlNetPipeline):
        """A pipeline that changes what the ControlNet returns."""

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            kind = type(self.unet)

            class Changed(kind):  # type: ignore[misc, valid-type]
                def __call__(self, *args: Any, **given: Any) -> Any:
                    given["mid_block_additional_residual"] = torch.zeros(1)
                    return super().__call__(*args, **given)

            self.unet.__class__ = Changed
            try:
                return super().__call__(*args, **kwargs)
            finally:
                self.unet.__class__ = kind

    pipe = Doubling(**tiny_controls.sd15().components, requires_safety_checker=False)
    refused("mid_block_additional_residual, which depends on the latent", pipe, host="record")
