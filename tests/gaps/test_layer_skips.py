"""A network with blocks left out as the weak side: which blocks, what is left out, and that nothing of it stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support import tiny, tiny_families
from w2sd_video import ModelSpec, ReflectionConfig, reflected
from w2sd_video.errors import UserError
from w2sd_video.gaps.layer_skips import find_layer_skips

STEPS, LAMBDA = 3, 2
MID = "mid_block.attentions.0.transformer_blocks.0"
# By family: the pipeline, its call, and blocks of its network.
FAMILIES: dict[str, tuple[Any, dict[str, Any], tuple[str | int, ...]]] = {
    "sdxl": (tiny.sdxl, tiny.IMAGE_CALL, (MID,)),
    "motion": (
        tiny.animatediff_sdxl,
        tiny.ANIMATEDIFF_CALL,
        ("up_blocks.0.motion_modules.0.transformer_blocks.0",),
    ),
    "flux": (tiny.flux, tiny.FLUX_CALL, (0, "single_transformer_blocks.0")),
    "sd3": (tiny_families.sd3, tiny.IMAGE_CALL, (0,)),
    "wan": (tiny.wan, tiny.WAN_CALL, (0,)),
}


def call(pipe: Any, arguments: dict[str, Any]) -> Tensor:
    settings = {"num_inference_steps": STEPS, "output_type": "latent", "generator": tiny.generator()}
    return torch.as_tensor(pipe("a red cat", **{**arguments, **settings})[0])


def network_of(pipe: Any) -> nn.Module:
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


def marks(network: nn.Module) -> list[str]:
    """The modules that a hook has left something on; pipelines themselves give networks a registry (their caches')."""
    return [n for n, m in network.named_modules() if n and ("forward" in vars(m) or hasattr(m, "_diffusers_hook"))]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_skipped_blocks_are_left_out_on_the_weak_side_and_nothing_of_it_stays(family: str) -> None:
    build, arguments, skipped = FAMILIES[family]
    pipe = build()
    network = network_of(pipe)
    plain = call(pipe, arguments)
    asked: list[int] = []
    switch = find_layer_skips(network)
    blocks = [switch._block(name) for name in switch.meaning(ModelSpec(skip_layers=skipped).skip_layers or ())]
    hooks = [block.register_forward_hook(lambda *_: asked.append(1)) for block in blocks]
    inner = [next(m for m in block.modules() if isinstance(m, nn.Linear)) for block in blocks]
    hooks += [linear.register_forward_hook(lambda *_: asked.append(100)) for linear in inner]
    config = ReflectionConfig(LAMBDA, "fused")
    with reflected(pipe, ModelSpec(skip_layers=skipped), config=config) as run:
        moved = call(pipe, arguments)
    for hook in hooks:
        hook.remove()
    assert run.num_evaluations == STEPS + 2 * LAMBDA and min(run.gaps) > 0
    forwards = run.num_forwards  # each goes through the block, those of the weak side past what is in it
    assert asked.count(1) == forwards * len(blocks)
    assert asked.count(100) >= asked.count(1) - asked.count(1) * LAMBDA // (STEPS + 2 * LAMBDA)
    assert asked.count(100) % (STEPS + LAMBDA) == 0
    assert not torch.equal(moved, plain)
    assert marks(network) == [] and torch.equal(call(pipe, arguments), plain)


@torch.no_grad()
def test_blocks_are_put_back_after_an_error_and_what_stands_comes_back() -> None:
    network = tiny.sdxl_unet()
    switch, up = find_layer_skips(network), "up_blocks.0.attentions.0.transformer_blocks.0"
    with switch.set_to((up,)):
        with pytest.raises(RuntimeError, match="oops"), find_layer_skips(network).set_to((MID,)):
            assert marks(network) == [MID]
            raise RuntimeError("oops")
        with find_layer_skips(network).set_to(()):
            assert marks(network) == []
        assert marks(network) == [up] and find_layer_skips(network).now == (up,)
    assert marks(network) == []


def test_blocks_a_network_does_not_have_are_refused_with_those_it_has() -> None:
    for value, said in (
        (("mid_block",), "skip_layers names 'mid_block', which UNet2DConditionModel does not have; it has .*mid_block"),
        ((f"{MID[:-1]}7",), "0 to 0"),
        ((0,), "skip_layers names '0'"),
    ):
        with pytest.raises(UserError, match=said), reflected(tiny.sdxl(), ModelSpec(skip_layers=value)):
            pass
    with pytest.raises(UserError, match="skip_layers names '9', which WanTransformer3DModel does not have"):
        find_layer_skips(tiny.wan_transformer()).check(("9",))
    for value in ("3", (-1,), (True,), ("",), 3):
        with pytest.raises(UserError, match=r"skip_layers is .*; give blocks of the network"):
            ModelSpec(skip_layers=value)  # type: ignore[arg-type]
    assert ModelSpec(skip_layers=(7, 3, "3")) == ModelSpec(skip_layers=["3", "7"])  # type: ignore[arg-type]


def test_no_blocks_skipped_is_no_gap() -> None:
    pipe = tiny.wan()
    with pytest.raises(UserError, match="differs in nothing"), reflected(pipe, ModelSpec(skip_layers=())):
        call(pipe, tiny.WAN_CALL)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_self_attention_alone_is_left_out_as_diffusers_guiders_do(family: str) -> None:
    build, arguments, skipped = FAMILIES[family]
    skipped = (MID,) if family == "motion" else skipped  # neither are two frames
    pipe = build()
    network, plain = network_of(pipe), call(pipe, arguments)
    switch, found = find_layer_skips(network), {}
    for way in ("pag", "seg"):
        entries = tuple(f"{block}:{way}" for block in skipped)
        switch.check(entries)
        with switch.set_to(entries):
            assert find_layer_skips(network).now == switch.now == switch.meaning(entries) and marks(network)
            found[way] = call(pipe, arguments)
        assert marks(network) == []
    with switch.set_to(skipped):
        found["whole"] = call(pipe, arguments)
    assert not torch.equal(found["pag"], plain) and not torch.equal(found["pag"], found["whole"])
    assert family == "wan" or not any(torch.equal(found["seg"], other) for other in (plain, found["pag"])), (
        "a position a frame is nothing to blur"
    )
    assert torch.equal(call(pipe, arguments), plain)


@torch.no_grad()
def test_with_pag_each_position_attends_to_itself() -> None:
    network = tiny.sdxl_unet()
    attention = network.get_submodule(MID).attn1
    x = torch.randn(1, 9, attention.to_q.in_features, generator=tiny.generator())
    with find_layer_skips(network).set_to((f"{MID}:pag",)):
        found = attention(x)
    torch.testing.assert_close(found, attention.to_out[0](attention.to_v(x)))
    with find_layer_skips(network).set_to((f"{MID}:seg",)):
        assert torch.allclose(*(attention(x)[0, i] for i in (0, 8)), atol=1e-6), "all queries are their mean"


def test_what_is_left_out_of_a_block_is_checked() -> None:
    with pytest.raises(UserError, match="behind the colon stands pag or seg"):
        find_layer_skips(tiny.sdxl_unet()).check([f"{MID}:cfg"])
