"""Compiled blocks and attention backends under a reflection: what is compiled once serves every side."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support import tiny
from tests.support.tiny_loras import add_lora
from w2sd_video import ModelSpec, reflected
from w2sd_video.loading.placement import compile_networks


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Compiles the blocks of networks, traced but not translated, which is what recompilations are about."""
    import torch._dynamo as dynamo
    from torch._dynamo.utils import counters

    dynamo.reset()
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend="eager"))
    monkeypatch.setattr(dynamo.config, "recompile_limit", dynamo.config.recompile_limit)

    def graphs() -> int:
        return counters["stats"]["unique_graphs"]

    yield graphs
    dynamo.reset()


@pytest.mark.slow
@torch.no_grad()
def test_nothing_is_compiled_again_between_sides_scales_and_rows(compiled: Any) -> None:
    """The first call compiles for one row and for two, the guided one; a call with other scales, and one over another
    network of the same kind, add nothing.
    """
    pipe = tiny.sdxl()
    add_lora(pipe.unet, "style")
    other = copy.deepcopy(pipe.unet)
    compile_networks([pipe.unet, other])

    def call(weak: Any, scale: float) -> Tensor:
        settings = {**tiny.IMAGE_CALL, "num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "latent"}
        reflector = ModelSpec(guidance=1.0, loras=(("style", scale),))
        with reflected(pipe, weak, num_reflections=2, reflector=reflector):
            return pipe("a cat", **settings, generator=tiny.generator()).images

    first = call(ModelSpec(guidance=1.0, loras=(("style", -1.5),)), 0.8)
    before = compiled()
    assert before > 0
    second = call(ModelSpec(guidance=1.0, loras=(("style", -0.3),)), 1.3)
    third = call((other, ModelSpec(guidance=1.0, loras=(("style", 0.2),))), 0.7)
    assert compiled() == before
    assert not torch.equal(first, second) and not torch.equal(second, third)


@torch.no_grad()
def test_an_attention_backend_is_that_of_every_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny.flux()
    settings = {**tiny.FLUX_CALL, "num_inference_steps": 3, "output_type": "latent"}

    def call() -> Tensor:
        with reflected(pipe, ModelSpec(guidance=1.5), num_reflections=1):
            return pipe("a cat", **settings, generator=tiny.generator()).images

    own = call()
    asked: list[str] = []
    from diffusers.models import attention_dispatch

    stock = attention_dispatch.dispatch_attention_fn
    target = "diffusers.models.transformers.transformer_flux.dispatch_attention_fn"
    monkeypatch.setattr(
        target, lambda *args, **kwargs: asked.append(str(kwargs.get("backend"))) or stock(*args, **kwargs)
    )
    pipe.transformer.set_attention_backend("_native_math")
    other = call()
    layers = sum(hasattr(module, "to_q") for module in pipe.transformer.modules())
    assert len(asked) == layers * 5 and {name.rpartition(".")[2].lower() for name in asked} == {"_native_math"}
    assert torch.allclose(own, other, atol=1e-4)
