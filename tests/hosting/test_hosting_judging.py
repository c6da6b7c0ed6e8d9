"""Algorithm 2's reward in a hosted call: which frames of which sample it is given, with which prompt, and what of it is
refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support import tiny, tiny_families
from w2sd_video import ModelSpec, Selection, UserError, reflected
from w2sd_video.hosting.judging import evenly_spread, prompts_of

UNGUIDED = ModelSpec(guidance=1.0)
CALL: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "latent"}


class Judge:
    """A reward that keeps what it was given; the value is the mean of all, or what `answer` says."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.frames: list[np.ndarray] = []
        self.prompts: list[str | None] = []

    def __call__(self, frames: np.ndarray, prompt: str | None) -> Any:
        self.frames.append(frames)
        self.prompts.append(prompt)
        return float(frames.mean()) if self.answer is None else self.answer


def judged(pipe: Any, judge: Judge, *args: Any, weak: Any = UNGUIDED, frames: int = 4, **arguments: Any) -> Any:
    """The run of one call by w2sd-auto, one step of it reflected."""
    selection = Selection(judge, frames=frames)
    with reflected(pipe, weak, method="w2sd-auto", selection=selection, num_reflections=1) as run:
        pipe(*args, **{**CALL, "generator": tiny.generator(), **arguments})
    return run


# -- prompts --------------------------------------------------------------------------------------------------------


def test_each_sample_is_judged_by_its_own_prompt():
    judge = Judge()
    judged(tiny.sdxl(), judge, ["a cat", "a dog"], num_images_per_prompt=2, **tiny.IMAGE_CALL)
    assert judge.prompts == ["a cat", "a cat", "a dog", "a dog"] * 2  # the strong side's four, then the weak side's


def test_a_call_without_text_is_judged_without():
    pipe, judge = tiny.sdxl(), Judge()
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    given = dict(zip(names, pipe.encode_prompt("a cat", device="cpu", negative_prompt=""), strict=True))
    judged(pipe, judge, **given, **tiny.IMAGE_CALL)
    assert judge.prompts == [None, None]


def test_prompts_are_repeated_as_pipelines_repeat_them():
    assert prompts_of({"prompt": "a"}, 2) == ["a", "a"]
    assert prompts_of({"prompt": ["a", "b"]}, 4) == ["a", "a", "b", "b"]
    assert prompts_of({}, 2) == [None, None]
    assert prompts_of({"prompt": {0: "a", 8: "b"}}, 1) == [None]  # AnimateDiff's by frame
    assert prompts_of({"prompt": ["a", "b"]}, 3) == [None] * 3  # of whom each is cannot be known


# -- frames ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "arguments", "shape"),
    [
        (tiny.sdxl, tiny.IMAGE_CALL, (1, 16, 16, 3)),
        (tiny.sdxl, {"height": 16, "width": 24}, (1, 16, 24, 3)),
        (tiny.sd15, tiny.IMAGE_CALL, (1, 16, 16, 3)),
        (tiny_families.sd3, tiny_families.SD3_CALL, (1, 16, 16, 3)),
        (tiny.flux, {**tiny.FLUX_CALL, "height": 16, "width": 24}, (1, 16, 24, 3)),
        (tiny.animatediff_sdxl, {**tiny.ANIMATEDIFF_CALL, "num_frames": 3}, (3, 16, 16, 3)),
        (tiny.animatediff_sdxl, {**tiny.ANIMATEDIFF_CALL, "num_frames": 7}, (4, 16, 16, 3)),
        (tiny_families.animatediff_sd15, {**tiny.ANIMATEDIFF_CALL, "num_frames": 5}, (4, 16, 16, 3)),
    ],
)
def test_the_reward_is_given_pictures_and_frames_as_they_are(build, arguments, shape):
    judge = Judge()
    judged(build(), judge, "a cat", **arguments)
    assert [frames.shape for frames in judge.frames] == [shape] * 2
    assert all(frames.dtype == np.uint8 and frames.std() > 1 for frames in judge.frames)


def test_a_size_left_to_the_pipeline_is_known():
    for pipe in (tiny.sdxl(), tiny.flux()):
        pipe.default_sample_size, judge = 8, Judge()
        judged(pipe, judge, "a cat", num_inference_steps=2)
        side = 8 * pipe.vae_scale_factor
        assert [frames.shape for frames in judge.frames] == [(1, side, side, 3)] * 2


def test_only_the_frames_that_are_judged_are_decoded():
    pipe, decoded = tiny.animatediff_sdxl(), []
    decode = pipe.vae.decode

    def counting(latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        decoded.append(len(latents))
        return decode(latents, *args, **kwargs)

    pipe.vae.decode = counting
    run = judged(pipe, Judge(), ["a cat", "a dog"], frames=3, **{**tiny.ANIMATEDIFF_CALL, "num_frames": 8})
    assert sum(decoded) == 2 * 2 * 3  # of two sides, two videos, three frames
    assert run.num_decodes == 2 and run.num_encodes == 0


def test_frames_are_the_middles_of_equal_parts():
    assert evenly_spread(16, 4) == [2, 6, 10, 14]
    assert evenly_spread(5, 1) == [2]
    for count in range(1, 20):
        assert evenly_spread(count, 30) == list(range(count))
        for most in range(1, count + 1):
            found = evenly_spread(count, most)
            assert len(set(found)) == most and found == sorted(found)
            assert all(abs(frame - (k + 0.5) * count / most) <= 1 for k, frame in enumerate(found))


def test_what_is_judged_is_the_clean_estimate_as_the_pipeline_decodes_it():
    """From the last step of one on, which leads to clean data, the estimate is what the pipeline goes on to decode."""
    pipe = tiny.sdxl(scheduler=tiny.ddim(set_alpha_to_one=True))
    judge = Judge()
    selection = Selection(lambda frames, prompt: judge(frames, prompt), threshold=1e9)  # always a tie: the strong side
    with reflected(
        pipe, UNGUIDED, method="w2sd-auto", selection=selection, num_reflections=1, mode="fused", strength=0.0
    ):
        made = pipe(
            "a cat",
            **{**CALL, "num_inference_steps": 1, "output_type": "np"},
            **tiny.IMAGE_CALL,
            generator=tiny.generator(),
        ).images
    expected = (made * 255).round()
    # float32 in two orders of computing may round one of 768 values, next to a half, otherwise
    assert np.abs(judge.frames[0].astype(float) - expected).max() <= 1
    assert (judge.frames[0] != expected).mean() < 0.01


def test_a_tie_is_decided_by_what_was_chosen_before():
    """The printed algorithm would take the second model: here the first is, until the reward has said otherwise."""
    pipe = tiny.sdxl()
    leads = iter([0.0, 0.0, 0.0, 1.0, 0.0, 0.0])  # of the strong and of the weak side at each of three steps

    with reflected(pipe, UNGUIDED, method="w2sd-auto", selection=Selection(lambda *_: next(leads))) as run:
        pipe("a cat", **{**CALL, "num_inference_steps": 4}, **tiny.IMAGE_CALL, generator=tiny.generator())
    assert run.choices == [[False], [True], [True]]


# -- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer", ["high", "1.5", float("nan"), float("inf"), [1.0, 2.0], torch.ones(2), np.ones(3), {"score": 1}]
)
def test_a_reward_that_is_no_finite_number_is_refused_with_what_it_returned(answer):
    with pytest.raises(UserError, match=r"the reward returned .* for 'a cat'; it must return a finite number"):
        judged(tiny.sdxl(), Judge(answer), "a cat", **tiny.IMAGE_CALL)


@pytest.mark.parametrize("answer", [1, True, np.float32(0.5), torch.tensor(0.5), torch.tensor([0.5])])
def test_numbers_of_any_library_are_numbers(answer):
    assert judged(tiny.sdxl(), Judge(answer), "a cat", **tiny.IMAGE_CALL).choices == [[False]]


def test_an_error_of_the_reward_is_its_own():
    class Broken(Exception):
        pass

    def reward(frames: Any, prompt: str | None) -> float:
        raise Broken

    pipe = tiny.sdxl()
    kind = type(pipe)
    with pytest.raises(Broken), reflected(pipe, UNGUIDED, method="w2sd-auto", selection=Selection(reward)):
        pipe("a cat", **CALL, **tiny.IMAGE_CALL)
    assert type(pipe) is kind


def test_latents_without_an_image_vae_are_refused_before_any_evaluation():
    pipe = tiny.wan()
    evaluated: list[int] = []
    pipe.transformer.register_forward_pre_hook(lambda *_: evaluated.append(1))
    words = 'method "w2sd-auto" rewards decoded clean estimates of WanPipeline.*AutoencoderKLWan.*use method "w2sd"'
    with pytest.raises(UserError, match=words):
        judged(pipe, Judge(), "a cat", **tiny.WAN_CALL)
    pipe = tiny.sdxl()
    pipe.vae = None
    with pytest.raises(UserError, match="has no VAE"):
        judged(pipe, Judge(), "a cat", **tiny.IMAGE_CALL)
    assert evaluated == []


def test_an_estimate_that_is_not_finite_is_not_judged():
    pipe, judge = tiny.sdxl(), Judge()
    weak = tiny.sdxl_unet(2)
    with torch.no_grad():
        weak.conv_out.bias.fill_(float("nan"))
    with pytest.raises(UserError, match="is not finite once decoded"):
        judged(pipe, judge, "a cat", weak=weak, **tiny.IMAGE_CALL)
    assert len(judge.frames) == 1  # the strong side's


def test_selections_that_mean_nothing_are_refused():
    for reward in (None, "pickscore", 3):
        with pytest.raises(UserError, match=r"the reward is a .*; give a function of"):
            Selection(reward)  # type: ignore[arg-type]
    for threshold in (-1.0, float("nan"), float("inf"), "0.1"):
        with pytest.raises(UserError, match="the reward's threshold is"):
            Selection(Judge(), threshold=threshold)  # type: ignore[arg-type]
    for frames in (0, -1, 1.5, True):
        with pytest.raises(UserError, match=r"frames is .*; a reward needs a whole number of frames"):
            Selection(Judge(), frames=frames)  # type: ignore[arg-type]
