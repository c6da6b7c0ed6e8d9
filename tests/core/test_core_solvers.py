"""DPM-Solver++(2M): its formula, its order on data whose paths are known exactly, and its history."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from experiments.theory.mixtures import PATHS, STRONG, Mixture, continuous_level, logit_weak, schedule, slope
from torch import Tensor

from tests.support.sampled import by_autoguidance
from w2sd_video.core import (
    DPMSolverMultistep,
    FlowPath,
    Level,
    NoisePath,
    Past,
    Path,
    reflect,
    sample,
    second_order_step,
    w2sd,
)

DATA = Mixture(means=((0.7,),), weights=(1.0,), std=0.5)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def carried(x: Tensor, start: Level, end: Level) -> Tensor:
    """Where the probability flow of N(0.7, 0.5^2) takes x: its place in units of the deviation stays."""
    at = [math.sqrt((level.alpha * 0.5) ** 2 + level.sigma**2) for level in (start, end)]
    return end.alpha * 0.7 + at[1] / at[0] * (x - start.alpha * 0.7)


def even_levels(name: str, num_steps: int, ends: tuple[float, float] = (-4.0, 4.0)) -> list[Level]:
    """Levels at even distances in log(alpha / sigma)."""
    grid = []
    for k in range(num_steps + 1):
        kappa = math.exp(-(ends[0] + (ends[1] - ends[0]) * k / num_steps))
        norm = 1 + kappa if name == "flow" else math.hypot(1, kappa)
        grid.append(Level(num_steps - k, 1 / norm, kappa / norm))
    return grid


def algorithm_2(x: Tensor, levels: list[Level], clean: Callable[[Tensor, Level], Tensor]) -> Tensor:
    """Alg. 2 of Lu et al. in its own words: lambda, h, r and D."""
    lam = [math.log(level.alpha / level.sigma) for level in levels]
    before: Tensor | None = None
    for i in range(1, len(levels)):
        h = lam[i] - lam[i - 1]
        estimate = now = clean(x, levels[i - 1])
        if before is not None:
            r = (lam[i - 1] - lam[i - 2]) / h
            estimate = (1 + 1 / (2 * r)) * now - 1 / (2 * r) * before
        keep = levels[i].sigma / levels[i - 1].sigma
        x, before = keep * x - levels[i].alpha * (math.exp(-h) - 1) * estimate, now
    return x


@pytest.mark.parametrize("name", ["ddpm", "sdxl", "flow"])
def test_its_steps_are_algorithm_2_written_out(name: str) -> None:
    path = PATHS[name]
    levels = even_levels("flow", 7) if name == "flow" else schedule(name, 7)
    got = sample(noise(5, 1), levels, STRONG.denoiser(path), path, solver=DPMSolverMultistep(path))
    torch.testing.assert_close(got, algorithm_2(noise(5, 1), levels, STRONG.clean), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["noise", "flow"])
def test_the_order_of_accuracy_is_two_where_plain_steps_have_one(name: str) -> None:
    path: Path = FlowPath() if name == "flow" else NoisePath()

    def error(step: float, second: bool) -> float:
        levels = even_levels(name, round(8 / step))
        x = noise(64, 1)
        end = sample(x, levels, DATA.denoiser(path), path, solver=DPMSolverMultistep(path) if second else None)
        return float((end - carried(x, levels[0], levels[-1])).abs().max())

    plain, second = (slope(lambda h, two=two: error(h, two), 0.2, 3) for two in (False, True))
    # The leading terms are h and h^2; what comes after falls by half with each halving, so the last order is nearest.
    assert plain[-1] == pytest.approx(1, abs=0.1)
    assert second[-1] == pytest.approx(2, abs=0.1)
    assert abs(second[-1] - 2) < abs(second[0] - 2)


@pytest.mark.parametrize("name", ["noise", "flow"])
def test_one_step_misses_by_a_third_power_of_the_interval(name: str) -> None:
    path: Path = FlowPath() if name == "flow" else NoisePath()
    denoiser, x = DATA.denoiser(path), noise(64, 1)

    def error(h: float) -> float:
        past, start, end = even_levels(name, 2, (-h, h))
        at_start = carried(x, past, start)
        before = Past(past, path.clean(x, denoiser(x, past), past))
        clean = path.clean(at_start, denoiser(at_start, start), start)
        return float((second_order_step(at_start, clean, start, end, before) - carried(x, past, end)).abs().max())

    assert slope(error, 0.2, 4)[-1] == pytest.approx(3, abs=0.1)


def karras_levels(num_steps: int) -> list[Level]:
    """SDXL's range of sigma / alpha in even seventh roots (Karras et al. 2022, Eq. 5), and clean data."""
    ends = [kappa ** (1 / 7) for kappa in (14.6146, 0.0292)]
    kappas = [(ends[0] + k / (num_steps - 1) * (ends[1] - ends[0])) ** 7 for k in range(num_steps)]
    levels = [Level(num_steps - k, 1 / math.hypot(1, s), s / math.hypot(1, s)) for k, s in enumerate(kappas)]
    return [*levels, Level(0, 1.0, 0.0)]


def test_eight_steps_of_second_order_come_nearer_than_sixteen_plain_ones() -> None:
    # Few steps are what the paper's Figure 19 is about (T 8).
    path, x = PATHS["sdxl"], noise(64, 1)

    def error(num_steps: int, solver: Any = None) -> float:
        levels = karras_levels(num_steps)
        end = sample(x, levels, DATA.denoiser(path), path, solver=solver)
        return float((end - carried(x, levels[0], levels[-1])).abs().max())

    assert error(8, DPMSolverMultistep(path)) < error(16) < error(8)


@pytest.mark.parametrize("name", ["sdxl", "flow"])
def test_data_of_one_point_is_reached_exactly_as_by_plain_steps(name: str) -> None:
    # The clean estimate never changes, so extrapolating it changes nothing.
    path, levels = PATHS[name], schedule(name, 6)
    point = Mixture(means=((0.7,),), weights=(1.0,), std=0.0).denoiser(path)
    levels = levels[1:] if name == "flow" else levels
    plain = sample(noise(5, 1), levels, point, path)
    second = sample(noise(5, 1), levels, point, path, solver=DPMSolverMultistep(path))
    torch.testing.assert_close(second, plain, rtol=0, atol=1e-12)


def test_steps_from_pure_noise_and_to_clean_data_are_of_first_order() -> None:
    path, levels = FlowPath(), schedule("flow", 4)  # alpha 0 at the start, sigma 0 at the end
    denoiser = DATA.denoiser(path)
    x = noise(5, 1)
    solver = DPMSolverMultistep(path)
    state = solver.init()
    for i, (start, end) in enumerate(itertools.pairwise(levels)):
        prediction = denoiser(x, start)
        plain = path.step(x, prediction, start, end)
        got, state = solver.step(x, prediction, start, end, state)
        # Step 1 has an infinitely distant step before it, which extrapolates by nothing: the same up to rounding.
        same = bool(torch.allclose(got, plain, rtol=0, atol=1e-14))
        assert same == (i != 2)
        x = got
    assert x.isfinite().all()


@pytest.mark.parametrize("name", ["sdxl", "flow"])
@pytest.mark.parametrize("lam", [1, 3, 5])
def test_reflections_are_of_first_order_and_leave_the_history_to_the_sampling_steps(name: str, lam: int) -> None:
    path = PATHS[name]
    levels = schedule("sdxl", 6) if name == "sdxl" else even_levels("flow", 6)
    strong, weak = STRONG.denoiser(path), logit_weak(2).denoiser(path)
    expected, before = noise(9, 1), None
    for i, (start, end) in enumerate(itertools.pairwise(levels)):
        if i < lam:
            expected = reflect(expected, start, end, strong, weak, path)
        clean = STRONG.clean(expected, start)
        if before is None:
            following = path.step(expected, strong(expected, start), start, end)
        else:
            following = second_order_step(expected, clean, start, end, before)
        expected, before = following, Past(start, clean)
    got = w2sd(noise(9, 1), levels, strong, weak, path, num_reflections=lam, solver=DPMSolverMultistep(path))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-11)
    plain = w2sd(noise(9, 1), levels, strong, weak, path, num_reflections=lam)
    assert (got - plain).abs().max() > 1e-2


def test_fused_reflections_of_equal_models_are_second_order_sampling_bit_for_bit() -> None:
    path, levels = PATHS["sdxl"], schedule("sdxl", 6)
    strong = STRONG.denoiser(path)
    plain = sample(noise(9, 1), levels, strong, path, solver=DPMSolverMultistep(path))
    fused = w2sd(noise(9, 1), levels, strong, strong, path, mode="fused", solver=DPMSolverMultistep(path))
    guided = by_autoguidance(noise(9, 1), levels, strong, strong, path, solver=DPMSolverMultistep(path))
    assert torch.equal(plain, fused) and torch.equal(plain, guided)


def test_the_strong_models_bias_is_taken_back_with_second_order_steps_too() -> None:
    # The bed of test_core_mixtures: ideal left weight .5, strong .25, a weak model with the same fault twice as much.
    path, levels = PATHS["ddpm"], [continuous_level("vp", 1 - 0.999 * k / 20) for k in range(21)]
    start = torch.special.ndtri((torch.arange(400, dtype=torch.float64) + 0.5) / 400)[:, None]
    strong, weak = STRONG.denoiser(path), logit_weak(2).denoiser(path)
    plain = sample(start, levels, strong, path, solver=DPMSolverMultistep(path))
    moved = w2sd(start, levels, strong, weak, path, solver=DPMSolverMultistep(path))
    swapped = w2sd(start, levels, strong, strong, path, reflector=weak, solver=DPMSolverMultistep(path))
    left = [float((x < 0).double().mean()) for x in (swapped, plain, moved)]
    assert left[1] == pytest.approx(0.25, abs=0.01)  # second order: sampling itself has hardly an error left
    assert left[0] < left[1] - 0.05 and left[1] + 0.05 < left[2] <= 0.5


def test_an_order_asked_for_is_kept_and_a_new_run_starts_anew() -> None:
    path, levels = PATHS["sdxl"], schedule("sdxl", 6)
    strong, x = STRONG.denoiser(path), noise(5, 1)
    plain = sample(x, levels, strong, path)
    assert torch.equal(sample(x, levels, strong, path, solver=DPMSolverMultistep(path, [1] * 6)), plain)
    solver = DPMSolverMultistep(path)
    first, again = (sample(x, levels, strong, path, solver=solver) for _ in range(2))
    assert torch.equal(first, again) and not torch.equal(first, plain)
