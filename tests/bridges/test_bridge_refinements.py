"""Settings of a reflection that goes through pixels: which steps, noise, a cap; and what it has not."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bridges.pixel.bridged import bridged
from bridges.pixel.side import PixelSide
from tests.support import tiny
from tests.support.bridging import STEPS, UNGUIDED, call, mapped, pipeline
from w2sd_video import ModelSpec, ReflectionConfig, Selection, UserError, reflected
from w2sd_video.core.options import METHODS
from w2sd_video.latents.schedules import read_schedule


def traced(config: ReflectionConfig, weak: Any, **more: Any) -> tuple[list[Tensor], Any]:
    """The latents after each step of a bridged call of the tiny SDXL, and its run."""
    latents: list[Tensor] = []

    def keep(pipe: Any, i: int, t: Any, given: dict[str, Any]) -> dict[str, Any]:
        latents.append(given["latents"].clone())
        return {}

    with bridged(pipeline("sdxl"), weak, config=config, **more) as run:
        call(pipeline("sdxl"), "sdxl", callback_on_step_end=keep)
    return latents, run


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"num_reflections": 5, "every": 2}, (0, 2, 4)),
        ({"num_reflections": 6, "window": (0.3, 0.6)}, (2, 3)),
        ({"num_reflections": 4, "window": (0.1, 1.0), "every": 2}, (1, 3)),
    ],
)
def test_only_the_steps_asked_for_are_reflected(settings, steps):
    told: list[tuple[int, int]] = []
    weak, config = (pipeline("sd15", 2), UNGUIDED), ReflectionConfig(**settings)
    latents, run = traced(config, weak, noise_map=mapped(), progress=lambda done, total: told.append((done, total)))
    evaluations = STEPS + 2 * len(steps)
    assert run.num_evaluations == evaluations and run.num_reflections == len(run.gaps) == len(steps)
    assert told == [(done, evaluations) for done in range(1, evaluations + 1)]
    assert run.num_decodes == run.num_encodes == 3 * len(steps)
    plain, _ = traced(ReflectionConfig(num_reflections=0), weak)
    same = [torch.equal(one, other) for one, other in zip(latents, plain, strict=True)]
    assert same == [i < steps[0] for i in range(STEPS)]


def test_noise_is_added_to_the_reflected_latent_by_the_calls_generator():
    """The control moves next to nothing by itself, so that the first move is that noise within the control's own."""
    pipe, start = pipeline("sdxl"), torch.randn(1, 4, 8, 8, generator=tiny.generator(5))
    with bridged(pipe, "zero-gap", num_reflections=2) as run:
        call(pipe, "sdxl", latents=start)
        still = run.gaps[0]
    with bridged(pipe, "zero-gap", config=ReflectionConfig(num_reflections=2, noise=0.25)) as run:
        other, first, again = (call(pipe, "sdxl", latents=start, generator=tiny.generator(seed)) for seed in (1, 0, 0))
        gap = run.gaps[0]
    drawn = 0.25 * float(torch.randn(1, 4, 8, 8, generator=tiny.generator(0)).norm())
    assert abs(gap - drawn) <= still < 0.05 * drawn  # the triangle inequality
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_cap_shortens_what_the_bridge_moves():
    weak = (pipeline("sd15", 2), UNGUIDED)
    _, free = traced(ReflectionConfig(num_reflections=2), weak, noise_map=mapped())
    cap = 0.5 * min(free.gaps) / math.sqrt(4 * 8 * 8)
    _, run = traced(ReflectionConfig(num_reflections=2, cap=cap), weak, noise_map=mapped())
    assert run.gaps == pytest.approx([0.5 * min(free.gaps)] * 2, rel=1e-4)


def test_skipped_reflections_are_told_of_those_that_were_to_be_made():
    """Flux begins noisier than any level that SDXL knows."""
    strong, weak = pipeline("flux"), (pipeline("sdxl", 2), UNGUIDED)
    with bridged(strong, weak, config=ReflectionConfig(num_reflections=5, every=2), noise_map=mapped()) as run:
        call(strong, "flux")
    assert run.num_skipped > 0 and run.num_reflections == 3 - run.num_skipped
    assert any(f"{run.num_skipped} of 3 reflections are skipped" in note for note in run.notes)


def test_a_cached_gap_crosses_at_sampling_steps_and_is_scaled_to_the_level_it_moves_at():
    weak = (pipeline("sd15", 2), UNGUIDED)
    told: list[tuple[int, int]] = []
    config = ReflectionConfig(num_reflections=5, mode="fused", gap_every=2)
    _, run = traced(config, weak, noise_map=mapped(), progress=lambda done, total: told.append((done, total)))
    assert (run.num_evaluations, run.num_reflections, run.num_encodes) == (STEPS + 2, 4, 3 * 2)
    assert told == [(done, STEPS + 2) for done in range(1, STEPS + 3)]
    # Its first gap is that of the first latent of all, which a reflection there would have moved by.
    _, fused = traced(ReflectionConfig(num_reflections=1), weak, noise_map=mapped())
    schedule = read_schedule(pipeline("sdxl").scheduler)
    levels, path = schedule.levels, schedule.path
    moves = [path.gap_coefficient(levels[i], levels[i + 1]) * path.gap_growth(levels[i]) for i in (0, 1)]
    assert run.gaps[0] == pytest.approx(fused.gaps[0] * moves[1] / moves[0], rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"config": ReflectionConfig(num_reflections=2, fixed_point=1)}, "fixed_point is given; a reflection through"),
        ({"config": ReflectionConfig(num_reflections=2, lag=True)}, "lag is given; a reflection through pixels"),
        ({"config": ReflectionConfig(num_reflections=2, mode="release")}, 'mode "release" repeats the published code'),
        ({"config": ReflectionConfig()}, "num_reflections is missing"),
        ({}, "num_reflections is missing"),
        ({"config": ReflectionConfig(num_reflections=2), "strength": 2.0}, "either config or num_reflections"),
        ({"config": ReflectionConfig(num_reflections=3, window=(0.5, 1.0))}, "leaves none of the first 3 of 6 steps"),
    ],
)
def test_settings_that_a_bridge_has_not_are_refused_by_name(settings, words):
    pipe, evaluated = pipeline("sdxl"), []
    hook = pipe.unet.register_forward_pre_hook(lambda *_: evaluated.append(1))
    try:
        weak = (pipeline("sd15", 2), ModelSpec(guidance=1.0))
        with pytest.raises(UserError, match=words), bridged(pipe, weak, noise_map=mapped(), **settings):
            call(pipe, "sdxl")
    finally:
        hook.remove()
    assert evaluated == []


@pytest.mark.parametrize("method", [method for method in METHODS if method != "w2sd"])
def test_other_methods_of_a_pair_of_two_latent_spaces_are_refused_by_name(method):
    side = PixelSide(
        weak=pipeline("sd15", 2),
        spec=UNGUIDED,
        inputs={},
        noise=mapped(),
        vae=None,
        weak_vae=None,
        chunk=None,
        tiled=False,
        seed=0,
        strength=1.0,
    )
    more = {"selection": Selection(lambda frames, prompt: 0.0)} if method == "w2sd-auto" else {}
    words = f"method is '{method}'; a pair of two latent spaces can do \"w2sd\" only"
    with pytest.raises(UserError, match=words), reflected(pipeline("sdxl"), side, method=method, **more):
        pass
