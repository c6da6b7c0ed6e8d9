"""A hosted pipeline is as it was afterwards, and its hooks see real evaluations only."""

from __future__ import annotations

from typing import Any

import accelerate.hooks
import diffusers
import pytest
import torch
from torch import Tensor, nn

from tests.support import tiny
from w2sd_video import ModelSpec, reflected

WEAK = ModelSpec(guidance=1.0)


def call(pipe: Any, **arguments: Any) -> Any:
    settings = {"num_inference_steps": 4, "output_type": "latent", "generator": tiny.generator(), "guidance_scale": 3.0}
    return pipe("a cat", **{**tiny.IMAGE_CALL, **settings, **arguments})[0]


def state(pipe: Any) -> dict[str, Any]:
    """All that hosting could leave behind on a pipeline: classes and attributes, by identity."""
    found: dict[str, Any] = {"pipeline": (type(pipe), sorted(vars(pipe)), sorted(vars(pipe.scheduler)))}
    for name, part in pipe.components.items():
        found[name] = (
            id(part),
            type(part),
            {k: id(v) for k, v in getattr(part, "__dict__", {}).items() if k[0] != "_"},
        )
    network = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    found["own"] = ("__call__" in vars(network), "forward" in vars(network), "step" in vars(pipe.scheduler))
    found["scale"] = getattr(pipe, "_guidance_scale", None)
    found.pop("scheduler")
    return found


class Boom(Exception):
    pass


def boom(*_: Any, **__: Any) -> Any:
    raise Boom


def test_the_pipeline_is_as_it_was_after_a_reflected_call():
    pipe, weak = tiny.sdxl(1), tiny.sdxl(2)
    stock = call(pipe), call(weak)
    before = state(pipe), state(weak)
    with reflected(pipe, (weak, ModelSpec(guidance=0.5))):
        call(pipe)
    assert (state(pipe), state(weak)) == before
    assert torch.equal(call(pipe), stock[0]) and torch.equal(call(weak), stock[1])


@pytest.mark.parametrize("where", ["the strong network", "the weak network", "a callback", "the decoder", "the body"])
def test_the_pipeline_is_as_it_was_after_an_exception_in(where):
    pipe, weak = tiny.sdxl(1), tiny.sdxl_unet(2)
    stock = call(pipe)
    before = state(pipe)
    arguments: dict[str, Any] = {"output_type": "pt"}
    hooks = []
    if where == "a callback":
        arguments["callback_on_step_end"] = lambda pipe, i, t, kwargs: boom() if i == 2 else kwargs
    elif where == "the decoder":
        hooks.append(pipe.vae.decoder.register_forward_pre_hook(boom))
    elif where != "the body":
        network = pipe.unet if where == "the strong network" else weak
        hooks.append(network.mid_block.register_forward_pre_hook(boom))
    with pytest.raises(Boom), reflected(pipe, weak):
        call(pipe, **arguments)
        boom()
    for hook in hooks:
        hook.remove()
    assert state(pipe) == before
    assert torch.equal(call(pipe), stock)


def test_the_weak_pipeline_is_as_it_was_after_an_exception_in_its_prompt_encoder():
    pipe, weak = tiny.sdxl(1), tiny.sdxl(2)
    call(pipe), call(weak)
    before = state(pipe), state(weak)
    hook = weak.text_encoder.register_forward_pre_hook(boom)
    with pytest.raises(Boom), reflected(pipe, weak):
        call(pipe)
    hook.remove()
    assert (state(pipe), state(weak)) == before


def test_attributes_a_user_put_in_front_of_methods_are_put_back():
    pipe = tiny.sdxl()
    made: list[int] = []
    step, forward, bar = pipe.scheduler.step, pipe.unet.forward, pipe.progress_bar

    def counted(*args: Any, **kwargs: Any) -> Any:
        made.append(1)
        return forward(*args, **kwargs)

    own_step, own_bar = (lambda *a, **k: step(*a, **k)), (lambda *a, **k: bar(*a, **k))
    pipe.unet.forward, pipe.scheduler.step, pipe.progress_bar = counted, own_step, own_bar
    with reflected(pipe, WEAK) as run:
        call(pipe)
    assert pipe.unet.forward is counted and pipe.scheduler.step is own_step and pipe.progress_bar is own_bar
    assert len(made) == run.num_forwards  # a replaced forward is what is evaluated


def test_hooks_on_the_network_see_real_evaluations_only():
    pipe = tiny.sdxl()
    inputs: list[Tensor] = []
    pipe.unet.register_forward_pre_hook(lambda module, args, kwargs: inputs.append(args), with_kwargs=True)
    outputs: list[Tensor] = []
    pipe.unet.register_forward_hook(lambda module, args, output: outputs.append(output[0]))
    with reflected(pipe, WEAK) as run:
        call(pipe)
    assert len(inputs) == len(outputs) == run.num_forwards
    assert all(float(output.std()) > 0 for output in outputs)


def test_accelerate_hooks_run_at_every_evaluation_and_stay():
    class Counting(accelerate.hooks.ModelHook):
        calls = 0

        def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return args, kwargs

    pipe = tiny.sdxl()
    stock = call(pipe)
    hook = Counting()
    accelerate.hooks.add_hook_to_module(pipe.unet, hook)
    with reflected(pipe, num_reflections=0) as run:
        plain = call(pipe)
    assert hook.calls == run.num_forwards == 4
    assert pipe.unet._hf_hook is hook and (plain - stock).abs().max() < 1e-5
    accelerate.hooks.remove_hook_from_module(pipe.unet)
    assert torch.equal(call(pipe), stock)


def test_hooks_that_the_pipeline_renews_at_its_end_are_the_renewed_ones():
    # What enable_model_cpu_offload does: the call's last act takes all hooks off and puts new ones on.
    pipe = tiny.sdxl()
    first = accelerate.hooks.ModelHook()
    accelerate.hooks.add_hook_to_module(pipe.unet, first)
    renewed = accelerate.hooks.ModelHook()

    def free() -> None:
        accelerate.hooks.remove_hook_from_module(pipe.unet)
        accelerate.hooks.add_hook_to_module(pipe.unet, renewed)

    pipe.maybe_free_model_hooks = free
    with reflected(pipe, ModelSpec(prompt="a dog")):
        call(pipe)
    assert pipe.unet._hf_hook is renewed
    accelerate.hooks.remove_hook_from_module(pipe.unet)
    assert type(pipe.unet) is diffusers.UNet2DConditionModel
