"""Settings that do not go together are refused by name, before anything is evaluated."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import tiny
from w2sd_video import ModelSpec, ReflectionConfig, Selection, UserError, reflected
from w2sd_video.core.options import METHODS

UNGUIDED = ModelSpec(guidance=1.0)


def reward(frames: Any, prompt: str | None) -> float:
    return 0.0


def refused(words: str, weak: Any = UNGUIDED, *, build: Any = tiny.sdxl, steps: int = 4, **settings: Any) -> None:
    """Asserts that the context or the call raises `UserError` with these words, and evaluates no network."""
    pipe, evaluated = build(), []
    kind = type(pipe)
    pipe.unet.register_forward_pre_hook(lambda *_: evaluated.append(1))
    with pytest.raises(UserError, match=words), reflected(pipe, weak, **settings):
        pipe("a cat", **tiny.IMAGE_CALL, num_inference_steps=steps, guidance_scale=3.0)
    assert not evaluated and type(pipe) is kind


def configured(**settings: Any) -> ReflectionConfig:
    return ReflectionConfig(**settings)


def test_the_published_code_has_no_other_method():
    for method in ("w2sd-auto", "resample-aligned", "resample-opposed"):
        more = {"selection": Selection(reward)} if method == "w2sd-auto" else {}
        refused(
            f'mode "release" repeats the published code, which has no {method}', method=method, mode="release", **more
        )


def test_a_selection_belongs_to_auto_selection():
    refused("picks the stronger side by a reward; give selection", method="w2sd-auto")
    refused("selection is given, and method 'w2sd' picks no side", selection=Selection(reward))
    refused("selection is a function; give a Selection", method="w2sd-auto", selection=reward)


def test_a_weak_side_is_missing_wherever_one_is_used():
    for method in ("w2sd", "resample-aligned", "resample-opposed", "autoguided"):
        refused("weak is missing", None, method=method)
    refused("weak is missing", None, method="w2sd-auto", selection=Selection(reward))
    refused("weak is a int", 3, method="resample")  # not used there, and still no side


@pytest.mark.parametrize("method", [method for method in METHODS if method != "resample"])
def test_two_equal_sides_are_refused_by_every_method_that_uses_both(method):
    more = {"selection": Selection(reward)} if method == "w2sd-auto" else {}
    refused("the weak side differs in nothing", ModelSpec(guidance=3.0), method=method, **more)


def test_lag_needs_the_strong_side_to_reflect_as_it_samples():
    refused("lag puts a prediction", config=configured(lag=True, reflector=ModelSpec(guidance=1.5)))
    pipe = tiny.sdxl()
    with reflected(pipe, UNGUIDED, config=configured(lag=True, reflector=ModelSpec(guidance=3.0))) as run:
        pipe("a cat", **tiny.IMAGE_CALL, num_inference_steps=4, guidance_scale=3.0)  # as it samples, said
    assert run.num_evaluations == 4 + 2 * 3 - 2


def test_a_window_that_leaves_no_step_is_refused():
    refused("leaves none of the first 2 of 4 steps", config=configured(num_reflections=2, window=(0.5, 1.0)))
    refused("leaves none of the first 3 of 4 steps", config=configured(window=(0.3, 0.4)))
    pipe = tiny.sdxl()
    with reflected(pipe, UNGUIDED, config=configured(num_reflections=0, window=(0.3, 0.4))) as run:
        pipe("a cat", **tiny.IMAGE_CALL, num_inference_steps=4, guidance_scale=3.0)
    assert run.num_evaluations == 4


def test_more_reflections_than_there_can_be_are_refused_by_every_method():
    clean = lambda: tiny.sdxl(scheduler=tiny.ddim(set_alpha_to_one=True))  # noqa: E731
    for method in ("w2sd-auto", "resample-aligned"):
        more = {"selection": Selection(reward)} if method == "w2sd-auto" else {}
        refused("from 0 to 3 .*got 4", build=clean, method=method, num_reflections=4, **more)
    refused("num_reflections is 5", method="resample", num_reflections=5)
    pipe = clean()
    with reflected(pipe, method="resample", num_reflections=4) as run:  # noised again, not inverted
        pipe("a cat", **tiny.IMAGE_CALL, num_inference_steps=4, guidance_scale=3.0)
    assert run.num_evaluations == 8


def test_from_pure_noise_only_what_inverts_there_is_refused():
    scheduler = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}

    def build() -> Any:
        return tiny.sdxl(prediction_type="v_prediction", scheduler=tiny.ddim("v_prediction", **scheduler))

    refused("starts at pure noise", build=build)
    refused("starts at pure noise", build=build, method="resample-aligned")
    for settings in (
        {"method": "resample"},
        {"method": "resample-aligned", "mode": "fused"},
        {"config": configured(window=(0.25, 1.0))},
    ):
        pipe = build()
        with reflected(pipe, UNGUIDED, **settings) as run:
            pipe("a cat", **tiny.IMAGE_CALL, num_inference_steps=4, guidance_scale=3.0)
        assert run.num_reflections in (2, 3)
