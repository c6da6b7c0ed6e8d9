"""The scales of a network's LoRAs as a setting: what they mean, what switching touches, and that it is put back."""

from __future__ import annotations

from typing import Any

import accelerate
import pytest
import torch
from peft import LoKrConfig, LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from tests.support import tiny
from tests.support.tiny_loras import ATTENTION, CONVOLUTIONS, add_lora
from w2sd_video import ModelPair, ModelSpec
from w2sd_video.errors import UserError
from w2sd_video.gaps.loras import LoraScales, Rows, lora_scales
from w2sd_video.gaps.switches import SwitchBoard
from w2sd_video.pair import check_pair, gap

EVERYWHERE = [*ATTENTION, *CONVOLUTIONS, "time_emb_proj", "proj_in", "linear_1"]


def network(layers: list[str] = EVERYWHERE) -> Any:
    """A tiny SDXL network with the adapters "a" (attention, rank 4, alpha 6) and "b" (`layers`, rank-stabilised)."""
    net = tiny.sdxl_unet()
    add_lora(net, "a", 5)
    add_lora(net, "b", 6, targets=layers, use_rslora=True, r=2)
    return net


@torch.no_grad()
def run(net: Any, rows: int = 2) -> Tensor:
    x = torch.randn(2, 4, 8, 8, generator=tiny.generator())[:1].repeat(rows, 1, 1, 1)
    text, pooled = (
        torch.randn(shape, generator=tiny.generator(1)).expand(rows, *shape[1:]) for shape in ((1, 7, 32), (1, 16))
    )
    added = {"text_embeds": pooled, "time_ids": torch.zeros(rows, 6)}
    return net(x, 500, text, added_cond_kwargs=added, return_dict=False)[0]


def state(net: nn.Module) -> list[Any]:
    """All that switching may change, by layer; objects by identity, as a float is not a tensor of its value."""
    layers = [module for module in net.modules() if isinstance(module, BaseTunerLayer)]
    return [
        (layer._active_adapter, layer._disable_adapters, {name: (id(s), s) for name, s in layer.scaling.items()})
        for layer in layers
    ] + [parameter.requires_grad for parameter in net.parameters()]


# -- what a setting says --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loras", "message"),
    [
        ("style", r"loras is 'style'; give \(adapter name, scale\) pairs"),
        ((("style", 0.8, 1.0),), "give .adapter name, scale. pairs"),
        ((("", 0.8),), "names an adapter ''"),
        (((1, 0.8),), "names an adapter 1"),
        ((("style", 0.8), ("style", 0.5)), "names the adapter 'style' twice"),
        ((("style", float("nan")),), "scale of LoRA 'style' is nan; give a finite number"),
        ((("style", float("inf")),), "is inf"),
        ((("style", "high"),), "is 'high'"),
        ((("style", True),), "is True"),
        ((("style", ()),), r"is \(\)"),
        ((("style", (0.5, float("nan"))),), "nan"),
        ((("a", (0.5, 1.0)), ("b", (0.5, 1.0, 2.0))), "scales for 2 and 3 samples"),
    ],
)
def test_scales_that_mean_nothing_are_refused(loras, message):
    with pytest.raises(UserError, match=message):
        ModelSpec(loras=loras)


def test_settings_that_mean_the_same_are_equal_and_are_a_gap_where_they_differ():
    assert ModelSpec(loras=[["b", 1], ["a", -1.5]])  # type: ignore[arg-type] == ModelSpec(loras=(("a", -1.5), ("b", 1.0)))
    assert ModelSpec(loras=(("a", [1, 2]),)).loras == (("a", (1.0, 2.0)),)
    strong, weak = ModelSpec(loras=(("a", 0.8),)), ModelSpec(loras=(("a", -1.5),))
    assert gap(strong, weak) == {"loras": ((("a", 0.8),), (("a", -1.5),))}
    check_pair(ModelPair(strong, weak))
    with pytest.raises(UserError, match="differs in nothing"):
        check_pair(ModelPair(weak, ModelSpec(loras=[("a", -1.5)])))


# -- what it does to a network --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scales", [{"a": 0.8}, {"a": -1.5}, {"b": -2.0, "a": 0.3}, {"b": 0.5}])
def test_a_setting_is_set_adapters_bit_for_bit(scales):
    """Added up in the order in which adapters are active before: "b" was loaded last."""
    net, theirs = network(), network()
    theirs.set_adapters(list(scales), list(scales.values()))
    theirs.requires_grad_(False)  # which also chooses between kernels that round differently
    with lora_scales(net, scales):
        ours = run(net)
    assert torch.equal(ours, run(theirs))
    assert not torch.equal(ours, run(net))


def test_scale_zero_and_an_adapter_not_named_are_the_network_without_it():
    net = network()
    plain = run(tiny.sdxl_unet())
    for scales in ({"a": 0.0}, {"a": 0.0, "b": 0.0}, {"b": 0}):
        with lora_scales(net, scales):
            assert torch.equal(run(net), plain)
    with lora_scales(net, {"a": 0.7}):
        alone = run(net)
    with lora_scales(net, {"a": 0.7, "b": 0.0}):
        assert torch.equal(run(net), alone)
    assert (alone - plain).abs().max() > 1e-2


def test_none_is_as_it_is():
    net = network()
    before = run(net)
    with lora_scales(net, None):
        assert torch.equal(run(net), before)


WAYS = {
    "one adapter": lambda net: net.set_adapters(["a"], [0.3]),
    "both": lambda net: net.set_adapters(["b", "a"], [0.3, -2.0]),
    "by block": lambda net: net.set_adapters(["a"], [{"down": 0.2, "mid": 0.5, "up": 0.9}]),
    "disabled": lambda net: net.disable_lora(),
    "as loaded": lambda net: None,
}


@pytest.mark.parametrize("way", list(WAYS))
def test_what_the_user_had_set_is_put_back_after_success_after_an_error_and_after_nesting(way):
    net = network(ATTENTION)  # scales by block are for attention only
    WAYS[way](net)
    before, stock = state(net), run(net)
    with lora_scales(net, {"a": -1.5}):
        outer = run(net)
        with lora_scales(net, {"b": 0.4}):
            assert not torch.equal(run(net), outer)
        with pytest.raises(ZeroDivisionError), lora_scales(net, {"a": 2.0, "b": 1.0}):
            raise ZeroDivisionError
        assert torch.equal(run(net), outer)
    assert state(net) == before and torch.equal(run(net), stock)


@pytest.mark.parametrize("way", list(WAYS))
def test_held_for_a_call_the_network_is_as_the_user_set_it_between_evaluations(way):
    net = network(ATTENTION)  # scales by block are for attention only
    WAYS[way](net)
    before, stock, switch = state(net), run(net), LoraScales(net)
    value = ModelSpec(loras=(("b", 0.4),)).loras
    with pytest.raises(ZeroDivisionError), switch.held([value]):
        for _ in range(2):
            assert torch.equal(run(net), stock)
            with switch.set_to(value):
                other = run(net)
        raise ZeroDivisionError
    with lora_scales(net, {"b": 0.4}):
        assert torch.equal(run(net), other)
    assert state(net) == before


@pytest.mark.parametrize("name", ["set_adapters", "disable_lora", "enable_lora"])
def test_what_a_callback_sets_meanwhile_is_followed_and_stays(name):
    net = network()
    net.set_adapters(["a"], [0.3])
    switch, value = LoraScales(net), ModelSpec(loras=(("a", -1.0),)).loras
    with lora_scales(net, {"a": -1.0}):
        weak = run(net)
    actions = {"set_adapters": lambda: net.set_adapters(["b"], [0.7]), "disable_lora": net.disable_lora}
    with switch.held([value]):
        actions.get(name, net.enable_lora)()
        theirs = run(net)
        with switch.set_to(value):
            assert torch.equal(run(net), weak)
        assert torch.equal(run(net), theirs)
    assert torch.equal(run(net), theirs)
    reference = network()
    reference.set_adapters(["a"], [0.3])
    {"set_adapters": lambda: reference.set_adapters(["b"], [0.7]), "disable_lora": reference.disable_lora}.get(
        name, reference.enable_lora
    )()
    assert torch.equal(run(reference), theirs)
    assert not any(isinstance(s, Tensor) for m in net.modules() if hasattr(m, "scaling") for s in m.scaling.values())


def test_settings_are_alike_where_every_layer_multiplies_by_the_same():
    net, board = network(), SwitchBoard()
    net.set_adapters(["a"], [0.8])

    def alike(one: tuple, other: tuple) -> bool:
        return board.alike(net, *({"loras": ModelSpec(loras=each).loras} if each else {} for each in (one, other)))

    assert alike((("a", 0.8),), ()) and alike((), (("a", 0.8), ("b", 0.0))) and alike((), ())
    assert alike((("a", 0.8),), (("b", 0.0), ("a", 0.8))) and alike((("b", 0.0),), (("a", 0.0),))
    assert not alike((("a", 0.7),), ()) and not alike((("a", 0.8),), (("a", 0.8), ("b", 0.1)))
    net.disable_lora()
    assert alike((("a", 0.0),), ()) and not alike((("a", 0.8),), ())


# -- what switching costs -------------------------------------------------------------------------------------------


def test_switching_walks_through_nothing_and_writes_to_one_tensor(monkeypatch):
    net, board = network(), SwitchBoard()
    sides = [{"loras": ModelSpec(loras=(("a", scale),)).loras} for scale in (0.8, -1.5)]
    for side in sides:
        board.check(net, side)
    board.hold([net], [(net, side) for side in sides])
    layers = [module for module in net.modules() if isinstance(module, BaseTunerLayer)]
    held = [s for layer in layers for s in layer.scaling.values()]
    assert len({s.untyped_storage().data_ptr() for s in held}) == 1
    monkeypatch.setattr(nn.Module, "named_modules", lambda *_, **__: pytest.fail("a walk"))
    monkeypatch.setattr(nn.Module, "__setattr__", lambda *_: pytest.fail("a write to a module"))
    for side in (*sides, *sides):
        with board.in_force(net, side):
            assert all(s is now for s, now in zip(held, (n for m in layers for n in m.scaling.values()), strict=True))
            factor = dict(side["loras"])["a"] * 6 / 4
            assert all(float(layer.scaling["a"]) == factor for layer in layers if "a" in layer.scaling)
    monkeypatch.undo()
    board.close()
    assert not any(isinstance(s, Tensor) for layer in layers for s in layer.scaling.values())


@torch.no_grad()
def test_compiled_code_is_made_once_for_both_sides_and_for_none():
    net, board = network(), SwitchBoard()
    net.set_adapters(["a"], [0.5])
    sides: list[dict] = [{}] + [{"loras": ModelSpec(loras=value).loras} for value in ((("a", 0.8),), (("b", -1.5),))]
    plain = []
    for side in sides:
        with board.in_force(net, side):
            plain.append(run(net))
    counter = CompileCounter()
    net.mid_block.attentions[0].transformer_blocks[0].compile(backend=counter)  # one block: compiling is slow
    board.hold([net], [(net, side) for side in sides])
    try:
        for side, expected in zip([*sides, *reversed(sides)], [*plain, *reversed(plain)], strict=True):
            with board.in_force(net, side):
                assert torch.equal(run(net), expected)
    finally:
        board.close()
        torch._dynamo.reset()
    assert counter.frame_count == 1


# -- several scales in one batch ------------------------------------------------------------------------------------


def test_samples_of_one_batch_have_scales_of_their_own():
    """Against one batch per scale, whose sums differ by the order in which a matrix product of other size adds."""
    net = network()
    scales = [0.8, -1.5, 0.0]
    with lora_scales(net, {"a": tuple(scales), "b": 0.5}):
        together = run(net, rows=3)
    for row, scale in enumerate(scales):
        with lora_scales(net, {"a": scale, "b": 0.5}):
            alone = run(net, rows=3)[row]
        assert (together[row] - alone).abs().max() <= 1e-5 * alone.abs().max()
    assert (together[0] - together[1]).abs().max() > 1e-2
    assert not any(isinstance(value, Tensor) for m in net.modules() for value in getattr(m, "scaling", {}).values())


def test_rows_are_of_sides_and_samples_and_none_is_as_the_network_is():
    net = network()
    net.set_adapters(["b"], [0.5])
    weak = ModelSpec(loras=(("a", (0.8, -1.5)),)).loras
    switch = LoraScales(net)
    with switch.set_to(Rows((None, weak), 2, 2, torch.device("cpu"))):
        together = run(net, rows=8)
    net_rows = {"b": (0.5, 0.5, 0.0, 0.0) * 2, "a": (0.0, 0.0, 0.8, -1.5) * 2}
    with lora_scales(net, net_rows):
        assert torch.equal(run(net, rows=8), together)
    before = state(net)
    with switch.held([weak]), pytest.raises(ZeroDivisionError), switch.set_to(Rows((weak,), 2, 1, torch.device("cpu"))):
        raise ZeroDivisionError
    assert state(net) == before


@torch.no_grad()
def test_scales_by_rows_are_compiled_without_a_break():
    net = network()
    expected = []
    values = [{"a": (0.8, -1.5)}, {"a": (0.1, 0.2)}]
    for value in values:
        with lora_scales(net, value):
            expected.append(run(net))
    counter = CompileCounter()
    net.mid_block.attentions[0].transformer_blocks[0].compile(backend=counter, fullgraph=True)
    for value, result in zip(values, expected, strict=True):
        with lora_scales(net, value):
            assert torch.equal(run(net), result)
    torch._dynamo.reset()
    assert counter.frame_count == 1


# -- what is refused, and what is hidden behind hooks ---------------------------------------------------------------


def test_a_network_whose_modules_are_hooked_by_offloading_is_switched_too():
    net, hooked = network(), network()
    for module in [m for m in hooked.modules() if isinstance(m, nn.Linear | nn.Conv2d)]:
        accelerate.hooks.add_hook_to_module(module, accelerate.hooks.ModelHook())
    for scales in ({"a": 0.8}, {"a": (0.8, -1.5)}):
        with lora_scales(net, scales), lora_scales(hooked, scales):
            assert torch.equal(run(net), run(hooked))
    assert torch.equal(run(net), run(hooked))


def test_adapters_that_cannot_be_switched_are_refused_with_a_remedy():
    net = network()
    for build, scales, message in (
        (tiny.sdxl_unet, {"a": 1.0}, r"UNet2DConditionModel has no LoRA adapters; load them first.*load_lora_weights"),
        (lambda: net, {"c": 1.0}, r"UNet2DConditionModel has no LoRA adapter 'c'; it has a, b"),
    ):
        with pytest.raises(UserError, match=message), lora_scales(build(), scales):
            pass
    fused = network()
    fused.fuse_lora(0.5)
    with (
        pytest.raises(UserError, match=r"are fused into UNet2DConditionModel.*unfuse_lora"),
        lora_scales(fused, {"a": 1.0}),
    ):
        pass
    dora = tiny.sdxl_unet()
    dora.add_adapter(LoraConfig(target_modules=ATTENTION, use_dora=True), "d")
    with pytest.raises(UserError, match=r"LoRA 'd' is a DoRA"), lora_scales(dora, {"d": 1.0}):
        pass
    lokr = tiny.sdxl_unet()
    lokr.add_adapter(LoKrConfig(target_modules=["to_q"]), "k")
    with (
        pytest.raises(UserError, match=r"adapter of the kind Linear.*only LoRAs of linear and convolution"),
        lora_scales(lokr, {"k": 1.0}),
    ):
        pass


def test_scales_by_sample_are_refused_where_layers_do_not_keep_rows_in_order():
    class Sorting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.to_q = nn.Linear(4, 4)

    from peft import inject_adapter_in_model

    net = inject_adapter_in_model(LoraConfig(target_modules=["to_q"]), Sorting(), "a")
    with lora_scales(net, {"a": 0.5}):
        pass
    with (
        pytest.raises(UserError, match="one per sample, which Sorting does not take"),
        lora_scales(net, {"a": (0.5, 1.0)}),
    ):
        pass
