"""LoRA scales as the gap of a pair, inside stock pipeline calls of every family."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import accelerate
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from tests.gaps.test_lora_scales import state
from tests.support import tiny, tiny_families
from tests.support.tiny_loras import ATTENTION, add_lora
from w2sd_video import ModelSpec, ReflectionConfig, Routing, reflected
from w2sd_video.errors import UserError
from w2sd_video.hosting import one_batch

STRONG, WEAK = 0.8, -1.5
WIDE = [*ATTENTION, "conv1", "conv_in", "time_emb_proj", "linear", "linear_1", "proj_mlp", "patch_embedding"]
GAP = ModelSpec(loras=(("a", WEAK),))
FAMILIES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "sd15": (tiny.sd15, tiny.IMAGE_CALL),
    "sdxl": (tiny.sdxl, tiny.IMAGE_CALL),
    "animatediff": (tiny.animatediff_sdxl, tiny.ANIMATEDIFF_CALL),
    "animatediff on sd15": (tiny_families.animatediff_sd15, tiny.ANIMATEDIFF_CALL),
    "sd3": (tiny_families.sd3, tiny_families.SD3_CALL),
    "flux": (tiny.flux, tiny.FLUX_CALL),
    "wan": (tiny.wan, tiny.WAN_CALL),
    "wan22": (tiny.wan22, tiny.WAN_CALL),
}


def networks(pipe: Any) -> list[Any]:
    return [n for name in ("unet", "transformer", "transformer_2") if (n := getattr(pipe, name, None)) is not None]


def pipeline(family: str = "sdxl") -> Any:
    """A pipeline that samples with LoRA "a" (attention) at 0.8; "b" (layers of all shapes) is loaded too and rests."""
    pipe = FAMILIES[family][0]()
    for network in networks(pipe):
        add_lora(network, "a", 5)
        add_lora(network, "b", 6, targets=WIDE)
        network.set_adapters(["a"], [STRONG])
        network.requires_grad_(False)  # which also chooses between kernels that round differently
    return pipe


shared = functools.cache(pipeline)  # for tests that set nothing themselves: a gap leaves a pipeline as it was


def call(pipe: Any, family: str = "sdxl", steps: int = 3, **arguments: Any) -> Tensor:
    settings = {**FAMILIES[family][1], "output_type": "latent", "generator": tiny.generator(), "guidance_scale": 3.0}
    return pipe("a cat", **{**settings, "num_inference_steps": steps, **arguments})[0]


def scales_seen(network: Any) -> list[float]:
    """The factor by which "a" acts in each evaluation, to be filled; 1.5 times its scale (alpha 6, rank 4)."""
    layer = next(module for module in network.modules() if "a" in getattr(module, "scaling", {}))
    seen: list[float] = []
    network.register_forward_pre_hook(lambda *_: seen.append(float(layer.scaling["a"])))
    return seen


# -- what a gap is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_strong_side_alone_is_the_stock_pipeline_at_its_scale(family):
    """2 steps of a few float32 roundings each, doubled by guidance and by the network's slope."""
    pipe = shared(family)
    stock = call(pipe, family, steps=2)
    with reflected(pipe, GAP, strength=0.0):
        alone = call(pipe, family, steps=2)
    assert (alone - stock).abs().max() <= 1e-5 * max(1.0, float(stock.abs().max()))
    with reflected(pipe, GAP) as run:
        assert (call(pipe, family, steps=2) - stock).abs().max() > 1e-3
    assert min(run.gaps) > 1e-3


@pytest.mark.parametrize("family", ["sdxl", "animatediff", "flux"])
def test_a_weak_scale_is_a_weak_network_of_its_own_at_that_scale(family):
    pipe, other = shared(family), networks(pipeline(family))[0]
    other.set_adapters(["a"], [WEAK])
    other.requires_grad_(False)
    with reflected(pipe, other) as apart:
        expected = call(pipe, family, steps=2)
    with reflected(pipe, GAP) as together:
        assert torch.equal(call(pipe, family, steps=2), expected)
    assert together.gaps == apart.gaps
    with reflected(pipe, (other, ModelSpec(loras=(("a", STRONG),)))) as none:
        at_strong = call(pipe, family, steps=2)
    with reflected(pipe, "zero-gap") as zero:
        assert torch.equal(call(pipe, family, steps=2), at_strong), "a gap of size zero is zero-gap"
    assert none.gaps == zero.gaps != together.gaps


def test_scales_that_are_the_strong_sides_own_are_no_gap():
    pipe = shared("sdxl")
    for weak, reflector in (
        ((("a", STRONG),), ()),
        ((("b", 0.0), ("a", STRONG)), ()),
        ((("a", WEAK),), (("a", WEAK), ("b", 0.0))),
    ):
        hosted = reflected(pipe, ModelSpec(loras=weak), reflector=ModelSpec(loras=reflector))
        with pytest.raises(UserError, match=r'differs in nothing.*weak="zero-gap"'), hosted:
            call(pipe)
    with reflected(pipe, "zero-gap", reflector=GAP, mode="fused") as zero:
        call(pipe)
    assert max(zero.gaps) == 0


def test_scales_are_in_force_in_the_evaluations_of_their_side_and_both_sides_may_have_some():
    pipe = pipeline()
    seen = scales_seen(pipe.unet)
    with reflected(pipe, GAP, num_reflections=1):
        call(pipe)
    assert seen == pytest.approx([1.5 * s for s in (STRONG, WEAK, STRONG, STRONG, STRONG)])
    seen.clear()
    with reflected(pipe, ModelSpec(loras=(("b", 1.0),)), num_reflections=1, reflector=ModelSpec(loras=(("a", 0.3),))):
        call(pipe)
    assert seen == pytest.approx([1.5 * s for s in (0.3, 0.0, STRONG, STRONG, STRONG)])
    seen.clear()
    with reflected(pipe, ModelSpec(guidance=1.0), num_reflections=1, reflector=ModelSpec(loras=(("a", 0.3),))):
        call(pipe)
    assert seen == pytest.approx([1.5 * s for s in (0.3, 0.3, STRONG, STRONG, STRONG)])


def test_swapping_the_roles_moves_the_first_reflection_the_other_way():
    """x~ - x is c (weak - strong) in mode "fused": its negative, but for one rounding of x~ (6e-8 of a latent of 5)."""
    pipe = pipeline()
    at: list[Tensor] = []
    pipe.unet.register_forward_pre_hook(lambda m, a, k: at.append(k["sample"][:1]), with_kwargs=True)
    moves = []
    for strong, weak in ((STRONG, WEAK), (WEAK, STRONG)):
        at.clear()
        sides = [ModelSpec(loras=(("a", scale),)) for scale in (strong, weak)]
        with reflected(pipe, sides[1], mode="fused", num_reflections=1, reflector=sides[0]):
            call(pipe)
        moves.append(at[1] - at[0])
    assert (moves[0] + moves[1]).abs().max() <= 1e-5 * moves[0].abs().max() + 2e-6
    assert moves[0].abs().max() > 1e-2


def test_two_gaps_together_are_neither_alone_nor_is_a_larger_one():
    pipe = shared("sdxl")
    results = [call(pipe)]
    for weak in (
        GAP,
        ModelSpec(guidance=1.0),
        ModelSpec(loras=GAP.loras, guidance=1.0),
        ModelSpec(loras=(("a", -3.0),)),
    ):
        with reflected(pipe, weak):
            results.append(call(pipe))
    for i, one in enumerate(results):
        assert all((one - other).abs().max() > 1e-3 for other in results[:i])


def rows(steps: int, reflections: int, sampling: float, strong: float, weak: float) -> int:
    sides = [1 if scale in (0, 1) else 2 for scale in (sampling, strong, weak)]
    return steps * sides[0] + reflections * (sides[1] + sides[2])


@pytest.mark.parametrize("mode", ["paper", "fused"])
@pytest.mark.parametrize(
    ("guidances", "paper"), [((5.5, 5.5, 1.0), 247), ((5.5, 1.0, 1.0), 198), ((1.0, 1.0, 1.0), 148)]
)
def test_evaluations_and_rows_are_the_formulas(guidances, paper, mode):
    sampling, strong, weak = guidances
    pipe, steps, lam = shared("sdxl"), 4, 3
    with reflected(
        pipe, ModelSpec(loras=GAP.loras, guidance=weak), mode=mode, reflector=ModelSpec(guidance=strong)
    ) as run:
        call(pipe, steps=steps, guidance_scale=sampling)
    assert (run.num_evaluations, run.num_rows) == (steps + 2 * lam, rows(steps, lam, *guidances))
    assert rows(50, 49, *guidances) == paper
    assert run.num_forwards == steps + (lam if mode == "fused" and strong == weak else 2 * lam)


# -- both sides in one call -----------------------------------------------------------------------------------------


def test_a_cached_gap_takes_both_sides_of_the_sampling_steps_that_measure_it_in_one_call(monkeypatch):
    pipe, weak = pipeline("sdxl"), ModelSpec(loras=(("a", WEAK), ("b", 0.4)))
    config = ReflectionConfig(3, "fused", gap_every=1, reflector=ModelSpec(guidance=2.0))
    with reflected(pipe, weak, config=config) as one:
        together = call(pipe, "sdxl", guidance_scale=3.0, steps=4)
    assert (one.num_forwards, one.num_evaluations, one.num_rows) == (4, 4 + 2, 2 * (4 + 2))
    monkeypatch.setattr(one_batch, "in_order", lambda network: False)
    with reflected(pipe, weak, config=config) as two:
        apart = call(pipe, "sdxl", guidance_scale=3.0, steps=4)
    assert two.num_forwards == 4 + 2 and min(one.gaps) > 1e-2
    assert (together - apart).abs().max() <= 1e-4 * apart.abs().max()


@pytest.mark.parametrize(("family", "scale"), [*((family, 3.0) for family in FAMILIES), ("sdxl", 1.0), ("wan", 1.0)])
def test_both_sides_of_a_fused_gap_in_one_call_are_two_calls(family, scale, monkeypatch):
    """In twice the batch a matrix product adds in another order: 1e-6 of what it sums, grown by 2 steps."""
    pipe = shared(family)
    arguments = {"guidance_scale": scale, "steps": 2}
    if family in ("sd15", "sdxl", "sd3", "flux"):
        arguments["num_images_per_prompt"] = 2
    weak = ModelSpec(loras=(("a", WEAK), ("b", 0.4)), guidance=None if scale == 1 or family == "flux" else 1.7)
    with reflected(pipe, weak, mode="fused", num_reflections=2) as one:
        together = call(pipe, family, **arguments)
    monkeypatch.setattr(one_batch, "in_order", lambda network: False)
    with reflected(pipe, weak, mode="fused", num_reflections=2) as two:
        apart = call(pipe, family, **arguments)
    assert (together - apart).abs().max() <= 1e-4 * apart.abs().max()
    assert (one.num_rows, one.num_evaluations) == (two.num_rows, two.num_evaluations)
    assert one.num_forwards < two.num_forwards
    assert one.gaps == pytest.approx(two.gaps, rel=1e-4)


def test_samples_of_one_batch_have_weak_scales_of_their_own():
    pipe = shared("sdxl")

    def batch(weak: Any, mode: str, scale: float = 3.0) -> Tensor:
        with reflected(pipe, ModelSpec(loras=(("a", weak),)), mode=mode):
            generators = [tiny.generator(1), tiny.generator(1)]
            return call(pipe, num_images_per_prompt=2, generator=generators, guidance_scale=scale)

    for mode, scale in (("paper", 3.0), ("fused", 3.0), ("paper", 1.0)):
        mixed = batch((WEAK, 0.2), mode, scale)
        for sample, weak in enumerate((WEAK, 0.2)):
            alone = batch(weak, mode, scale)[sample]
            assert (mixed[sample] - alone).abs().max() <= 1e-4 * alone.abs().max()
        assert (mixed[0] - mixed[1]).abs().max() > 1e-2
    with pytest.raises(UserError, match=r"scales for 2 samples, and this call makes 1"):  # noqa: SIM117 the call raises
        with reflected(pipe, ModelSpec(loras=(("a", (WEAK, 0.2)),))) as run:
            call(pipe)
    assert run.num_forwards == 0


# -- afterwards, offloaded, compiled --------------------------------------------------------------------------------


class Boom(Exception):
    pass


@pytest.mark.parametrize("where", ["nowhere", "an evaluation of the weak side", "a callback", "the decoder"])
@pytest.mark.parametrize("mode", ["paper", "fused"])
def test_what_the_user_had_set_is_back_after_success_and_after_an_exception(where, mode):
    pipe = shared("sdxl")
    before, stock = state(pipe.unet), call(pipe)
    calls, arguments, hooks = [0], {}, []

    def boom(*_: Any) -> Any:
        raise Boom

    def second(*_: Any) -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise Boom

    if where == "a callback":
        arguments = {"callback_on_step_end": boom}
    elif where == "the decoder":
        arguments = {"output_type": "pt"}
        hooks.append(pipe.vae.decoder.register_forward_pre_hook(boom))
    elif where != "nowhere":
        hooks.append(pipe.unet.mid_block.register_forward_pre_hook(second))
    if where == "nowhere":
        with reflected(pipe, GAP, mode=mode):
            call(pipe)
    else:
        with pytest.raises(Boom), reflected(pipe, GAP, mode=mode):
            call(pipe, **arguments)
    for hook in hooks:
        hook.remove()
    assert state(pipe.unet) == before and torch.equal(call(pipe), stock)


def test_disabled_adapters_are_the_base_model_on_the_strong_side_and_stay_disabled():
    pipe = pipeline()
    pipe.disable_lora()
    base, before = call(pipe), state(pipe.unet)
    with reflected(pipe, GAP, strength=0.0):
        assert (call(pipe) - base).abs().max() <= 1e-5 * base.abs().max()
    seen = scales_seen(pipe.unet)
    with reflected(pipe, GAP, num_reflections=1) as run:
        call(pipe)
    assert seen == pytest.approx([0, 1.5 * WEAK, 0, 0, 0]) and run.gaps[0] > 0 and state(pipe.unet) == before


def test_scales_that_a_callback_changes_are_the_strong_sides_from_then_on():
    pipe = pipeline()
    seen = scales_seen(pipe.unet)

    def callback(pipe: Any, step: int, *_: Any) -> dict:
        pipe.set_adapters(["a"], [0.1 * (step + 1)])
        return {}

    with reflected(pipe, GAP, num_reflections=2):
        call(pipe, callback_on_step_end=callback)
    assert seen == pytest.approx([1.5 * s for s in (STRONG, WEAK, STRONG, 0.1, WEAK, 0.1, 0.2)])
    assert pipe.get_active_adapters() == ["a"]
    assert call(pipe) is not None and seen[-1] == pytest.approx(1.5 * 0.3)


def test_an_offloaded_network_gives_the_same():
    """Its weights are on no device between evaluations, as with sequential offloading."""
    pipe, offloaded = shared("sdxl"), pipeline()
    accelerate.cpu_offload(offloaded.unet, execution_device="cpu")
    for mode in ("paper", "fused"):
        results = []
        for each in (pipe, offloaded):
            with reflected(each, GAP, mode=mode):
                results.append(call(each))
        assert torch.equal(*results)


def compiled_frames(pipe: Any, weak: ModelSpec, mode: str) -> list[int]:
    """Graphs made up to the end of each of 4 steps, the first 2 reflected; one block is compiled, as it is slow."""
    counter, frames = CompileCounter(), []
    block = next(
        m for name, m in pipe.unet.named_modules() if name.endswith("mid_block.attentions.0.transformer_blocks.0")
    )
    block.compile(backend=counter)

    def callback(*_: Any) -> dict:
        frames.append(counter.frame_count)
        return {}

    try:
        with reflected(pipe, weak, num_reflections=2, mode=mode):
            call(pipe, steps=4, callback_on_step_end=callback)
    finally:
        torch._dynamo.reset()
    return frames


@pytest.mark.slow  # test_lora_scales compiles a network for both sides and for none
def test_nothing_is_compiled_again_across_sides_and_across_the_lambda_boundary():
    """One call for both sides has twice the rows, which is one graph more whatever differs."""
    assert compiled_frames(pipeline(), GAP, "paper") == [1] * 4
    assert compiled_frames(pipeline(), GAP, "fused") == [2] * 4


# -- refusals -------------------------------------------------------------------------------------------------------


def test_adapters_that_are_not_there_are_refused_before_anything_runs():
    pipe = shared("sdxl")
    for weak, message in (
        (ModelSpec(loras=(("c", 1.0),)), "UNet2DConditionModel has no LoRA adapter 'c'; it has a, b"),
        ((tiny.sdxl_unet(2), GAP), "UNet2DConditionModel has no LoRA adapters; load them first"),
        (ModelSpec(routing=Routing()), "no experts"),
    ):
        with pytest.raises(UserError, match=message), reflected(pipe, weak):
            pass
    with (
        pytest.raises(UserError, match="no LoRA adapters; load them first"),
        reflected(tiny.sdxl(), "zero-gap", reflector=GAP),
    ):
        pass
    with pytest.raises(UserError, match=r"scales LoRAs by cross_attention_kwargs \(0.5\).*set_adapters"):  # noqa: SIM117
        with reflected(pipe, GAP) as run:
            call(pipe, cross_attention_kwargs={"scale": 0.5})
    assert run.num_forwards == 0
