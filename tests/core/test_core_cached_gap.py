"""A cached gap: one that is measured at a sampling step and moves the reflections that follow, on exact models."""

import itertools
from typing import Any

import pytest
import torch
from experiments.theory.mixtures import (
    IDEAL,
    PATHS,
    STRONG,
    Mixture,
    continuous_level,
    left_mass,
    logit_weak,
    normal_quantiles,
    ratio_weak,
    schedule,
    slope,
)
from torch import Tensor

from tests.support.sampled import by_w2sd
from w2sd_video.core import Denoiser, Level, NoisePath, ReflectionConfig, sample, w2sd
from w2sd_video.core.variations import CachedGap

SCHEDULES = ("sdxl", "ddpm", "flow")
GAP_EVERY = (1, 2, 5, 0)


def gaussian(mean: float, variance: float = 1.0) -> Mixture:
    return Mixture(means=((mean,),), weights=(1.0,), std=variance**0.5)


@pytest.mark.parametrize("gap_every", GAP_EVERY)
@pytest.mark.parametrize("name", SCHEDULES)
def test_two_gaussians_of_variance_1_are_reflected_as_in_fused_mode_however_old_the_gap(
    name: str, gap_every: int
) -> None:
    """Their gap depends on the level alone, as `gap_growth` says, so that a gap of any age is that of now."""
    path, levels = PATHS[name], schedule(name, 20)
    run = normal_quantiles(9), levels, gaussian(0.4).denoiser(path), gaussian(-0.3).denoiser(path), path
    settings = {"mode": "fused", "window": (0.05, 1.0), "strength": 1.5}  # the first step has no gap before it
    cached = by_w2sd(*run, gap_every=gap_every, **settings)
    fused = by_w2sd(*run, **settings)
    torch.testing.assert_close(cached, fused, rtol=0, atol=1e-12)
    assert (fused - sample(*run[:3], path)).abs().max() > 0.05


@pytest.mark.parametrize("with_reflector", [False, True])
@pytest.mark.parametrize("name", ["sdxl", "flow"])
def test_a_reflection_moves_by_the_gap_of_the_step_before_scaled_to_its_level(name: str, with_reflector: bool) -> None:
    path, levels, log = PATHS[name], schedule(name, 8), []
    models = {"s": STRONG, "w": logit_weak(2), "r": Mixture(((-4.0,), (4.0,)), (0.3, 0.7))}

    def logged(role: str) -> Denoiser:
        return lambda x, level: (log.append(role), models[role].denoiser(path)(x, level))[1]  # type: ignore[func-returns-value]

    config = ReflectionConfig(6, "fused", 1.5, gap_every=2)
    more = {"reflector": logged("r")} if with_reflector else {}
    got = w2sd(3 * normal_quantiles(9), levels, logged("s"), logged("w"), path, options=config, **more)
    assert "".join(log) == ("rws" if with_reflector else "sw") + "s" + (
        "rws" if with_reflector else "sw"
    ) * 0 + "".join(("rws" if with_reflector else "sw") if i in (2, 4) else "s" for i in range(2, 8))

    def native(x: Tensor, level: Level, role: str) -> Tensor:
        clean = models[role].clean(x, level)
        return (x - clean) / level.sigma if name == "flow" else (x - level.alpha * clean) / level.sigma

    x, gap, at = 3 * normal_quantiles(9), None, levels[0]
    for i, (t, s) in enumerate(itertools.pairwise(levels)):
        if gap is not None and i < 6:
            # of the clean estimates' difference, as if data were of variance 1: sigma^2 / (alpha^2 + sigma^2)
            share = [level.sigma**2 / (level.alpha**2 + level.sigma**2) for level in (t, at)]
            unit = [level.sigma if name == "flow" else level.sigma / level.alpha for level in (t, at)]
            now = gap * unit[1] * share[0] / share[1] / unit[0]
            x = x + 1.5 * now * (t.sigma - s.sigma if name == "flow" else t.alpha * (t.kappa - s.kappa))
        if i in (0, 2, 4):
            gap, at = native(x, t, "w") - native(x, t, "r" if with_reflector else "s"), t
        keep = 1.0 if name == "flow" else s.alpha / t.alpha
        x = keep * x + (s.sigma - keep * t.sigma) * native(x, t, "s")
    torch.testing.assert_close(got, x, rtol=0, atol=1e-11)


def test_where_there_is_no_gap_the_next_step_measures_it_if_a_reflection_follows() -> None:
    """As of a weak side in another latent space, that knows no level so noisy."""
    path, levels = PATHS["flow"], schedule("flow", 8)
    strong, weak = (model.denoiser(path) for model in (STRONG, logit_weak(2)))
    for known_from, reflected in ((2, [3, 4, 5]), (8, [])):
        asked: list[int] = []
        moved: list[int] = []

        def measured(x: Tensor, level: Level, known_from: int = known_from, asked: list[int] = asked) -> Any:
            asked.append(levels.index(level))
            prediction = strong(x, level)
            return prediction, None if asked[-1] < known_from else weak(x, level) - prediction

        cached = CachedGap(levels, strong, measured, path, ReflectionConfig(6, "fused", gap_every=3))
        x = 3 * normal_quantiles(9)
        for i, (start, end) in enumerate(itertools.pairwise(levels)):
            tilde = cached.reflect(i, x)
            moved += [] if tilde is None else [i]
            x = path.step(x if tilde is None else tilde, cached.strong(x, start), start, end)
        assert (asked, moved) == ([0, 1, 2, 3] if reflected else [0, 1, 2, 3, 4], reflected)


@pytest.mark.parametrize("gap_every", GAP_EVERY)
@pytest.mark.parametrize("name", SCHEDULES)
def test_equal_models_move_nothing_bit_for_bit_and_are_asked_for_all_the_same(name: str, gap_every: int) -> None:
    path, levels, calls = PATHS[name], schedule(name, 12), []

    def same(x: Tensor, level: Level) -> Tensor:
        calls.append(level)
        return STRONG.denoiser(path)(x, level)

    plain = sample(normal_quantiles(), levels, STRONG.denoiser(path), path)
    cached = by_w2sd(normal_quantiles(), levels, same, same, path, mode="fused", gap_every=gap_every, strength=3.0)
    assert torch.equal(cached, plain)
    assert len(calls) == ReflectionConfig(mode="fused", gap_every=gap_every).evaluations(12) > 12


@pytest.mark.parametrize("gap_every", [1, 2, 3])
@pytest.mark.parametrize("name", ["vp", "flow"])
def test_what_a_cached_gap_changes_against_fused_mode_is_of_first_order_in_the_step(name: str, gap_every: int) -> None:
    path = PATHS["flow" if name == "flow" else "ddpm"]
    models = gaussian(0.3, 0.5).denoiser(path), gaussian(-0.4, 0.8).denoiser(path)

    def change(step: float) -> float:
        levels = [continuous_level(name, 0.9 - 0.8 * k * step) for k in range(round(1 / step) + 1)]
        run = normal_quantiles(20), levels, *models, path
        return (by_w2sd(*run, mode="fused", gap_every=gap_every) - by_w2sd(*run, mode="fused")).norm().item()

    orders = slope(change, 1 / 24, 4)
    assert orders[-1] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("name", SCHEDULES)
def test_old_gaps_keep_four_fifths_of_what_fused_reflections_gain_or_nearly(name: str) -> None:
    """Left mass, ideal .5, T 20, lambda 10. Unscaled, a gap of ten steps ago keeps a tenth on the ddpm schedule."""
    path, levels, x = PATHS[name], schedule(name, 20), normal_quantiles()
    strong = STRONG.denoiser(path)
    for weak in (logit_weak(2).denoiser(path), ratio_weak(2.0, strong, IDEAL.denoiser(path))):
        run, settings = (x, levels, strong, weak, path), {"mode": "fused", "num_reflections": 10}
        own, fused = left_mass(sample(x, levels, strong, path)), left_mass(by_w2sd(*run, **settings))
        kept = [(left_mass(by_w2sd(*run, gap_every=k, **settings)) - own) / (fused - own) for k in GAP_EVERY]
        assert all(share > 0.79 for share in kept) and kept[0] > 0.9
        assert fused - own > 0.1


@pytest.mark.parametrize("name", SCHEDULES)
def test_an_old_gap_is_far_off_only_for_samples_that_are_torn_between_two_modes(name: str) -> None:
    path, levels, x = PATHS[name], schedule(name, 20), normal_quantiles()
    run, settings = (x, levels, STRONG.denoiser(path), logit_weak(2).denoiser(path), path), {"num_reflections": 10}
    fused = by_w2sd(*run, mode="fused", **settings)
    off = (by_w2sd(*run, mode="fused", gap_every=3, **settings) - fused).abs().flatten()
    border = int((fused < 0).sum())  # samples are in the order of their noise, those of the left mode first
    far = (off > 0.5).nonzero().flatten()
    assert off.max() > 2 and (far - border).abs().max() < 50, "of a thousand"
    assert off.median() < 0.15


def test_a_path_scales_gaps_alike_whatever_the_scale_of_its_levels() -> None:
    """A noise path is the same with its latents multiplied (VP, VE), a gap of eps too."""
    path = NoisePath()
    levels = [Level(900, 0.2, 0.9), Level(500, 0.6, 0.7)]
    assert path.gap_growth(levels[0]) == pytest.approx(path.gap_growth(Level(900, 1.0, 0.9 / 0.2)))
