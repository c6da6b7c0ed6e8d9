"""What a pipeline makes of the probes says how it guides; and what networks and schedulers may do besides."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLAdapterPipeline, StableDiffusionXLPipeline, T2IAdapter
from torch import Tensor, nn

from tests.support import tiny
from w2sd_video import ModelSpec, UserError, reflected
from w2sd_video.hosting.arguments import fresh
from w2sd_video.hosting.conditioning import Conditioning, Guided, measure, predict
from w2sd_video.hosting.recording import Recorder, probe
from w2sd_video.hosting.run import Counter

SHAPE = (4, 6, 6)


def halves(calls: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    """The probes of the first and of the second half, of one call with the batch doubled or of two."""
    if calls == 2:
        return probe(torch.zeros(batch, *SHAPE), first=True), probe(torch.zeros(batch, *SHAPE), first=False)
    first, second = probe(torch.zeros(2 * batch, *SHAPE), first=True).chunk(2)
    return first, second


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("scale", [-3.0, 0.5, 1.0, 3.0, 7.5])
def test_plain_guidance_is_recognised_in_either_order_convention_and_sign(calls: int, batch: int, scale: float) -> None:
    first, second = halves(calls, batch)
    for conditional_first, (cond, uncond) in ((True, (first, second)), (False, (second, first))):
        for sign in (1.0, -1.0):
            plain = sign * (uncond + scale * (cond - uncond))
            assert measure(plain, [scale]) == Guided(conditional_first, scale, sign=sign) or scale == 0.5
            offset = sign * (cond + scale * (cond - uncond))
            assert measure(offset, [scale]) == Guided(conditional_first, 1 + scale, sign=sign) or scale == 0.5


def test_a_scale_in_16_bits_is_the_one_that_was_asked_for() -> None:
    first, second = (half.bfloat16() for half in halves(1))
    assert measure(first + 7.3 * (second - first), [7.3, 2.0]) == Guided(False, 7.3)


def test_the_first_channels_alone_may_be_guided() -> None:
    first, second = halves(2)
    guided = torch.cat([(second + 4.0 * (first - second))[:, :3], first[:, 3:]], dim=1)
    assert measure(guided, [4.0]) == Guided(True, 4.0, channels=3)
    mixed = torch.cat([(second + 4.0 * (first - second))[:, :3], second[:, 3:]], dim=1)
    with pytest.raises(UserError, match="plain guidance"):
        measure(mixed, [4.0])


def rescaled(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Lumina's: guidance brought to the conditional half's norm, and the sign turned."""
    guided = uncond + scale * (cond - uncond)
    return -guided * cond.norm() / guided.norm()


@pytest.mark.parametrize("scale", [2.0, 4.0])
def test_what_is_not_plain_guidance_is_not_taken_for_it_by_accident(scale: float) -> None:
    first, second = halves(2)
    for made in (
        rescaled(first, second, scale),
        1.7 * (second + scale * (first - second)),
        second + scale * (first - second) + 0.1 * first.roll(1),
        first.sign() * (second + scale * (first - second)).abs().sqrt(),
        second + 1.3 * scale * (first - second),  # another scale
    ):
        with pytest.raises(UserError, match="does not combine its two predictions by plain guidance"):
            measure(made, [scale])


class Offset(StableDiffusionXLPipeline):
    """cond + s * (cond - uncond) at every s, 1 included, as Krea's and Kandinsky's pipelines have it."""

    @property
    def guidance_scale(self) -> float:
        return 1.0 + self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return True


def offset() -> Offset:
    return Offset(**tiny.sdxl().components)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_scale_that_was_measured_is_the_one_that_is_sampled_with(scale: float) -> None:
    pipe = offset()
    settings = {**tiny.IMAGE_CALL, "num_inference_steps": 3, "guidance_scale": scale, "output_type": "latent"}
    stock = pipe("a cat", generator=tiny.generator(), **settings)[0]
    with reflected(pipe, num_reflections=0):
        ours = pipe("a cat", generator=tiny.generator(), **settings)[0]
    torch.testing.assert_close(ours, stock, rtol=0, atol=2e-5)
    usual = tiny.sdxl()("a cat", generator=tiny.generator(), **{**settings, "guidance_scale": 1 + scale})[0]
    torch.testing.assert_close(stock, usual, rtol=0, atol=2e-5)
    with reflected(pipe, ModelSpec(guidance=0.5), num_reflections=2, mode="fused") as run:
        pipe("a cat", generator=tiny.generator(), **settings)
    assert run.num_reflections == 2 and all(gap > 0 for gap in run.gaps)


def test_a_network_may_take_entries_out_of_lists_that_it_is_given() -> None:
    given: dict[str, Any] = {"residuals": [torch.ones(1), {"more": [2]}], "name": "x"}
    taken = fresh(given)
    taken["residuals"].pop(0)
    taken["residuals"][0]["more"].pop()
    assert len(given["residuals"]) == 2 and given["residuals"][1] == {"more": [2]}


@torch.no_grad()
def test_an_adapters_residuals_are_there_at_every_evaluation() -> None:
    pipe = tiny.sdxl()
    channels = list(pipe.unet.config.block_out_channels)
    adapter = tiny.seeded(
        5, lambda: T2IAdapter(3, channels, num_res_blocks=1, downscale_factor=4, adapter_type="full_adapter_xl")
    )
    pipe = StableDiffusionXLAdapterPipeline(**pipe.components, adapter=adapter.eval())
    pipe.set_progress_bar_config(disable=True)
    settings: dict[str, Any] = {
        "image": torch.rand(1, 3, 16, 16, generator=tiny.generator(4)),
        "num_inference_steps": 3,
        "height": 16,
        "width": 16,
        "guidance_scale": 3.0,
        "output_type": "latent",
    }
    stock = pipe("a cat", generator=tiny.generator(), **settings)[0]
    without = pipe("a cat", generator=tiny.generator(), **{**settings, "adapter_conditioning_scale": 0.0})[0]
    assert (stock - without).abs().max() > 1e-3
    for weak, options in ((None, {"num_reflections": 0}), ("zero-gap", {"num_reflections": 2, "mode": "fused"})):
        with reflected(pipe, weak, **options):
            ours = pipe("a cat", generator=tiny.generator(), **settings)[0]
        torch.testing.assert_close(ours, stock, rtol=0, atol=2e-5)


class Bare(nn.Module):
    def forward(self, sample: Tensor, timestep: Tensor, return_dict: bool = True) -> Tensor:
        return 2 * sample


def test_a_network_that_returns_a_bare_tensor_is_not_cut() -> None:
    x = torch.randn(2, *SHAPE, generator=tiny.generator())
    told = Conditioning(Bare(), "sample", x.shape, x.dtype, {"timestep": torch.tensor(1)})
    assert torch.equal(predict(told, x, 1.0, counter=Counter()), 2 * x)
    turned = Conditioning(Bare(), "sample", x.shape, x.dtype, {"timestep": torch.tensor(1)}, guided=Guided(sign=-1.0))
    assert torch.equal(predict(turned, x, 1.0, counter=Counter()), -2 * x)


def test_a_copy_of_the_scheduler_steps_as_ever_while_its_original_is_taken_over() -> None:
    pipe, taken = tiny.sdxl(), []
    scheduler = pipe.scheduler
    scheduler.set_timesteps(4)
    kind, x, output = type(scheduler), torch.ones(1, *SHAPE), torch.full((1, *SHAPE), 0.3)
    t = scheduler.timesteps[0]
    stock = copy.deepcopy(scheduler).step(output, t, x, return_dict=False)[0]

    def step(recorded: Any) -> Tensor:
        taken.append(recorded)
        return 5 * x

    with Recorder([pipe.unet], scheduler, step).installed():
        other = copy.deepcopy(scheduler)
        assert torch.equal(other.step(output, t, x, return_dict=False)[0], stock) and not taken
        assert torch.equal(scheduler.step(output, t, x, return_dict=False)[0], 5 * x) and len(taken) == 1
    assert type(scheduler) is kind and torch.equal(scheduler.step(output, t, x, return_dict=False)[0], stock)


class Changing(StableDiffusionXLPipeline):
    """Hands its scheduler what `change` makes of the number of the step and the guided prediction."""

    change: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        step, made = self.scheduler.step, []

        def changed(output: Tensor, *more: Any, **options: Any) -> Any:
            made.append(output.clone())
            return step(type(self).change(made, output), *more, **options)

        self.scheduler.step = changed
        try:
            return super().__call__(*args, **kwargs)
        finally:
            del self.scheduler.step


@pytest.mark.parametrize(
    ("change", "words", "evaluations"),
    [
        (lambda made, output: output + 0.5 * made[-2] if len(made) > 1 else output, "otherwise at step 2 than", 3),
        (lambda made, output: (0.9 if len(made) > 2 else 1.0) * output, "otherwise at step 3 than", 6),
        (lambda made, output: output.clamp(max=4.0), "otherwise at step 2 than", 3),
        (lambda made, output: output * torch.tensor([1.0, 0.8])[:, None, None, None], "plain guidance", 0),
    ],
    ids=["momentum", "a schedule", "a threshold", "guidance by sample"],
)
def test_guidance_that_is_plain_at_first_sight_only_is_an_error_and_no_picture(
    change: Any, words: str, evaluations: int
) -> None:
    class Changed(Changing):
        pass

    Changed.change = change
    pipe = Changed(**tiny.sdxl().components, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    settings = {**tiny.IMAGE_CALL, "num_inference_steps": 4, "guidance_scale": 3.0}
    pipe.vae.decode = lambda *_, **__: pytest.fail("it came to a picture")
    weak = ModelSpec(guidance=1.0)
    with pytest.raises(UserError, match=words), reflected(pipe, weak, num_reflections=3, host="record") as run:
        pipe(["a cat", "a dog"], generator=tiny.generator(), **settings)
    assert run.num_evaluations == evaluations


class Sections(StableDiffusionXLPipeline):
    """Samples twice in one call, from the first result on."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        first = super().__call__(*args, **kwargs)[0]
        return super().__call__(*args, **{**kwargs, "latents": first})


def test_timesteps_that_are_set_again_begin_a_schedule_of_their_own() -> None:
    pipe = Sections(**tiny.sdxl().components, add_watermarker=False)
    once = StableDiffusionXLPipeline(**pipe.components, add_watermarker=False)
    settings = {**tiny.IMAGE_CALL, "num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "latent"}
    results, evaluations = [], 0
    with reflected(once, ModelSpec(guidance=1.0), num_reflections=2) as run:
        for given in ({"generator": tiny.generator()}, {"latents": None}):
            latents = {"latents": results[-1]} if "latents" in given else given
            results.append(once("a cat", **settings, **latents)[0])
            evaluations += run.num_evaluations
    with reflected(pipe, ModelSpec(guidance=1.0), num_reflections=2) as run:
        both = pipe("a cat", generator=tiny.generator(), **settings)[0]
    assert torch.equal(both, results[-1]) and run.num_evaluations == evaluations == 2 * (3 + 2 * 2)
    assert run.num_steps == 6 and run.num_reflections == len(run.gaps) == 4


def test_a_network_of_which_more_than_the_prediction_is_used_is_refused_by_the_pipelines_name() -> None:
    pipe = tiny.sdxl()
    x, told = torch.ones(2, *SHAPE), torch.tensor(5)
    with Recorder([pipe.unet], pipe.scheduler, lambda _: x, name="SoundPipeline").installed():
        outputs = pipe.unet(x, told, None, return_dict=False)
        assert outputs[0].shape == outputs[-1].shape == x.shape and len(outputs) == 1
        with pytest.raises(UserError, match="SoundPipeline takes more than a prediction from its UNet2DConditionModel"):
            _video, _sound = outputs
        with pytest.raises(UserError, match="SoundPipeline takes more than"):
            outputs[1]
