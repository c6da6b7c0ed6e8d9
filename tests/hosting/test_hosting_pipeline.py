"""A hosted pipeline behaves as its users expect: callbacks, interrupts, progress, outputs, other loops."""

from __future__ import annotations

import io
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.support import tiny
from w2sd_video import ModelSpec, reflected
from w2sd_video.errors import UserError
from w2sd_video.hosting import NonFiniteLatentError

WEAK = ModelSpec(guidance=1.0)


def call(pipe: Any, **arguments: Any) -> Any:
    settings = {"num_inference_steps": 4, "output_type": "latent", "generator": tiny.generator(), "guidance_scale": 3.0}
    return pipe("a cat", **{**tiny.IMAGE_CALL, **settings, **arguments})[0]


def test_a_callback_is_called_once_per_step_with_what_it_asks_for_and_can_replace_latents():
    pipe = tiny.sdxl()
    seen: list[tuple[int, int, set[str]]] = []

    def watch(p: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        assert p is pipe
        seen.append((i, int(t), set(kwargs)))
        return kwargs

    with reflected(pipe, WEAK):
        plain = call(pipe)
        watched = call(
            pipe, callback_on_step_end=watch, callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"]
        )
        replaced = call(pipe, callback_on_step_end=lambda p, i, t, kw: {"latents": kw["latents"] * 0.5})
        in_place = call(pipe, callback_on_step_end=lambda p, i, t, kw: kw["latents"].mul_(0.5) is None or kw)
    assert [(i, t) for i, t, _ in seen] == list(zip(range(4), pipe.scheduler.timesteps.tolist(), strict=True))
    assert all(names == {"latents", "prompt_embeds"} for _, _, names in seen)
    assert torch.equal(plain, watched)
    assert torch.equal(replaced, in_place) and (replaced - plain).abs().max() > 0.1


def test_the_older_callback_is_called_too():
    pipe, seen = tiny.sdxl(), []
    with reflected(pipe, WEAK):
        call(pipe, callback=lambda i, t, latents: seen.append((i, latents.shape)), callback_steps=2)
    assert seen == [(0, (1, 4, 8, 8)), (2, (1, 4, 8, 8))]


def test_latents_replaced_by_a_callback_are_the_next_steps_latents():
    pipe = tiny.sdxl()
    x = torch.randn(1, 4, 8, 8, generator=tiny.generator(1))

    def restart(p: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {"latents": x} if i == 1 else {}

    def forget(p: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {"latents": x.clone()} if i == 1 else {}

    with reflected(pipe, WEAK):
        one = call(pipe, callback_on_step_end=restart, generator=tiny.generator(0))
        two = call(pipe, callback_on_step_end=forget, generator=tiny.generator(9))
    assert torch.equal(one, two)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_latents_changed_in_place_are_the_next_steps_latents(mode):
    # In half precision the pipeline holds a rounded copy of the latent, which is what the callback changes.
    pipe = tiny.sdxl().to(torch.bfloat16)
    with reflected(pipe, WEAK), mode():
        replaced = call(pipe, callback_on_step_end=lambda p, i, t, kw: {"latents": kw["latents"] * 0.5})
        in_place = call(pipe, callback_on_step_end=lambda p, i, t, kw: kw["latents"].mul_(0.5) is None or kw)
    assert torch.equal(replaced, in_place)


@pytest.mark.parametrize("attribute", ["interrupt", "_interrupt"])
def test_an_interrupt_ends_sampling_at_that_step(attribute):
    pipe = tiny.sdxl()
    reached: list[Tensor] = []

    def stop(p: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        reached.append(kwargs["latents"])
        if i == 1:
            p._interrupt = True
            assert getattr(p, attribute)
        return kwargs

    with reflected(pipe, WEAK) as run:
        latents = call(pipe, callback_on_step_end=stop)
        assert (run.num_steps, run.num_reflections, run.num_evaluations, len(run.gaps)) == (2, 2, 2 + 2 * 2, 2)
        call(pipe)
        assert run.num_steps == 4
    assert len(reached) == 2 and torch.equal(latents, reached[-1])


@pytest.mark.parametrize("host", ["record", "replay"])
def test_turning_guidance_off_in_a_callback_works_where_no_side_needs_both_halves(host):
    pipe = tiny.sdxl()
    cutoff = diffusers.callbacks.SDXLCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)
    stock = call(pipe, callback_on_step_end=cutoff)
    with reflected(pipe, num_reflections=0, host=host) as run:
        hosted = call(pipe, callback_on_step_end=diffusers.callbacks.MultiPipelineCallbacks([cutoff]))
    assert run.num_rows == 2 * 2 + 2
    assert (stock - hosted).abs().max() < 1e-5
    with reflected(pipe, ModelSpec(guidance=1.0), host=host) as run:
        call(pipe, callback_on_step_end=cutoff)
    assert run.num_evaluations == 4 + 2 * 3
    with (
        reflected(pipe, ModelSpec(guidance=0.0), host=host),
        pytest.raises(UserError, match=r"unconditional half|two halves of guidance"),
    ):
        call(pipe, callback_on_step_end=cutoff)


@pytest.mark.parametrize("step", [0.01, 0.5, -0.4])
def test_a_callback_may_change_the_guidance_scale_by_little_and_by_much(step):
    pipe = tiny.sdxl()

    def change(p: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        p._guidance_scale = 3.0 + step * (i + 1)
        return {}

    plain, stock = call(pipe), call(pipe, callback_on_step_end=change)
    with reflected(pipe, num_reflections=0):
        hosted = call(pipe, callback_on_step_end=change)
    assert (stock - hosted).abs().max() < 1e-5 < (stock - plain).abs().max() / 10


def test_each_item_of_a_batch_has_its_own_generator():
    pipe = tiny.animatediff_sdxl()
    arguments = {**tiny.ANIMATEDIFF_CALL, "guidance_scale": 3.0, "num_inference_steps": 3, "output_type": "latent"}
    with reflected(pipe, WEAK):
        both = pipe(["a cat", "a cat"], generator=[tiny.generator(1), tiny.generator(2)], **arguments)[0]
        second = pipe(["a cat"], generator=[tiny.generator(2)], **arguments)[0]
    # another batch size, other kernels: rounding only
    torch.testing.assert_close(both[1:], second, atol=1e-4, rtol=0)
    assert (both[0] - both[1]).abs().max() > 0.1


def test_output_types_are_the_pipelines_own():
    pipe = tiny.animatediff_sdxl()
    arguments = {**tiny.ANIMATEDIFF_CALL, "num_inference_steps": 2, "generator": None}
    with reflected(pipe, WEAK):
        frames = {
            kind: pipe("a cat", **{**arguments, "generator": tiny.generator()}, output_type=kind).frames
            for kind in ("pil", "np", "pt", "latent")
        }
        as_tuple = pipe("a cat", **{**arguments, "generator": tiny.generator()}, output_type="pt", return_dict=False)
    assert isinstance(frames["pil"][0][0], Image.Image) and len(frames["pil"][0]) == 2
    assert frames["np"].shape == (1, 2, 16, 16, 3) and frames["pt"].shape == (1, 2, 3, 16, 16)
    assert frames["latent"].shape == (1, 4, 2, 8, 8)
    assert np.allclose(frames["np"].transpose(0, 1, 4, 2, 3), frames["pt"].numpy(), atol=1e-6)
    assert torch.equal(as_tuple[0], frames["pt"])


def test_the_progress_bar_counts_evaluations_and_obeys_the_pipelines_settings():
    pipe = tiny.sdxl()
    text = io.StringIO()
    pipe.set_progress_bar_config(file=text, desc="my bar", mininterval=0)
    with reflected(pipe, WEAK):
        call(pipe)
    assert "my bar" in text.getvalue() and "10/10" in text.getvalue()  # 4 steps, 3 reflections
    for progress, settings in ((False, {"file": text}), (None, {"file": text, "disable": True})):
        text.seek(0)
        text.truncate()
        pipe.set_progress_bar_config(**settings)
        with reflected(pipe, WEAK, progress=progress):
            call(pipe)
        assert text.getvalue() == ""


def test_progress_can_be_a_function():
    pipe, told = tiny.sdxl(), []
    with reflected(pipe, tiny.sdxl(2), progress=lambda done, total: told.append((done, total))):
        call(pipe)
    assert told == [(i, 10) for i in range(1, 11)]


def test_several_calls_in_one_context_are_independent():
    pipe = tiny.sdxl()
    with reflected(pipe, tiny.sdxl_unet(2)) as run:
        first = call(pipe)
        counts = run.num_rows, run.gaps
        call(pipe, generator=tiny.generator(5), num_inference_steps=2)
        again = call(pipe)
    assert torch.equal(first, again)
    assert (run.num_rows, run.gaps) == counts


def test_a_second_context_on_one_pipeline_is_refused_and_the_first_goes_on():
    pipe, other = tiny.sdxl(1), tiny.sdxl(2)
    with reflected(pipe, WEAK) as run:
        with pytest.raises(UserError, match="already inside"), reflected(pipe, WEAK):
            pass
        with pytest.raises(UserError, match="itself inside"), reflected(other, pipe):
            pass
        call(pipe)
        assert run.num_reflections == 3
    assert type(pipe) is diffusers.StableDiffusionXLPipeline


def test_calling_the_pipeline_from_its_own_callback_is_refused():
    pipe = tiny.sdxl()
    with reflected(pipe, WEAK), pytest.raises(UserError, match="inside its own"):
        call(pipe, callback_on_step_end=lambda p, i, t, kwargs: call(p))


def test_a_callback_can_evaluate_the_network_and_call_a_pipeline_that_shares_it():
    pipe = tiny.sdxl()
    other = diffusers.StableDiffusionXLPipeline(**pipe.components, add_watermarker=False)
    other.scheduler = tiny.ddim()
    other.set_progress_bar_config(disable=True)
    alone, seen = call(other), []

    def preview(p: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        seen.append(call(other))
        return kwargs

    with reflected(pipe, WEAK):
        plain = call(pipe)
        watched = call(pipe, callback_on_step_end=preview)
    assert torch.equal(plain, watched)
    assert len(seen) == 4 and all(torch.equal(image, alone) for image in seen)


def test_two_pipelines_can_be_reflected_at_once():
    one, two = tiny.sdxl(1), tiny.sdxl(2)
    with reflected(one, WEAK), reflected(two, WEAK):
        both = call(one), call(two)
    with reflected(one, WEAK):
        alone = call(one)
    with reflected(two, WEAK):
        assert torch.equal(both[1], call(two))
    assert torch.equal(both[0], alone)


def test_image_to_image_reflects_the_steps_it_makes():
    pipe = diffusers.StableDiffusionXLImg2ImgPipeline(**tiny.sdxl().components, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    image = Image.fromarray(np.full((16, 16, 3), 120, dtype=np.uint8))

    def make() -> Tensor:
        return pipe(
            "a cat", image=image, strength=0.5, num_inference_steps=8, generator=tiny.generator(), output_type="latent"
        )[0]

    stock = make()
    with reflected(pipe, num_reflections=0) as run:
        plain = make()
    assert run.num_steps == 4 and (stock - plain).abs().max() < 1e-5
    with reflected(pipe, WEAK) as run:
        make()
    assert (run.num_steps, run.num_reflections) == (4, 3)


def test_a_pipeline_that_changes_latents_between_steps_is_followed():
    # Inpainting with a four-channel network puts the known part back after every step.
    pipe = diffusers.StableDiffusionInpaintPipeline(
        **{**tiny.sd15().components, "safety_checker": None}, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    image = Image.fromarray(np.full((16, 16, 3), 200, dtype=np.uint8))
    mask = Image.fromarray(np.concatenate([np.zeros((16, 8)), np.full((16, 8), 255)], 1).astype(np.uint8))

    def make() -> Tensor:
        settings = {"num_inference_steps": 4, "generator": tiny.generator(), "output_type": "latent"}
        return pipe("a cat", image, mask, height=16, width=16, guidance_scale=3.0, **settings)[0]

    stock = make()
    with reflected(pipe, num_reflections=0):
        plain = make()
    with reflected(pipe, WEAK):
        moved = make()
    assert (stock - plain).abs().max() < 1e-5
    assert torch.equal(moved[..., :3], stock[..., :3]) and (moved - stock).abs().max() > 1e-2


def test_pndm_is_used_for_its_grid_when_asked():
    scheduler = diffusers.PNDMScheduler.from_config(tiny.ddim().config, skip_prk_steps=True)
    pipe = tiny.sd15(scheduler=scheduler)
    with pytest.raises(UserError, match="first_order=True"), reflected(pipe, WEAK):
        pass
    with reflected(pipe, WEAK, first_order=True) as run:
        latents = call(pipe)
    assert run.num_steps == 4 and run.num_evaluations == 4 + 2 * 3
    ddim = tiny.sd15()
    with reflected(ddim, WEAK):
        assert torch.equal(latents, call(ddim))  # the same grid


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_pipelines_keep_a_float32_state_and_return_their_own_dtype(dtype):
    pipe = tiny.sdxl().to(dtype)
    stock = call(pipe)
    with reflected(pipe, num_reflections=0):
        plain = call(pipe)
    with reflected(pipe, "zero-gap", mode="fused"):
        fused = call(pipe)
    assert plain.dtype == stock.dtype and torch.equal(plain, fused)
    # four roundings of the latent (up to 10) to half precision, each doubled by guidance 3 and more
    assert (stock.float() - plain.float()).abs().max() < 4 * 3 * 10 * torch.finfo(dtype).eps


def test_a_latent_that_is_not_finite_stops_the_call_naming_step_and_cause():
    pipe, weak = tiny.sdxl(1), tiny.sdxl_unet(2)
    calls: list[int] = []

    def spoil(module: Any, args: Any, output: Any) -> Any:
        calls.append(1)
        return (output[0] * float("inf"),) if len(calls) == 3 else output

    weak.register_forward_hook(spoil)
    with reflected(pipe, weak), pytest.raises(NonFiniteLatentError, match="the reflection of step 3 of 4") as error:
        call(pipe)
    assert error.value.step == 3 and isinstance(error.value, UserError)
    pipe.unet.register_forward_hook(lambda module, args, output: (output[0] * float("nan"),))
    with (
        reflected(pipe, num_reflections=0),
        pytest.raises(NonFiniteLatentError, match="step 1 of 4; try a lower guidance"),
    ):
        call(pipe)
    pipe = pipe.to(torch.float16)
    with reflected(pipe, num_reflections=0), pytest.raises(NonFiniteLatentError, match="float16 overflows"):
        call(pipe)
