"""What each side of a bridge is told and evaluated with, at any size, and that both pipelines stay as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from bridges.pixel.bridged import bridged
from tests.support import disk_pairs, tiny
from tests.support.bridging import STEPS, UNGUIDED, call, mapped, pipeline, rounding
from tests.support.layouts import save_single_file
from w2sd_video import ModelSpec, reflected
from w2sd_video.loading.pipelines import load_pipeline

PROMPTS = ["a red cat", "two dogs"]


class Overheard:
    """What a network is told at each evaluation, as long as it is in use."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.told: list[dict[str, Any]] = []
        self._hook = network.register_forward_pre_hook(self._listen, with_kwargs=True)

    def _listen(self, network: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self.told.append(kwargs)

    def __enter__(self) -> list[dict[str, Any]]:
        return self.told

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


def text_of(weak: Any, prompts: Any) -> Tensor:
    return weak.encode_prompt(prompts, device="cpu", do_classifier_free_guidance=False)[0]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (ModelSpec(guidance=1.0), ["a red cat"]),
        (ModelSpec(guidance=1.0, prompt="a house"), ["a house"]),
        (ModelSpec(guidance=0.0), ["dark"]),  # the call's own negative prompt
        (ModelSpec(guidance=3.0), ["dark", "a red cat"]),
        (ModelSpec(guidance=-1.0, negative_prompt="blurry"), ["blurry", "a red cat"]),
        (ModelSpec(), ["dark", "a red cat"]),  # SDXL's default, 5
    ],
)
def test_the_weak_model_is_told_its_own_prompts_and_only_the_halves_that_count(spec, said):
    strong, weak = pipeline("sd15"), pipeline("sdxl", 2)
    with bridged(strong, (weak, spec), num_reflections=2, noise_map=mapped()) as run, Overheard(weak.unet) as told:
        call(strong, "sd15", negative_prompt="dark")
    assert len(told) == 2 and run.num_rows == 2 * STEPS + 2 * (2 + len(said))
    for each in told:
        torch.testing.assert_close(each["encoder_hidden_states"], text_of(weak, said), rtol=0, atol=1e-6)
        assert each["added_cond_kwargs"]["time_ids"].tolist() == [[16, 16, 0, 0, 16, 16]] * len(said)


def test_embedded_guidance_of_a_weak_flux_is_what_its_spec_says():
    strong, weak = pipeline("sdxl"), pipeline("flux", 2)
    for spec, value in ((ModelSpec(), 3.5), (ModelSpec(guidance=1.5), 1.5)):
        with bridged(strong, (weak, spec), num_reflections=1, noise_map=mapped()), Overheard(weak.transformer) as told:
            call(strong, "sdxl")
        assert [each["guidance"].tolist() for each in told] == [[value]]
        level = strong.scheduler.timesteps[0]
        alpha = strong.scheduler.alphas_cumprod[level].sqrt()
        kappa = float((1 - alpha**2).sqrt() / alpha)
        assert told[0]["timestep"].item() == pytest.approx(kappa / (1 + kappa), rel=1e-5)  # a flow's own units


def test_the_strong_side_reflects_as_its_reflector_says():
    strong, weak = pipeline("sdxl"), pipeline("sd15", 2)
    latents = []
    for reflector, rows in ((None, 2), (ModelSpec(guidance=1.0), 1)):
        with bridged(strong, (weak, UNGUIDED), num_reflections=3, reflector=reflector, noise_map=mapped()) as run:
            latents.append(call(strong, "sdxl"))
        assert run.num_rows == 2 * STEPS + 3 * (rows + 1)
    assert not torch.equal(*latents)


def test_each_picture_of_a_batch_is_reflected_under_its_own_prompt():
    strong, weak = pipeline("flux"), pipeline("sdxl", 2)
    noise = torch.randn(4, 16, 16, generator=tiny.generator(5))
    settings = {"num_reflections": 4, "noise_map": mapped(1.0)}
    with bridged(strong, (weak, ModelSpec(guidance=3.0)), **settings) as run, Overheard(weak.unet) as told:
        batch = call(strong, "flux", PROMPTS, num_images_per_prompt=2, latents=noise)
    text = text_of(weak, PROMPTS).repeat_interleave(2, 0)
    torch.testing.assert_close(told[0]["encoder_hidden_states"][4:], text, rtol=0, atol=1e-6)
    assert told[0]["timestep"].dim() == 0 and run.num_evaluations == STEPS + 2 * run.num_reflections
    tolerance = rounding(batch, run.num_evaluations, 3.0)
    for i in (0, 3):
        with bridged(strong, (weak, ModelSpec(guidance=3.0)), **settings):
            alone = call(strong, "flux", PROMPTS[i // 2], latents=noise[i : i + 1])
        assert (batch[i : i + 1] - alone).abs().max() <= tolerance
    with bridged(strong, (weak, ModelSpec(guidance=3.0)), chunk=3, **settings) as run:
        chunked = call(strong, "flux", PROMPTS, num_images_per_prompt=2, latents=noise)
    assert (chunked - batch).abs().max() <= tolerance
    assert run.num_evaluations == STEPS + 2 * run.num_reflections  # chunks are calls, not evaluations
    assert run.num_forwards == STEPS + 3 * run.num_reflections


def test_a_video_is_seen_frame_by_frame_under_its_own_prompt():
    strong, weak = pipeline("animatediff_sdxl"), pipeline("sdxl", 2)
    noise, settings = torch.randn(2, 4, 2, 8, 8, generator=tiny.generator(5)), {"num_inference_steps": 3}
    with bridged(strong, (weak, UNGUIDED), num_reflections=2) as run, Overheard(weak.unet) as told:
        videos = call(strong, "animatediff_sdxl", PROMPTS, latents=noise, **settings)
    text = text_of(weak, PROMPTS).repeat_interleave(2, 0)
    torch.testing.assert_close(told[0]["encoder_hidden_states"], text, rtol=0, atol=1e-6)
    assert told[0]["sample"].shape == (4, 4, 8, 8) and run.num_evaluations == 3 + 4
    with bridged(strong, (weak, UNGUIDED), num_reflections=2):
        second = call(strong, "animatediff_sdxl", PROMPTS[1], latents=noise[1:], **settings)
    assert (videos[1:] - second).abs().max() <= rounding(videos, run.num_evaluations, 3.0)


@pytest.mark.parametrize(
    ("size", "inputs", "grid"),
    [
        ((16, 32), {}, (8, 16)),
        ((18, 27), {}, (8, 12)),  # Flux rounds down to 16 x 24, and so does the weak side's default
        ((16, 32), {"height": 32, "width": 16}, (16, 8)),
        ((16, 16), {"height": 24, "width": 40}, (12, 20)),
    ],
)
def test_sizes_of_either_side_may_be_any(size, inputs, grid):
    strong, weak = pipeline("flux"), pipeline("sdxl", 2)
    height, width = size
    arguments = {"height": height, "width": width, "num_inference_steps": STEPS}
    plain = call(strong, "flux", **arguments)
    noise_map = "fixed" if inputs else mapped()
    with (
        bridged(strong, (weak, UNGUIDED), num_reflections=4, weak_inputs=inputs, noise_map=noise_map) as run,
        Overheard(weak.unet) as told,
    ):
        got = call(strong, "flux", **arguments)
    assert got.shape == plain.shape and (got - plain).abs().max() > 1e-3
    assert told[0]["sample"].shape[2:] == grid and run.num_reflections == len(told)
    expected = [2.0 * side for side in grid]
    assert told[0]["added_cond_kwargs"]["time_ids"].tolist() == [[*expected, 0, 0, *expected]]


def test_a_size_that_the_call_leaves_out_is_the_strong_pipelines_own():
    strong, weak = pipeline("sd15"), pipeline("sdxl", 2)
    settings = {"num_inference_steps": STEPS, "output_type": "latent"}
    for size in ({}, {"height": 16, "width": 16}):
        with bridged(strong, (weak, UNGUIDED), num_reflections=2, noise_map=mapped()), Overheard(weak.unet) as told:
            strong("a red cat", generator=tiny.generator(), **settings, **size)
        assert told[0]["sample"].shape == (1, 4, 8, 8)  # the tiny UNet's sample_size is 8


def test_weak_inputs_stand_in_for_a_prompt_that_the_call_does_not_give():
    strong, weak = pipeline("flux"), pipeline("sdxl", 2)
    embeds, pooled, _ = strong.encode_prompt("a red cat", device="cpu", prompt_2=None, max_sequence_length=16)
    own = weak.encode_prompt("a red cat", device="cpu")
    weakly = {"prompt_embeds": own[0], "pooled_prompt_embeds": own[2]}
    weakly |= {"negative_prompt_embeds": own[1], "negative_pooled_prompt_embeds": own[3]}
    with bridged(strong, (weak, UNGUIDED), num_reflections=3, noise_map=mapped()):
        expected = call(strong, "flux")
    for inputs in ({"prompt": "a red cat"}, weakly):
        with bridged(strong, (weak, UNGUIDED), num_reflections=3, noise_map=mapped(), weak_inputs=inputs):
            got = call(strong, "flux", None, prompt_embeds=embeds, pooled_prompt_embeds=pooled)
        assert (got - expected).abs().max() <= rounding(expected, STEPS + 6, 1.0)


@pytest.mark.parametrize("name", ["fresh", "fixed"])
def test_seeded_noise_gives_one_picture_for_each_seed(name):
    strong, weak, found = pipeline("sdxl"), pipeline("sd15", 2), []
    for seed in (0, 1):
        with bridged(strong, (weak, UNGUIDED), num_reflections=2, noise_map=name, seed=seed):
            found += [call(strong, "sdxl", num_inference_steps=3) for _ in range(2)]
    assert torch.equal(found[0], found[1]) and torch.equal(found[2], found[3])
    assert not torch.equal(found[0], found[2])


def test_one_pipeline_may_be_both_sides():
    pipe = pipeline("sdxl")
    with bridged(pipe, (pipe, UNGUIDED), num_reflections=3, force=True) as run:
        call(pipe, "sdxl")
    assert run.num_reflections == 3 and run.num_encodes == 9
    with bridged(pipe, (pipe, UNGUIDED), num_reflections=3) as run:
        direct = call(pipe, "sdxl")
    with reflected(pipe, ModelSpec(guidance=1.0), num_reflections=3, mode="fused"):
        assert torch.equal(call(pipe, "sdxl"), direct)
    assert "no bridge is needed" in run.notes[0]


@pytest.mark.parametrize("breaks", [False, True], ids=["to the end", "with an error"])
def test_both_pipelines_stay_as_they_were(breaks, monkeypatch):
    strong, weak = tiny.flux(), tiny.sdxl(2)
    before = [call(strong, "flux"), call(weak, "sdxl")]
    kinds = [type(strong), type(weak), type(strong.transformer), type(weak.unet), type(strong.scheduler)]
    states = [set(vars(part)) for part in (strong, weak, strong.scheduler, weak.scheduler, strong.vae, weak.vae)]
    freed = []
    monkeypatch.setattr(weak, "maybe_free_model_hooks", lambda: freed.append(1))
    states[1].add("maybe_free_model_hooks")

    def fail(*_: Any) -> None:
        raise KeyError("broken")

    hook = weak.unet.register_forward_pre_hook(fail) if breaks else None
    with bridged(strong, (weak, UNGUIDED), num_reflections=4, noise_map=mapped()):
        if breaks:
            with pytest.raises(KeyError, match="broken"):
                call(strong, "flux")
        else:
            call(strong, "flux")
        assert len(freed) == 2  # after its own recorded call, and at the end
    if hook is not None:
        hook.remove()
    assert kinds == [type(strong), type(weak), type(strong.transformer), type(weak.unet), type(strong.scheduler)]
    after = [set(vars(part)) for part in (strong, weak, strong.scheduler, weak.scheduler, strong.vae, weak.vae)]
    assert after == states
    assert torch.equal(call(strong, "flux"), before[0]) and torch.equal(call(weak, "sdxl"), before[1])


def test_tiny_autoencoders_serve_the_reflection_in_place_of_the_pipelines_own():
    strong, weak = pipeline("flux"), pipeline("sdxl", 2)
    settings = {"latent_channels": 4, "encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    settings |= {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    small = [tiny.seeded(seed, lambda: AutoencoderTiny(**settings)).eval() for seed in (1, 2)]
    plain = call(strong, "flux")
    with bridged(
        strong, (weak, UNGUIDED), num_reflections=4, noise_map=mapped(), vae=small[0], weak_vae=small[1]
    ) as run:
        got = call(strong, "flux")
    with bridged(strong, (weak, UNGUIDED), num_reflections=4, noise_map=mapped()):
        own = call(strong, "flux")
    assert run.num_reflections == 3 and not torch.equal(got, plain) and not torch.equal(got, own)


def test_half_precision_pipelines_are_bridged_in_float32_latents():
    strong, weak = tiny.flux().to(torch.bfloat16), tiny.sdxl(2).to(torch.bfloat16)
    plain = call(strong, "flux")
    with bridged(strong, (weak, ModelSpec(guidance=3.0)), num_reflections=4, noise_map=mapped()) as run:
        got = call(strong, "flux")
    assert got.dtype == torch.bfloat16 and got.isfinite().all() and not torch.equal(got, plain)
    assert run.num_reflections == 3


def test_pipelines_from_disk_are_bridged_as_those_in_memory(tmp_path: Path):
    """Flux from a folder; SDXL from a folder, and from a single file in the original layout.

    Equal but for rounding: the tensors are the same, their alignment in memory and so the kernels may not be.
    """
    strong, weak = tiny.flux(), disk_pairs.sdxl(2)
    strong.save_pretrained(tmp_path / "flux")
    weak.save_pretrained(tmp_path / "sdxl")
    single = save_single_file(weak, tmp_path / "sdxl.safetensors")
    spec, settings = ModelSpec(guidance=3.0), {"num_reflections": 4, "noise_map": mapped()}
    with bridged(strong, (weak, spec), **settings):
        expected = call(strong, "flux")
    loaded = load_pipeline(str(tmp_path / "flux"), role="strong", dtype=torch.float32, quiet=True)
    loaded.set_progress_bar_config(disable=True)
    for given, config in ((tmp_path / "sdxl", None), (single, str(tmp_path / "sdxl"))):
        other = load_pipeline(str(given), role="weak", dtype=torch.float32, config=config, quiet=True)
        with bridged(loaded, (other, spec), **settings) as run:
            got = call(loaded, "flux")
        assert (got - expected).abs().max() <= rounding(expected, run.num_evaluations, 3.0)
        assert run.num_reflections == 3
    assert (call(strong, "flux") - expected).abs().max() > 1e-2
