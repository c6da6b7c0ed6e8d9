"""Step caches under a reflection: evaluations of one side, visit and half continue each other, and no others."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from diffusers import FirstBlockCacheConfig, TaylorSeerCacheConfig
from torch import Tensor, nn

from tests.support import tiny, tiny_families
from w2sd_video import ModelSpec, reflected
from w2sd_video.errors import UserError
from w2sd_video.hosting.caches import CacheContexts, check_cacheable, enable_caches, read_step_cache

STEPS, LAMBDA = 4, 2


def deep(network: nn.Module, **layers: int) -> Any:
    """The tiny network with as many blocks as a cache needs: a first one and more."""
    kind: Any = type(network)
    made = tiny.seeded(3, lambda: kind.from_config({**network.config, **layers})).eval()  # type: ignore[dict-item]
    for parameter in made.parameters():
        parameter.requires_grad_(False)
    return made


def flux() -> Any:
    """Guidance in two calls."""
    pipe = tiny.flux(guidance_embeds=False)
    pipe.register_modules(transformer=deep(pipe.transformer, num_layers=2, num_single_layers=1))
    return pipe


def wan() -> Any:
    pipe = tiny.wan()
    pipe.register_modules(transformer=deep(pipe.transformer, num_layers=3))
    return pipe


FAMILIES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "flux": (flux, {**tiny.FLUX_CALL, "negative_prompt": "a dog", "true_cfg_scale": 2.0}),
    "wan": (wan, {**tiny.WAN_CALL, "guidance_scale": 3.0}),
}


def call(pipe: Any, arguments: dict[str, Any]) -> Tensor:
    settings = {"num_inference_steps": STEPS, "output_type": "latent", "generator": tiny.generator()}
    return torch.as_tensor(pipe("a red cat", **{**arguments, **settings})[0])


class Runs:
    """How often a network's first and last blocks are run, from a linear layer inside of each."""

    def __init__(self, network: Any) -> None:
        blocks = [block for name, child in network.named_children() if name.endswith("blocks") for block in child]
        self.counts = [0, 0]
        for place, block in ((0, blocks[0]), (1, blocks[-1])):
            inner = next(module for module in block.modules() if isinstance(module, nn.Linear))
            inner.register_forward_hook(lambda *_, place=place: self._ran(place))

    def _ran(self, place: int) -> None:
        self.counts[place] += 1


@pytest.mark.parametrize(
    ("family", "mode", "host"),
    [("flux", "paper", "record"), ("flux", "fused", "replay"), ("wan", "fused", "record"), ("wan", "paper", "replay")],
)
@torch.no_grad()
def test_at_threshold_0_a_cache_changes_nothing_and_at_a_high_one_each_name_computes_once(
    family: str, mode: str, host: str
) -> None:
    """At a threshold that nothing passes the last block runs at the first evaluation under each name, and never again:
    those of the sampling step, of both sides of a reflection, and of two halves each.
    """
    build, arguments = FAMILIES[family]
    pipe = build()
    weak, settings = ModelSpec(guidance=0.5), {"num_reflections": LAMBDA, "mode": mode, "host": host}
    stock = call(pipe, arguments)
    with reflected(pipe, weak, **settings):
        wanted = call(pipe, arguments)
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    with reflected(pipe, weak, **settings):
        assert torch.equal(call(pipe, arguments), wanted)
    pipe.transformer.disable_cache()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    runs = Runs(pipe.transformer)
    with reflected(pipe, weak, **settings) as run:
        made = call(pipe, arguments)
    assert not torch.equal(made, wanted)
    # Fused, one evaluation of both halves gives both sides of a gap of guidance.
    names = {"paper": 3, "fused": 2}[mode]
    assert runs.counts == [run.num_forwards, names * 2]
    pipe.transformer.disable_cache()
    assert torch.equal(call(pipe, arguments), stock)


@torch.no_grad()
def test_evaluations_of_two_sides_never_meet() -> None:
    """One network cached for both sides is what a copy of it for the weak side is, whose cache is its own."""
    pipe = flux()
    arguments = FAMILIES["flux"][1]
    for config in (
        FirstBlockCacheConfig(threshold=0.5),
        TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=1, taylor_factors_dtype=torch.float32),
    ):
        pipe.transformer.enable_cache(config)
        other = deep(pipe.transformer, num_layers=2, num_single_layers=1)
        other.load_state_dict(pipe.transformer.state_dict())
        other.enable_cache(copy.copy(config))
        runs = Runs(pipe.transformer), Runs(other)
        spec = ModelSpec(guidance=0.0)
        with reflected(pipe, (other, spec), num_reflections=3) as two:
            wanted = call(pipe, arguments)
        apart = [sum(pair) for pair in zip(*(run.counts for run in runs), strict=True)]
        with reflected(pipe, spec, num_reflections=3) as one:
            made = call(pipe, arguments)
        assert torch.equal(made, wanted) and one.num_forwards == two.num_forwards
        together = [now - before for now, before in zip(runs[0].counts, apart, strict=True)]
        assert min(runs[1].counts) > 0 and max(together) <= max(apart)
        with reflected(pipe, spec, num_reflections=3):
            assert torch.equal(call(pipe, arguments), made), "nothing is left of an earlier call"
        pipe.transformer.disable_cache()


def test_the_nth_visit_of_a_side_has_a_name_of_its_own() -> None:
    contexts = CacheContexts()
    strong, weak, again = contexts.visit("strong"), contexts.visit("weak"), contexts.visit("strong")
    contexts.next_step()
    assert [contexts.visit("weak"), contexts.visit("strong"), contexts.visit("strong")] == [weak, strong, again]
    assert len({strong, weak, again}) == 3


def test_caches_that_cannot_keep_evaluations_apart_are_refused() -> None:
    pipe = flux()
    arguments = FAMILIES["flux"][1]
    for config, why in (
        (diffusers.MagCacheConfig(mag_ratios=[1.0] * STEPS, num_inference_steps=STEPS), "one pass over the timesteps"),
        (diffusers.PyramidAttentionBroadcastConfig(current_timestep_callback=lambda: 500), "one state for all"),
        (diffusers.FasterCacheConfig(), "one state for all"),
    ):
        pipe.transformer._cache_config = config
        with (
            pytest.raises(UserError, match=f"{type(config).__name__}.*{why}.*disable_cache"),
            reflected(pipe, ModelSpec(guidance=0.0), num_reflections=1),
        ):
            call(pipe, arguments)
        pipe.transformer._cache_config = None
        other = copy.copy(pipe.transformer)
        other._cache_config = config
        with pytest.raises(UserError, match=why), reflected(pipe, other, num_reflections=1):
            call(pipe, arguments)


def test_blocks_are_not_left_out_beside_a_cache_that_goes_by_them() -> None:
    pipe = flux()
    enable_caches([pipe.transformer], read_step_cache("first-block=0.1"))
    with (
        pytest.raises(UserError, match="has a step cache, which goes by blocks that skip_layers"),
        reflected(pipe, ModelSpec(skip_layers=(0,)), num_reflections=1),
    ):
        call(pipe, FAMILIES["flux"][1])


@torch.no_grad()
def test_a_cache_by_its_name_is_that_of_diffusers_and_at_its_least_number_changes_nothing() -> None:
    pipe, arguments, weak = flux(), FAMILIES["flux"][1], ModelSpec(guidance=0.0)
    with reflected(pipe, weak, num_reflections=2):
        wanted = call(pipe, arguments)
    for text, changes in (("first-block=0", False), ("taylorseer=1", False), ("taylorseer=2", True)):
        enable_caches([pipe.transformer, pipe.transformer], read_step_cache(text))
        assert str(read_step_cache(text)) == text
        with reflected(pipe, weak, num_reflections=2):
            assert torch.equal(call(pipe, arguments), wanted) is not changes, text
        pipe.transformer.disable_cache()
    check_cacheable(wan().transformer)
    with pytest.raises(UserError, match="UNet2DConditionModel is of no kind that diffusers caches"):
        check_cacheable(tiny.sdxl_unet())
    with pytest.raises(UserError, match="SD3Transformer2DModel is of no kind"):
        check_cacheable(tiny_families.sd3().transformer)
