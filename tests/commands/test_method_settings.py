"""What every method takes of a plan's settings and what it costs, against formulas written out; what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.family_programs import costs as planned_costs
from tests.support.family_programs import image_request, planned, video_request
from w2sd_video.commands.method_settings import (
    SideRows,
    config_of,
    num_evaluations,
    num_rows,
    reflected_steps,
    reflection_record,
    without_unused,
)
from w2sd_video.errors import UserError
from w2sd_video.pair import ModelSpec, ReflectionConfig
from w2sd_video.runs.tasks import METHODS

T, LAM = 20, 10
INSIDE = ModelSpec(guidance=1.0)


def costs(**settings: Any) -> dict[str, int]:
    config = ReflectionConfig(**{"num_reflections": LAM, **settings})
    return {method: num_evaluations(method, config, T) for method in METHODS}


def test_every_method_costs_what_its_algorithm_says() -> None:
    assert costs() == {
        "weak": T,
        "strong": T,
        "w2sd": T + 2 * LAM,
        "zero-gap": T + 2 * LAM,
        "swapped": T + 2 * LAM,
        "w2sd-auto": T + 3 * LAM,  # of the four of the printed algorithm one serves twice
        "resample": T + LAM,
        "resample-aligned": T + 2 * LAM,
        "resample-opposed": T + 2 * LAM,
        "autoguided": 2 * T,
    }
    assert costs(mode="fused")["w2sd-auto"] == T + 2 * LAM
    assert costs(lag=True)["w2sd"] == T + LAM + 1, "the first reflection has no prediction before it"
    cached = costs(mode="fused", gap_every=2)
    assert cached["w2sd"] == cached["zero-gap"] == cached["swapped"] == T + 5, "measured at 0, 2, 4, 6 and 8"
    assert cached["w2sd-auto"] == T + 2 * LAM and costs(mode="fused", gap_every=0)["w2sd"] == T + 1
    assert costs(fixed_point=2)["w2sd"] == T + 4 * LAM and costs(fixed_point=2)["resample-aligned"] == T + 2 * LAM
    assert costs(every=3, window=(0.1, 1.0))["w2sd"] == T + 2 * 3, "of steps 2 to 9: 2, 5, 8"


@pytest.mark.parametrize("method", METHODS)
def test_without_reflections_a_method_is_plain_sampling(method: str) -> None:
    sides = SideRows(2, 2, 1, 1)
    none = ReflectionConfig(0)
    twice = 1 + (method == "autoguided")
    assert num_evaluations(method, none, T) == twice * T
    assert num_rows(method, none, T, sides) == twice * T * 2


def test_rows_are_two_for_a_guided_evaluation_of_either_side() -> None:
    sides = SideRows(strong=2, weak=1, strong_inside=2, weak_inside=1)
    rows = {method: num_rows(method, ReflectionConfig(LAM), T, sides) for method in METHODS}
    assert rows == {
        "weak": T,
        "strong": 2 * T,
        "w2sd": 2 * T + 3 * LAM,
        "zero-gap": 2 * T + 4 * LAM,
        "swapped": T + 3 * LAM,
        "w2sd-auto": 2 * T + 3 * LAM + 2 * LAM,  # the inverting side, and the main steps', may be either: at most
        "resample": 2 * T + 2 * LAM,
        "resample-aligned": 2 * T + 3 * LAM,
        "resample-opposed": 2 * T + 3 * LAM,
        "autoguided": 3 * T,
    }
    together = SideRows(2, 1, 2, 1, together=True)
    fused = ReflectionConfig(LAM, mode="fused")
    assert num_rows("w2sd", fused, T, together) == 2 * T + 2 * LAM
    assert num_rows("w2sd-auto", fused, T, together) == 2 * T + 2 * LAM
    assert num_rows("autoguided", fused, T, together) == 2 * T
    limited = replace(fused, window=(0.0, 0.5))
    assert num_rows("autoguided", limited, T, together) == 2 * (T // 2) + T // 2 * together.strong
    assert num_rows("w2sd", ReflectionConfig(LAM, lag=True), T, sides) == 2 * T + 2 + LAM
    assert num_rows("w2sd", ReflectionConfig(LAM, fixed_point=1), T, sides) == 2 * T + 4 * LAM


def test_rows_of_a_cached_gap_are_those_that_the_sampling_steps_have_not() -> None:
    def rows(sides: SideRows, **more: Any) -> list[int]:
        config = ReflectionConfig(LAM, "fused", gap_every=1, **more)
        return [num_rows(method, config, T, sides) for method in ("w2sd", "zero-gap", "swapped")]

    measured = LAM - 1
    stock = 2 * T  # guidance 5.5 over 1, inside the reflections too
    assert rows(SideRows(2, 1, 2, 1, together=True)) == [stock, stock + 2 * measured, T + measured]
    # sampling at 5.5 and reflecting at 1, over another network at 1
    assert rows(SideRows(2, 1, 1, 1)) == [stock + measured, stock + 2 * measured, T + measured]
    # sampling at 1 and reflecting at 0, which takes the other half: one evaluation has both
    assert rows(SideRows(1, 1, 1, 1, strong_visit=2)) == [T + 2 * measured, T + 3 * measured, T + measured]
    assert rows(SideRows(1, 1, 1, 1, weak_visit=2))[2] == T + 2 * measured


def test_a_cached_gap_asks_for_fused_mode_by_itself_and_refuses_what_it_has_not() -> None:
    found = planned(image_request(gap_every=2, methods=("w2sd",))).reflection
    assert (found.mode, found.gap_every) == ("fused", 2)
    for settings, said in (
        ({"mode": "paper"}, "gap_every is 2 in mode 'paper'"),
        ({"reflections": 1}, "--gap-every leaves nothing to reflect"),
        ({"match_evaluations": 20}, "--match-evaluations counts two evaluations"),
    ):
        with pytest.raises(UserError, match=said):
            planned(image_request(gap_every=2, methods=("w2sd",), **settings))


def test_a_method_takes_only_the_settings_that_it_has() -> None:
    every = ReflectionConfig(LAM, "paper", 0.5, every=2, window=(0.0, 0.5), fixed_point=1, noise=0.1, cap=0.3)
    taken = {method: config_of(method, every, INSIDE) for method in METHODS}
    assert taken["strong"] == taken["weak"] == ReflectionConfig(0)
    assert taken["autoguided"] == ReflectionConfig(strength=0.5, window=(0.0, 0.5))
    steps = ReflectionConfig(LAM, reflector=INSIDE, every=2, window=(0.0, 0.5))
    assert taken["resample"] == taken["resample-aligned"] == steps
    assert taken["w2sd"].reflector == INSIDE and taken["w2sd"].cap == 0.3
    assert taken["w2sd-auto"].reflector is None and taken["w2sd-auto"].cap == 0.3
    assert config_of("w2sd", ReflectionConfig(LAM, lag=True), INSIDE).reflector is None


def test_only_settings_that_are_not_the_papers_are_recorded() -> None:
    assert reflection_record(ReflectionConfig(LAM, "fused", 0.5)) == {}
    changed = ReflectionConfig(LAM, every=2, window=(0.0, 0.5), noise=0.1, lag=True)
    assert reflection_record(changed) == {"every": 2, "window": [0.0, 0.5], "noise": 0.1, "lag": True}
    assert reflected_steps(changed, T) == (0, 2, 4, 6, 8)


def test_a_sweep_drops_what_a_method_has_no_use_for() -> None:
    request = image_request(every=2, fixed_point=1, lag=True, reward="oracle", reward_weights=("x",))
    assert without_unused(request, ("strong",)) == image_request()
    assert without_unused(request, ("strong", "resample")) == image_request(every=2)
    assert without_unused(request, ("w2sd", "w2sd-auto")) == request


def test_a_guidance_gap_of_videos_is_one_for_what_asks_sides_as_they_sample() -> None:
    """As of pictures: where only guidance differs, the weak side by itself samples with its own."""
    same = "RunDiffusion/Juggernaut-XL-v9"
    request = video_request(preset="juggernaut-vs-sdxl", weak=same, prompts=("a corgi",), methods=("autoguided",))
    done = planned(request)
    assert (done.sampling_guidance("strong"), done.sampling_guidance("weak")) == (3.0, 1.0)
    assert planned_costs(done)["autoguided"].rows == 50 * (2 + 1), "two networks, each asked as it samples"
