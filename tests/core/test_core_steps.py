"""Steps and reflections as mathematics: inverses, orders of convergence, what no gap leaves unchanged."""

import itertools

import pytest
import torch
from experiments.theory.mixtures import (
    IDEAL,
    PATHS,
    STRONG,
    continuous_level,
    logit_weak,
    normal_quantiles,
    schedule,
    slope,
)

from w2sd_video.core import (
    FlowPath,
    Level,
    NoisePath,
    check_chain,
    lerp_guidance,
    reflect,
    reflect_fused,
    reflect_release,
)

SCHEDULES = ("ddpm", "sdxl", "flow")


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("num_steps", [5, 50])
def test_inverting_with_the_same_prediction_restores_x(name: str, num_steps: int) -> None:
    path, levels = PATHS[name], schedule(name, num_steps)
    x, prediction = randn(64, seed=1), randn(64, seed=2)
    for start, end in itertools.pairwise(levels):
        back = path.step(path.step(x, prediction, start, end), prediction, end, start)
        torch.testing.assert_close(back, x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_step_is_cleaning_and_renoising_with_the_implied_noise(name: str) -> None:
    path, levels = PATHS[name], schedule(name, 8)
    x, prediction = randn(64, seed=1), randn(64, seed=2)
    for start, end in itertools.pairwise(levels):
        clean, noise = path.clean(x, prediction, start), path.noise(x, prediction, start)
        torch.testing.assert_close(path.renoise(clean, noise, start), x, rtol=1e-12, atol=1e-12)
        stepped = path.step(x, prediction, start, end)
        torch.testing.assert_close(path.renoise(clean, noise, end), stepped, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_gap_coefficient_is_what_two_steps_with_two_predictions_do(name: str) -> None:
    path, levels = PATHS[name], schedule(name, 20)
    x, strong, weak = randn(64, seed=1), randn(64, seed=2), randn(64, seed=3)
    for start, end in itertools.pairwise(levels):
        moved = path.step(path.step(x, strong, start, end), weak, end, start)
        fused = x + path.gap_coefficient(start, end) * (weak - strong)
        torch.testing.assert_close(moved, fused, rtol=1e-12, atol=1e-12)


def test_the_inversion_in_x0_form_is_the_step_with_its_ends_swapped() -> None:
    # x~ = (s / s') x' + (a - a' s / s') x0_w(x', t'): the DDIM inverse, weak told the lower level.
    path, levels = PATHS["sdxl"], schedule("sdxl", 20)
    weak = logit_weak(2)
    x = randn(64, 1)
    for start, end in itertools.pairwise(levels):
        ratio = start.sigma / end.sigma
        closed = ratio * x + (start.alpha - end.alpha * ratio) * weak.clean(x, end)
        torch.testing.assert_close(
            path.step(x, weak.denoiser(path)(x, end), end, start), closed, rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("name", ["vp", "flow"])
@pytest.mark.parametrize("t", [0.3, 0.6])
def test_a_denoise_invert_pair_with_one_model_is_second_order_in_the_step(name: str, t: float) -> None:
    path = NoisePath() if name == "vp" else FlowPath()
    model, x = STRONG.denoiser(path), 2 * normal_quantiles(101)
    start = continuous_level(name, t)

    def change(dt: float) -> float:
        return (reflect(x, start, continuous_level(name, t - dt), model, model, path) - x).norm().item()

    assert all(1.8 <= order <= 2.15 for order in slope(change, 0.02, 3))


@pytest.mark.parametrize("name", ["vp", "flow"])
@pytest.mark.parametrize("told", ["the level of x", "the level below"])
@pytest.mark.parametrize("t", [0.3, 0.6])
def test_reflection_moves_along_the_gap_up_to_second_order(name: str, told: str, t: float) -> None:
    """Theorem 1: x~ - x is c * (weak - strong) plus a remainder of second order."""
    path = NoisePath() if name == "vp" else FlowPath()
    strong, weak = STRONG.denoiser(path), logit_weak(2).denoiser(path)
    x, start = 2 * normal_quantiles(101), continuous_level(name, t)

    def remainder(dt: float) -> float:
        end = continuous_level(name, t - dt)
        inverter = weak if told == "the level of x" else lambda x, _: weak(x, end)
        gap = path.gap_coefficient(start, end) * (weak(x, start) - strong(x, start))
        return (reflect(x, start, end, strong, inverter, path) - x - gap).norm().item()

    assert all(1.8 <= order <= 2.15 for order in slope(remainder, 0.02, 3))


@pytest.mark.parametrize("name", SCHEDULES)
def test_fused_reflection_is_theorem_1_without_remainder(name: str) -> None:
    path, levels = PATHS[name], schedule(name, 20)
    strong, weak, x = STRONG.denoiser(path), IDEAL.denoiser(path), 3 * normal_quantiles(101)
    for start, end in itertools.pairwise(levels):
        gap = path.gap_coefficient(start, end) * (weak(x, start) - strong(x, start))
        moved = reflect_fused(x, start, end, strong, weak, path)
        torch.testing.assert_close(moved - x, gap, rtol=0, atol=1e-12)
        half = reflect_fused(x, start, end, strong, weak, path, strength=0.5)
        torch.testing.assert_close(half - x, gap / 2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_fused_reflection_of_equal_models_is_the_identity_bit_for_bit(
    name: str, dtype: torch.dtype, strength: float
) -> None:
    path, levels = PATHS[name], schedule(name, 20)
    x = randn(256, seed=3, dtype=torch.float64 if dtype == torch.float64 else torch.float32)

    def network(x: torch.Tensor, level: Level) -> torch.Tensor:
        return (x.to(dtype) * 1.7).sin() * level.sigma

    for start, end in itertools.pairwise(levels):
        assert torch.equal(reflect_fused(x, start, end, network, network, path, strength=strength), x)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_the_fused_move_made_as_two_steps_is_the_identity_only_up_to_rounding(
    name: str, dtype: torch.dtype, bound: float
) -> None:
    path, levels = PATHS[name], schedule(name, 20)
    x = randn(256, seed=3, dtype=dtype)
    for start, end in itertools.pairwise(levels):
        prediction = x.sin() * (1 + start.sigma)
        back = path.step(path.step(x, prediction, start, end), prediction, end, start)
        assert (back - x).abs().max() <= bound


def test_the_release_inverts_with_the_coefficients_of_diffusers_ddim_inverse_one_level_off() -> None:
    """`inverse.step(eps, timesteps[i + 1])` is `reflect_release`, `inverse.step(eps, timesteps[i])` is `reflect`."""
    from diffusers import DDIMInverseScheduler, DDIMScheduler

    settings = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "timestep_spacing": "leading",
    }
    scheduler, inverse = DDIMScheduler(**settings), DDIMInverseScheduler(**settings)
    scheduler.set_timesteps(20)
    inverse.set_timesteps(20)
    levels, path = schedule("sdxl", 20), NoisePath()
    assert [level.timestep for level in levels[:-1]] == scheduler.timesteps.tolist()
    x, eps_strong, eps_weak = (randn(256, seed=seed) for seed in (1, 2, 3))
    strong, weak = (lambda x, level: eps_strong), (lambda x, level: eps_weak)
    for i in range(19):
        start, end, after = levels[i : i + 3]
        lower = scheduler.step(eps_strong, scheduler.timesteps[i], x).prev_sample
        released = inverse.step(eps_weak, scheduler.timesteps[i + 1], lower).prev_sample
        exact = inverse.step(eps_weak, scheduler.timesteps[i], lower).prev_sample
        # diffusers keeps alphas in float32: 1e-5.
        torch.testing.assert_close(
            reflect_release(x, start, end, after, strong, weak, path), released, rtol=0, atol=1e-5
        )
        torch.testing.assert_close(reflect(x, start, end, strong, weak, path), exact, rtol=0, atol=1e-5)
        assert (released - exact).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_guidance_is_exactly_one_half_at_scales_0_and_1(dtype: torch.dtype) -> None:
    unconditional, conditional = randn(1000, seed=1).to(dtype), randn(1000, seed=2).to(dtype)
    working = torch.promote_types(dtype, torch.float32)
    assert lerp_guidance(unconditional, conditional, 3.0).dtype == working
    assert torch.equal(lerp_guidance(unconditional, conditional, 0.0), unconditional.to(working))
    assert torch.equal(lerp_guidance(unconditional, conditional, 1.0), conditional.to(working))


@pytest.mark.parametrize("scale", [-2.0, 0.3, 3.0, 7.5])
def test_guidance_extrapolates_linearly_at_any_scale(scale: float) -> None:
    unconditional, conditional = randn(1000, seed=1), randn(1000, seed=2)
    expected = unconditional + scale * (conditional - unconditional)
    torch.testing.assert_close(lerp_guidance(unconditional, conditional, scale), expected, rtol=1e-12, atol=1e-12)


def test_guidance_refuses_predictions_of_different_shapes() -> None:
    with pytest.raises(ValueError, match="one shape"):
        lerp_guidance(torch.zeros(1, 4), torch.zeros(2, 4), 2.0)


def test_a_level_holds_python_numbers_and_its_ratios() -> None:
    level = Level(torch.tensor(801), torch.tensor(0.6, dtype=torch.float64), torch.tensor(0.8, dtype=torch.float64))
    assert (type(level.timestep), type(level.alpha), type(level.sigma)) == (int, float, float)
    assert level.kappa == pytest.approx(4 / 3, rel=1e-15)
    assert level.log_snr == pytest.approx(2 * torch.tensor(0.75, dtype=torch.float64).log().item(), rel=1e-14)
    assert Level(1.0, 0.0, 1.0).kappa == float("inf")
    assert Level(1.0, 0.0, 1.0).log_snr == -float("inf")
    assert Level(0.0, 1.0, 0.0).log_snr == float("inf")


@pytest.mark.parametrize(
    "numbers", [(1, -0.1, 1.0), (1, 0.5, -1.0), (1, 0.0, 0.0), (1, float("nan"), 1.0), (float("inf"), 0.5, 0.5)]
)
def test_an_impossible_level_is_refused(numbers: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="noise level"):
        Level(*numbers)


def test_levels_that_do_not_fall_are_refused_naming_the_first_that_does_not() -> None:
    levels = schedule("sdxl", 5)
    check_chain(levels)
    with pytest.raises(ValueError, match=r"level 2 is .* level 3 is"):
        check_chain([*levels[:3], levels[2], *levels[3:]])
    with pytest.raises(ValueError, match="strictly decreasing"):
        check_chain(levels[::-1])
    with pytest.raises(ValueError, match="at least 2 levels"):
        check_chain(levels[:1])


def test_each_path_refuses_levels_it_cannot_walk() -> None:
    with pytest.raises(ValueError, match="alpha 0"):
        NoisePath().check(schedule("flow", 5))
    with pytest.raises(ValueError, match="alpha = 1 - sigma"):
        FlowPath().check(schedule("sdxl", 5))


@pytest.mark.parametrize("path", [NoisePath(), FlowPath()])
def test_a_prediction_of_another_shape_is_refused_rather_than_broadcast(path: NoisePath | FlowPath) -> None:
    start, end = schedule("flow", 5)[1:3]
    with pytest.raises(ValueError, match=r"\(1, 8\).*\(1, 4\)"):
        path.step(torch.zeros(1, 4), torch.zeros(1, 8), start, end)
