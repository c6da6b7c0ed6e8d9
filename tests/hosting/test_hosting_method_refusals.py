"""Settings that do not go together are refused by name, before anything is evaluated."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import tiny
from tests.support.written_out import OTHER_SETTINGS
from w2sd_video import ModelSpec, ReflectionConfig, Selection, UserError, reflected
from w2sd_video.hosting.method import METHODS, SETTINGS, method_of

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


@pytest.mark.parametrize("method", METHODS)
def test_a_method_takes_its_own_settings_and_refuses_each_other_one_by_name(method):
    for setting, value in OTHER_SETTINGS.items():
        config = configured(**{setting: value})
        if setting in SETTINGS[method]:
            made = method_of(method, config)
            assert setting == "reflector" or getattr(made, setting) == value
        else:
            with pytest.raises(UserError, match=f"^{setting} is .*; leave {setting} out$"):
                method_of(method, config)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"strength": "2"}, "strength is '2'; it must be a finite number"),
        ({"strength": float("inf")}, "strength is inf"),
        ({"every": 0}, "every is 0; it must be a whole number of steps"),
        ({"every": 1.5}, "every is 1.5"),
        ({"window": (0.5, 0.5)}, "window is .*; it must be two fractions"),
        ({"window": (-0.1, 0.5)}, "window is"),
        ({"window": (0.0, 1.5)}, "window is"),
        ({"window": 0.5}, "window is 0.5"),
        ({"fixed_point": 3}, "fixed_point is 3; it must be 0, 1 or 2"),
        ({"fixed_point": 1, "mode": "fused"}, "fixed_point is 1 in mode 'fused'"),
        ({"fixed_point": 1, "mode": "release"}, "fixed_point is 1 in mode 'release'"),
        ({"noise": -0.1}, "noise is -0.1; it must be a standard deviation"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"cap": 0}, "cap is 0; it must be a root mean square"),
        ({"cap": -1.0}, "cap is -1.0"),
        ({"lag": 1}, "lag is 1; it must be True or False"),
    ],
)
def test_values_out_of_range_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        ReflectionConfig(**settings)


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
