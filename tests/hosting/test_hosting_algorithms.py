"""Hosted calls of every algorithm against the algorithm written out over networks called by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support import tiny
from tests.support.written_out import (
    LAMBDA,
    STEPS,
    World,
    algorithm_1,
    algorithm_2,
    algorithm_3,
    algorithm_4,
    autoguidance,
    guided,
    unet_evaluations,
    world,
)
from tests.support.written_out import ddim_grid as grid
from w2sd_video import ModelSpec, ReflectionConfig, Selection, reflected

FAMILIES = ("sdxl", "animatediff", "flux")
UNGUIDED = ModelSpec(guidance=1.0)


def hosted(family: World, method: str, *, seed: int = 7, weak: bool = True, **settings: Any) -> tuple[Tensor, Any]:
    """The latents and the run of a call, lambda 3; the generator serves for nothing but the method's own noise."""
    config = ReflectionConfig(**settings.pop("config", {})) if method != "autoguided" else settings.pop("config")
    # Flux's guidance is an input, 3.5 on both sides, and its weak side another network alone.
    other = family.weak_network if family.scale == 1 else (family.weak_network, UNGUIDED)
    with reflected(family.pipe, other if weak else None, method=method, config=config, **settings) as run:
        return family.call(generator=tiny.generator(seed)), run


def noises(family: World, count: int = LAMBDA, seed: int = 7) -> list[Tensor]:
    generator = tiny.generator(seed)
    return [torch.randn(family.x.shape, generator=generator) for _ in range(count)]


def check(family: World, got: Tensor, expected: Tensor, run: Any, evaluations: int, tolerance: float = 0.0) -> None:
    """The same within rounding, the evaluations counted exactly, and nothing that plain sampling would give."""
    tolerance = max(tolerance, family.rounding(expected, evaluations))
    assert (got - expected).abs().max() <= tolerance
    assert (family.stock - expected).abs().max() > 300 * tolerance
    assert run.num_evaluations == evaluations


CACHED = {"mode": "fused", "gap_every": 1, "strength": 1.5}
REFINED: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    # the settings, the same for the algorithm written out, and the evaluations that lambda 3 of 4 steps then take
    "plain": ({}, {}, 10),
    "fused": ({"mode": "fused", "strength": 1.5}, {"mode": "fused", "strength": 1.5}, 10),
    "every": ({"every": 2}, {"steps": (0, 2)}, 8),
    "window": ({"window": (0.25, 0.75)}, {"steps": (1, 2)}, 8),
    "window of every second": ({"every": 2, "window": (0.2, 1.0)}, {"steps": (1,)}, 6),
    "cap": ({"cap": 0.05}, {"cap": 0.05}, 10),
    "lag": ({"lag": True}, {"lag": True}, 8),  # the first step has no step before it
    "fused lag": ({"lag": True, "mode": "fused", "every": 2}, {"lag": True, "mode": "fused", "steps": (0, 2)}, 7),
    "cached gap": (CACHED, {"strength": 1.5, "steps": (1, 2), "measured": (0, 1)}, 6),
    "cached gap, capped": (
        {**CACHED, "cap": 0.05},
        {"strength": 1.5, "cap": 0.05, "steps": (1, 2), "measured": (0, 1)},
        6,
    ),
    "cached gap, named": ({**CACHED, "gap_every": (1,)}, {"strength": 1.5, "steps": (2,), "measured": (1,)}, 5),
    "cached gap, once": ({**CACHED, "gap_every": 0}, {"strength": 1.5, "steps": (1, 2), "measured": (0,)}, 5),
}


@pytest.mark.parametrize("setting", REFINED)
@pytest.mark.parametrize("family", ["sdxl", "flux"])
@torch.no_grad()
def test_w2sd_with_each_setting_equals_algorithm_1(family: str, setting: str) -> None:
    there = world(family)
    config, written, evaluations = REFINED[setting]
    got, run = hosted(there, "w2sd", config=config)
    check(there, got, algorithm_1(there, **written), run, evaluations)


@torch.no_grad()
def test_animatediff_with_several_settings_at_once_equals_algorithm_1() -> None:
    there = world("animatediff")
    got, run = hosted(there, "w2sd", config={"lag": True, "cap": 0.1, "strength": 1.5, "window": (0.0, 0.5)})
    check(there, got, algorithm_1(there, lag=True, cap=0.1, strength=1.5, steps=(0, 1)), run, 4 + 2 + 1)


@pytest.mark.parametrize("iterations", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_fixed_points_are_those_of_the_inversion_and_none_is_tried_from_pure_noise(
    family: str, iterations: int
) -> None:
    there = world(family)
    got, run = hosted(there, "w2sd", config={"fixed_point": iterations})
    refined = LAMBDA - (family == "flux")  # which starts at pure noise
    check(there, got, algorithm_1(there, iterations=iterations), run, STEPS + 2 * LAMBDA + refined * iterations)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_noise_of_a_reflection_is_the_calls_own_and_of_that_standard_deviation(family: str) -> None:
    there = world(family)
    got, run = hosted(there, "w2sd", config={"noise": 0.3, "window": (0.25, 1.0)})
    drawn = [0.3 * noise for noise in noises(there, 2)]
    check(there, got, algorithm_1(there, steps=(1, 2), noise=drawn), run, 8)


@pytest.mark.parametrize("mode", ["paper", "fused"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_w2sd_auto_equals_algorithm_2_sample_by_sample(family: str, mode: str) -> None:
    """The reward wants one prompt's pictures red and the other's not, so that the samples choose differently."""
    there = world(family)

    def reward(frames: Any, prompt: str | None) -> float:
        return float(frames[..., 0].mean()) * (1 if prompt == "a red cat" else -1)

    got, run = hosted(there, "w2sd-auto", config={"mode": mode}, selection=Selection(reward, threshold=0.2))
    expected, choices, nearest = algorithm_2(there, reward, 0.2, mode)
    # Rounding may tip a decoded value in 256 over to the next of 255 levels: a lead by 1 / 256.
    assert nearest > 2 / 256 and run.choices == choices
    sides = [len(set(chosen)) for chosen in choices]  # how many are asked where one sample needs one
    selecting = 2 * LAMBDA + (sum(sides) if mode == "paper" else 0)
    check(there, got, expected, run, selecting + sum(sides) + (STEPS - LAMBDA) * sides[-1])
    assert max(sides) == 2


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_resample_equals_algorithm_3_with_the_noise_put_back_on_the_latent_arrived_at(family: str) -> None:
    there = world(family)
    got, run = hosted(there, "resample", weak=False)
    check(there, got, algorithm_3(there, noises(there)), run, STEPS + LAMBDA)


@torch.no_grad()
def test_resample_takes_back_a_step_of_the_reflector() -> None:
    there = world("sdxl")
    evaluation = unet_evaluations(there.pipe, grid("leading")[0], 1)
    inner = guided(evaluation(there.pipe.unet), 2.0)
    got, run = hosted(there, "resample", weak=False, config={"reflector": ModelSpec(guidance=2.0)})
    check(there, got, algorithm_3(there, noises(there), inner), run, STEPS + LAMBDA)


@pytest.mark.parametrize("mode", ["paper", "fused"])
@pytest.mark.parametrize(("method", "sign"), [("resample-aligned", 1), ("resample-opposed", -1)])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_aligned_and_opposed_resampling_equal_algorithm_4(family: str, method: str, sign: int, mode: str) -> None:
    there = world(family)
    got, run = hosted(there, method, config={"mode": mode})
    check(there, got, algorithm_4(there, noises(there), sign, mode), run, STEPS + 2 * LAMBDA)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_autoguided_equals_guidance_by_the_weak_model(family: str) -> None:
    there = world(family)
    got, run = hosted(there, "autoguided", config=ReflectionConfig(strength=0.5))
    check(there, got, autoguidance(there, 0.5), run, 2 * STEPS)
