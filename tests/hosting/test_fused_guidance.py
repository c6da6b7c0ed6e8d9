"""A guidance gap in fused mode: both sides from one forward, with exact counts and the result of two forwards."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support import tiny
from w2sd_video import ModelSpec, ReflectionConfig, reflected
from w2sd_video.hosting import stepping
from w2sd_video.hosting.sides import Side

STEPS, LAMBDA = 4, 3
FAMILIES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "sdxl": (cache(tiny.sdxl), tiny.IMAGE_CALL),
    "animatediff": (cache(tiny.animatediff_sdxl), tiny.ANIMATEDIFF_CALL),
    "flux": (cache(lambda: tiny.flux(guidance_embeds=False)), {**tiny.FLUX_CALL, "negative_prompt": "a dog"}),
    "wan": (cache(tiny.wan), tiny.WAN_CALL),
}
# guidance as the strong side samples, as it reflects, of the weak side; rows per reflection in two forwards and in one
GAPS = [
    ((5.5, 5.5, 0.0), 3, 2),  # Z-Sampling
    ((5.5, 5.5, 1.0), 3, 2),
    ((5.5, 5.5, 2.0), 4, 2),
    ((5.5, 5.5, -10.0), 4, 2),  # Figure 12
    ((5.5, 1.0, 0.0), 2, 2),
    ((1.0, 5.5, -1.0), 4, 2),  # a call without guidance of its own
]


def sampled(pipe: Any, arguments: dict[str, Any], scale: float, **more: Any) -> Tensor:
    name = "true_cfg_scale" if type(pipe).__name__ == "FluxPipeline" else "guidance_scale"
    settings = {"num_inference_steps": STEPS, "output_type": "latent", "generator": tiny.generator(), name: scale}
    return pipe("a red cat", **{**arguments, **settings, **more})[0]


def both_ways(
    monkeypatch: pytest.MonkeyPatch, pipe: Any, make: Callable[[], Tensor], weak: Any, **settings: Any
) -> tuple[Tensor, Any, Tensor, Any]:
    """The latents and counts of the fused call as it is, and with its sides evaluated one after the other."""
    with reflected(pipe, weak, mode="fused", num_reflections=LAMBDA, **settings) as one:
        together = make()
    with monkeypatch.context() as patch:
        patch.setattr(stepping.HostedCall, "_joint", lambda self, strong: None)
        with reflected(pipe, weak, mode="fused", num_reflections=LAMBDA, **settings) as two:
            apart = make()
    return together, one, apart, two


def rounding(latents: Tensor, scales: tuple[float, ...]) -> float:
    """What float32 may add where a half is evaluated alone in one way and in a batch of two in the other: each of the
    predictions of T + 2 lambda evaluations then differs by some 2e-7 of the largest value, and guidance passes a
    difference on up to (2 |scale| + 1)-fold."""
    return (STEPS + 2 * LAMBDA) * 2e-7 * (2 * max(map(abs, scales)) + 1) * float(latents.abs().max())


@pytest.mark.parametrize(("scales", "rows_apart", "rows"), GAPS)
@pytest.mark.parametrize("family", list(FAMILIES))
def test_one_forward_gives_both_sides_as_two_do(monkeypatch, family, scales, rows_apart, rows):
    build, arguments = FAMILIES[family]
    pipe = build()
    together, one, apart, two = both_ways(
        monkeypatch,
        pipe,
        lambda: sampled(pipe, arguments, scales[0]),
        ModelSpec(guidance=scales[2]),
        reflector=ModelSpec(guidance=scales[1]),
    )
    sampling = STEPS * (1 if scales[0] == 1 else 2)
    assert one.num_rows == sampling + LAMBDA * rows
    assert two.num_rows == sampling + LAMBDA * rows_apart
    assert one.num_evaluations == two.num_evaluations == STEPS + 2 * LAMBDA
    per_evaluation = 2 if family in ("flux", "wan") else 1  # calls of the network for both halves
    assert one.num_forwards == (sampling if per_evaluation == 2 else STEPS) + LAMBDA * per_evaluation
    # Where every half is evaluated in one batch size either way, nothing differs at all.
    if per_evaluation == 2 or rows_apart == 4:
        assert torch.equal(together, apart)
        assert one.gaps == two.gaps
    else:
        assert (together - apart).abs().max() <= rounding(apart, scales)
    assert min(one.gaps) > 1e-2


@pytest.mark.parametrize(("scales", "rows_apart", "rows"), GAPS)
@pytest.mark.parametrize("family", ["sdxl", "wan"])
def test_a_cached_guidance_gap_comes_from_the_rows_of_the_sampling_steps(monkeypatch, family, scales, rows_apart, rows):
    build, arguments = FAMILIES[family]
    pipe, weak = build(), ModelSpec(guidance=scales[2])
    config = ReflectionConfig(LAMBDA, "fused", reflector=ModelSpec(guidance=scales[1]), gap_every=1)
    with reflected(pipe, weak, config=config) as run:
        together = sampled(pipe, arguments, scales[0])
    assert run.num_rows == (2 * STEPS if scales[0] != 1 else STEPS + LAMBDA - 1)  # the gap needs both halves
    assert (run.num_evaluations, run.num_reflections) == (STEPS + LAMBDA - 1, LAMBDA - 1)
    with monkeypatch.context() as patch, reflected(pipe, weak, config=config) as two:
        patch.setattr(Side, "differs_in_guidance_alone", lambda self, other: False)
        apart = sampled(pipe, arguments, scales[0])
    assert (two.num_evaluations, two.num_rows > run.num_rows) == (run.num_evaluations, True)
    assert (together - apart).abs().max() <= rounding(apart, scales)
    assert min(run.gaps) > 1e-2


@pytest.mark.parametrize("scales", [(5.5, 5.5), (5.5, 1.0), (1.0, 5.5)])
def test_a_cached_gap_of_a_side_with_itself_moves_nothing_bit_for_bit(scales):
    pipe = tiny.sdxl()
    config = ReflectionConfig(LAMBDA, "fused", 3.0, reflector=ModelSpec(guidance=scales[1]), gap_every=1)
    with reflected(pipe, "zero-gap", config=config) as run:
        zero = sampled(pipe, tiny.IMAGE_CALL, scales[0])
    assert run.gaps == [0.0] * (LAMBDA - 1)
    with reflected(pipe, num_reflections=0):
        plain = sampled(pipe, tiny.IMAGE_CALL, scales[0])
    # Both halves in one batch round otherwise than one by itself.
    assert torch.equal(zero, plain) or (scales[0] == 1.0 and (zero - plain).abs().max() <= rounding(plain, scales))


def test_what_is_counted_is_what_the_network_is_given():
    pipe = tiny.animatediff_sdxl()
    seen: list[int] = []
    pipe.unet.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(len(kwargs["sample"])), with_kwargs=True
    )
    with reflected(pipe, ModelSpec(guidance=0.0), mode="fused", num_reflections=LAMBDA) as run:
        sampled(pipe, tiny.ANIMATEDIFF_CALL, 5.5)
    assert seen == [2] * (STEPS + LAMBDA)
    assert (run.num_rows, run.num_forwards) == (sum(seen), len(seen))


@pytest.mark.slow  # the formula is held at few steps
@pytest.mark.parametrize(("mode", "rows", "forwards"), [("paper", 247, 148), ("fused", 198, 50 + 49)])
def test_the_papers_guidance_gap_costs_247_rows_and_fused_198(mode, rows, forwards):
    pipe = tiny.sdxl()
    with reflected(pipe, ModelSpec(guidance=0.0), mode=mode) as run:
        sampled(pipe, tiny.IMAGE_CALL, 5.5, num_inference_steps=50)
    assert (run.num_steps, run.num_reflections) == (50, 49)
    assert (run.num_evaluations, run.num_rows, run.num_forwards) == (148, rows, forwards)


def test_where_guidance_is_an_input_each_side_needs_its_own_row():
    pipe = tiny.flux()
    with reflected(pipe, ModelSpec(guidance=1.0), mode="fused") as run:
        pipe("a red cat", **tiny.FLUX_CALL, guidance_scale=2.0, num_inference_steps=50, output_type="latent")
    assert (run.num_evaluations, run.num_rows) == (148, 148)


@pytest.mark.parametrize(
    ("weak", "reflector"),
    [
        (ModelSpec(guidance=0.0, prompt="a dog"), None),
        (ModelSpec(guidance=0.0, negative_prompt="blurry"), None),
        ((lambda: tiny.sdxl_unet(2), ModelSpec(guidance=0.0)), None),
        ((lambda: tiny.sdxl(1), ModelSpec(guidance=0.0)), None),
    ],
    ids=["prompt", "negative prompt", "network", "pipeline"],
)
def test_sides_that_differ_in_more_than_guidance_are_evaluated_apart(weak, reflector):
    pipe = tiny.sdxl()
    if isinstance(weak, tuple):
        weak = (weak[0](), weak[1])
    with reflected(pipe, weak, mode="fused", num_reflections=LAMBDA, reflector=reflector) as run:
        sampled(pipe, tiny.IMAGE_CALL, 5.5)
    assert run.num_rows == 2 * STEPS + 3 * LAMBDA


@pytest.mark.parametrize("scales", [(5.5, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, -2.0)])
def test_a_prompt_of_the_reflecting_side_is_that_of_both_and_needs_no_second_forward(monkeypatch, scales):
    pipe = tiny.sdxl()
    together, one, apart, _ = both_ways(
        monkeypatch,
        pipe,
        lambda: sampled(pipe, tiny.IMAGE_CALL, 5.5),
        ModelSpec(guidance=scales[1]),
        reflector=ModelSpec(guidance=scales[0], prompt="two dogs"),
    )
    assert one.num_rows == 2 * STEPS + 2 * LAMBDA
    assert (together - apart).abs().max() <= rounding(apart, (*scales, 5.5))
    with reflected(
        pipe,
        ModelSpec(guidance=scales[1]),
        mode="fused",
        num_reflections=LAMBDA,
        reflector=ModelSpec(guidance=scales[0]),
    ):
        assert (sampled(pipe, tiny.IMAGE_CALL, 5.5) - together).abs().max() > 1e-2  # the prompt counts


def test_the_zero_gap_control_costs_what_a_pair_of_networks_costs():
    pipe = tiny.sdxl()
    with reflected(pipe, "zero-gap", mode="fused", num_reflections=LAMBDA) as run:
        zero = sampled(pipe, tiny.IMAGE_CALL, 5.5)
    assert (run.num_rows, run.num_forwards) == (2 * STEPS + 4 * LAMBDA, STEPS + 2 * LAMBDA)
    with reflected(pipe, num_reflections=0):
        assert torch.equal(zero, sampled(pipe, tiny.IMAGE_CALL, 5.5))


def test_auto_guidance_by_guidance_takes_one_forward_per_step(monkeypatch):
    pipe = tiny.sdxl()
    with reflected(pipe, ModelSpec(guidance=0.0), method="autoguided", strength=0.5) as run:
        together = sampled(pipe, tiny.IMAGE_CALL, 3.0)
    assert (run.num_evaluations, run.num_forwards, run.num_rows) == (2 * STEPS, STEPS, 2 * STEPS)
    # good + w (good - bad) with guidances s and 0 is plain guidance at (1 + w) s
    plain = sampled(pipe, tiny.IMAGE_CALL, 4.5)
    assert (together - plain).abs().max() <= rounding(plain, (4.5,))


def test_auto_guidance_in_a_part_of_the_steps_is_guidance_raised_there():
    pipe = tiny.sdxl()
    config = ReflectionConfig(strength=0.5, window=(0.5, 1.0))
    with reflected(pipe, ModelSpec(guidance=0.0), method="autoguided", config=config) as run:
        limited = sampled(pipe, tiny.IMAGE_CALL, 3.0)
    assert (run.num_evaluations, run.num_rows) == (STEPS + STEPS // 2, 2 * STEPS)

    def raised(stock: Any, step: int, timestep: Any, told: dict[str, Any]) -> dict[str, Any]:
        stock._guidance_scale = 4.5 if step + 1 >= STEPS // 2 else 3.0
        return told

    plain = sampled(pipe, tiny.IMAGE_CALL, 3.0, callback_on_step_end=raised)
    assert (limited - plain).abs().max() <= rounding(plain, (4.5,))


def test_to_first_order_a_fused_guidance_gap_is_guidance_at_twice_the_strong_less_the_weak():
    # One fused reflection and its step are x + c (w - s)(cond - uncond) and a step at s from there. As the interval
    # shrinks, evaluating there and at x come to the same, and the step is one at guidance 2 s - w.
    pipe = tiny.sd15()
    x = torch.randn(1, 4, 8, 8, generator=tiny.generator(5))

    def after_one_step(steps: int, scale: float, weak: float | None) -> Tensor:
        def stop(pipe: Any, *_: Any) -> dict:
            pipe._interrupt = True
            return {}

        lam = 0 if weak is None else 1
        spec = None if weak is None else ModelSpec(guidance=weak)
        more = {"num_inference_steps": steps, "callback_on_step_end": stop, "latents": x}
        with reflected(pipe, spec, mode="fused", num_reflections=lam):
            return sampled(pipe, tiny.IMAGE_CALL, scale, **more)

    def miss(steps: int) -> float:
        # relative to what the gap does in a step of that size
        moved, plain = after_one_step(steps, 3.0, 1.5), after_one_step(steps, 3.0, None)
        matched = after_one_step(steps, 4.5, None)
        return float(torch.linalg.vector_norm(moved - matched) / torch.linalg.vector_norm(moved - plain))

    coarse, fine = miss(10), miss(40)
    assert fine < 0.5 * coarse and fine < 0.3
