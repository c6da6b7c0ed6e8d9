"""Reflections whose inversion is iterated to be exact, and those that save an evaluation by a cached prediction."""

import itertools
import math

import pytest
import torch
from experiments.theory.mixtures import (
    PATHS,
    STRONG,
    Mixture,
    continuous_level,
    logit_weak,
    normal_quantiles,
    schedule,
    slope,
)
from torch import Tensor

from tests.support.sampled import by_w2sd
from w2sd_video.core import (
    MODES,
    W2SD,
    Denoiser,
    FlowPath,
    Level,
    ReflectionConfig,
    converges,
    invert,
    reflect,
    sample,
    w2sd,
)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(variance: float, mean: float = 0.0) -> Mixture:
    return Mixture(means=((mean,),), weights=(1.0,), std=variance**0.5)


def written_down(model: Denoiser, role: str, log: list[tuple[str, Level]]) -> Denoiser:
    def denoiser(x: Tensor, level: Level) -> Tensor:
        log.append((role, level))
        return model(x, level)

    return denoiser


def test_fixed_points_leave_the_error_of_inversion_that_the_study_measured() -> None:
    """|x~ - x| / |x| of equal models, mean (most) over the steps of SDXL's schedule, T 20: rows b, b+1 and b+2."""
    path, levels = PATHS["sdxl"], schedule("sdxl", 20)
    mode = math.sqrt(1 - 0.25**2)
    model = Mixture(means=((-mode,), (mode,)), weights=(0.25, 0.75), std=0.25).denoiser(path)
    errors: dict[int, list[float]] = {0: [], 1: [], 2: []}
    x = normal_quantiles()
    for start, end in itertools.pairwise(levels[:-1]):
        for iterations, found in errors.items():
            back = reflect(x, start, end, model, model, path, fixed_point=iterations)
            found.append(((back - x).norm() / x.norm()).item())
        x = path.step(x, model(x, start), start, end)
    mean, most = ([statistic(errors[k]) for k in range(3)] for statistic in (lambda e: sum(e) / len(e), max))
    assert mean[:2] == [pytest.approx(7.7e-3, abs=5e-5), pytest.approx(2.6e-3, abs=5e-5)]
    assert most[:2] == [pytest.approx(0.045, abs=5e-4), pytest.approx(0.030, abs=5e-4)]
    assert mean[2] < 1.1e-3 and most[2] < 0.014  # the study kept the last iterate, here the one of least residual is


@pytest.mark.parametrize(("variance", "share"), [(0.001, 0.786), (0.01, 0.946), (0.05, 0.997), (0.2, 1.0), (4.0, 1.0)])
def test_two_fixed_points_keep_the_detail_that_no_gap_would_smooth(variance: float, share: float) -> None:
    """Standard deviation against plain sampling, SDXL schedule, T 50, lambda 49: row t+2fp."""
    path, levels, x = PATHS["sdxl"], schedule("sdxl", 50), torch.ones(1, 1, dtype=torch.float64)
    model = gaussian(variance).denoiser(path)
    reflected = by_w2sd(x, levels, model, model, path, fixed_point=2)
    plain = sample(x, levels, model, path)
    assert (reflected / plain).item() == pytest.approx(share, abs=0.003 if variance == 0.05 else 0.0005)


@pytest.mark.parametrize(("step", "factor"), [(0, 0.11), (24, 0.06), (48, 0.71)])
def test_iterations_contract_by_the_ratio_of_the_noise_levels_where_noise_dominates(step: int, factor: float) -> None:
    path, (start, end) = PATHS["sdxl"], schedule("sdxl", 50)[step : step + 2]
    model = gaussian(0.0).denoiser(path)  # all that there is, is noise
    lower = torch.ones(1, 1, dtype=torch.float64)
    found = [invert(lower, start, end, model, path, fixed_point=k).item() for k in range(3)]
    assert (found[2] - found[1]) / (found[1] - found[0]) == pytest.approx(1 - end.kappa / start.kappa, rel=1e-9)
    assert 1 - end.kappa / start.kappa == pytest.approx(factor, abs=0.005)


@pytest.mark.parametrize("iterations", [0, 1, 2])
def test_the_iterate_of_least_residual_is_kept_sample_by_sample(iterations: int) -> None:
    # With v = g x and an interval dt, each iteration adds the next power of f = dt g to lower * (1 + f): it runs to
    # lower / (1 - f) where |f| < 1 and away from it where not, which the second residual, |f|^3 |lower|, betrays.
    path, start, end = FlowPath(), Level(1, 0.4, 0.6), Level(0, 0.6, 0.4)
    factors = torch.tensor([0.5, -0.5, 0.95, -0.95, 1.5, -1.5, 3.0, 1e200, -1e200, 0.0], dtype=torch.float64)
    lower = randn(10, 6, seed=4)
    found = invert(lower, start, end, lambda x, _: x * factors[:, None] / (0.6 - 0.4), path, fixed_point=iterations)
    for f, was, now in zip(factors.tolist(), lower, found, strict=True):
        # A single iteration has one residual to go by: any number will do, but 1e200 squared is none.
        powers = 1 + iterations if abs(f) < (1 if iterations == 2 else 1e100) else 1
        expected = was * sum(f**power for power in range(powers + 1))
        torch.testing.assert_close(now, expected, rtol=1e-12, atol=1e-12)


def test_iterating_on_a_pair_that_would_oscillate_is_never_worse_than_stopping() -> None:
    path, model, x = PATHS["flow"], STRONG.denoiser(PATHS["flow"]), 3 * normal_quantiles(400)
    start, end = schedule("flow", 5)[2:4]
    lower = path.step(x, model(x, start), start, end)
    residual = []
    for iterations in (0, 2):
        found = invert(lower, start, end, model, path, fixed_point=iterations)
        residual.append((path.step(lower, model(found, start), end, start) - found).abs())
    once = invert(lower, start, end, model, path, fixed_point=1)
    after = (path.step(lower, model(once, start), end, start) - once).abs()
    assert (after > residual[0]).any()  # some of these samples do diverge,
    stayed = after >= residual[0]
    assert torch.equal(residual[1][stayed], residual[0][stayed])  # and those stay at the start


@pytest.mark.parametrize("fixed_point", [0, 1, 2])
@pytest.mark.parametrize(("name", "lam", "none"), [("sdxl", 6, 0), ("flow", 5, 1), ("to clean", 5, 0)])
def test_each_iteration_is_one_evaluation_and_none_is_made_where_none_converges(
    name: str, lam: int, none: int, fixed_point: int
) -> None:
    path = PATHS["flow" if name == "flow" else "sdxl"]
    levels = schedule("flow" if name == "flow" else "sdxl", 6)
    if name == "to clean":
        levels[-1] = Level(0, 1.0, 0.0)
    log: list[tuple[str, Level]] = []
    strong, weak = (written_down(lambda x, _: (0.9 * x).sin(), role, log) for role in "sw")
    by_w2sd(randn(3, 2), levels, strong, weak, path, num_reflections=lam, fixed_point=fixed_point)
    iterations = fixed_point * (lam - none)
    assert len(log) == 6 + 2 * lam + iterations
    assert sum(role == "w" for role, _ in log) == lam + iterations
    told = [level for role, level in log if role == "w"]
    assert [level.kappa for level in told] == sorted((level.kappa for level in told), reverse=True)
    assert sum(converges(*step) for step in itertools.pairwise(levels[: lam + 1])) == lam - none


@pytest.mark.parametrize("ends", [(Level(1, 0.0, 1.0), Level(0, 0.2, 0.8)), (Level(1, 0.2, 0.8), Level(0, 1.0, 0.0))])
def test_from_pure_noise_and_from_clean_data_the_first_inversion_stands(ends: tuple[Level, Level]) -> None:
    lower, model = randn(4, 3), STRONG.denoiser(FlowPath())
    lower = lower.reshape(-1, 1)
    plain = invert(lower, *ends, model, FlowPath())
    assert torch.equal(invert(lower, *ends, model, FlowPath(), fixed_point=2), plain)


@pytest.mark.parametrize("mode", MODES)
def test_a_cached_prediction_is_that_of_the_sampling_step_before_and_saves_an_evaluation(mode: str) -> None:
    path, levels, x = PATHS["sdxl"], schedule("sdxl", 6), randn(5, 1)
    log: list[tuple[str, Level]] = []
    strong = written_down(STRONG.denoiser(path), "s", log)
    weak = written_down(logit_weak(2).denoiser(path), "w", log)
    got = by_w2sd(x, levels, strong, weak, path, mode=mode, num_reflections=4, lag=True)
    assert len(log) == ReflectionConfig(4, lag=True).evaluations(6) == 6 + 2 * 4 - 3
    assert "".join(role for role, _ in log) == "sws" + "ws" * 3 + "ss"
    last: Tensor | None = None
    for i, (t, s) in enumerate(itertools.pairwise(levels)):
        if i < 4:
            told = strong(x, t) if last is None else last
            models, options = (lambda *_, told=told: told, weak, path), ReflectionConfig(1, mode)
            x = W2SD(levels[i : i + 3], *models, options).reflect(0, x)
        last = strong(x, t)
        x = s.alpha / t.alpha * x + (s.sigma - s.alpha / t.alpha * t.sigma) * last
    torch.testing.assert_close(got, x, rtol=0, atol=1e-12)


def test_a_run_that_reflects_late_has_a_cached_prediction_for_its_first_reflection_too() -> None:
    log: list[tuple[str, Level]] = []
    strong, weak = (written_down(lambda x, _: (0.9 * x).sin(), role, log) for role in "sw")
    options = {"window": (0.5, 1.0), "lag": True}
    by_w2sd(randn(3, 2), schedule("sdxl", 6), strong, weak, PATHS["sdxl"], **options)
    assert "".join(role for role, _ in log) == "sss" + "ws" * 2 + "s"
    assert ReflectionConfig(**options).evaluations(6) == len(log) == 6 + 2
    assert ReflectionConfig(every=3, lag=True).evaluations(6) == 6 + 2 + 1


@pytest.mark.parametrize("name", ["vp", "flow"])
@pytest.mark.parametrize("mode", ["paper", "fused"])
def test_what_a_cached_prediction_changes_is_of_first_order_in_the_step(name: str, mode: str) -> None:
    path = PATHS["flow" if name == "flow" else "ddpm"]
    models = gaussian(0.5, mean=0.3).denoiser(path), gaussian(0.8, mean=-0.4).denoiser(path)

    def change(step: float) -> float:
        levels = [continuous_level(name, 0.9 - 0.8 * k * step) for k in range(round(1 / step) + 1)]
        lagging = by_w2sd(normal_quantiles(20), levels, *models, path, mode=mode, lag=True)
        return (lagging - w2sd(normal_quantiles(20), levels, *models, path, mode=mode)).norm().item()

    orders = slope(change, 1 / 25, 4)
    assert orders[-1] == pytest.approx(1, abs=0.1) and abs(orders[-1] - 1) <= abs(orders[0] - 1) + 0.02


def test_equal_models_are_moved_by_a_reflection_with_a_cached_prediction() -> None:
    path, levels, model = PATHS["sdxl"], schedule("sdxl", 6), STRONG.denoiser(PATHS["sdxl"])
    plain = sample(normal_quantiles(9), levels, model, path)
    lagging = by_w2sd(normal_quantiles(9), levels, model, model, path, mode="fused", lag=True)
    assert (lagging - plain).abs().max() > 1e-2
    once = by_w2sd(normal_quantiles(9), levels, model, model, path, mode="fused", num_reflections=1, lag=True)
    assert torch.equal(once, plain)  # the first reflection asks for itself
