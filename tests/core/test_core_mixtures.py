"""What the samplers do on exact Gaussian mixtures: the masses, orders and failure modes of a numerical study.

The bed: modes at -4 and 4, ideal left mass .5, strong .25, a weak model with `ratio` times the strong one's bias, 1000
quantile starts (so the left mass has a resolution of .001). Tolerances are the study's.
"""

import itertools

import pytest
import torch
from experiments.theory.mixtures import (
    IDEAL,
    PATHS,
    STRONG,
    Mixture,
    left_mass,
    logit_weak,
    normal_quantiles,
    ratio_weak,
    schedule,
    wasserstein,
)
from torch import Tensor

from tests.support.sampled import by_autoguidance
from w2sd_video.core import Denoiser, Level, sample, w2sd


def models(name: str, ratio: float) -> tuple[Denoiser, Denoiser]:
    path = PATHS[name]
    strong = STRONG.denoiser(path)
    return strong, ratio_weak(ratio, strong, IDEAL.denoiser(path))


def told_the_level_below(model: Denoiser, levels: list[Level]) -> Denoiser:
    below = dict(itertools.pairwise(levels))
    return lambda x, level: model(x, below[level])


def run(name: str, num_steps: int, ratio: float, *, mode: str = "fused", strength: float = 1.0) -> Tensor:
    strong, weak = models(name, ratio)
    return w2sd(normal_quantiles(), schedule(name, num_steps), strong, weak, PATHS[name], mode=mode, strength=strength)


@pytest.mark.parametrize(("name", "left"), [("ddpm", 0.251), ("sdxl", 0.291), ("flow", 0.244)])
def test_sampling_the_strong_model_gives_its_biased_mass(name: str, left: float) -> None:
    strong, _ = models(name, 2)
    x = sample(normal_quantiles(), schedule(name, 50), strong, PATHS[name])
    assert left_mass(x) == pytest.approx(left, abs=0.005)
    assert name != "ddpm" or wasserstein(x, IDEAL, 2) > 3.0


@pytest.mark.parametrize(
    ("name", "mode", "left"),
    [
        ("ddpm", "fused", 0.487),
        ("ddpm", "paper", 0.467),
        ("ddpm", "release", 0.455),
        ("sdxl", "fused", 0.496),
        ("sdxl", "paper", 0.486),
        ("sdxl", "release", 0.475),
        ("flow", "fused", 0.512),
        ("flow", "paper", 0.516),
    ],
)
def test_a_weak_model_of_twice_the_bias_makes_the_samples_ideal(name: str, mode: str, left: float) -> None:
    x = run(name, 50, 2.0, mode=mode)
    assert left_mass(x) == pytest.approx(left, abs=0.01)
    if (name, mode) == ("ddpm", "fused"):
        assert wasserstein(x, IDEAL, 2) < 0.5


def test_telling_the_weak_model_the_lower_level_overshoots() -> None:
    levels = schedule("ddpm", 50)
    strong, weak = models("ddpm", 2.0)
    x = w2sd(normal_quantiles(), levels, strong, told_the_level_below(weak, levels), PATHS["ddpm"])
    assert left_mass(x) == pytest.approx(0.522, abs=0.015)


@pytest.mark.parametrize(("name", "left"), [("ddpm", 0.402), ("flow", 0.413)])
def test_a_real_weak_mixture_gains_and_does_not_overcorrect(name: str, left: float) -> None:
    path, levels = PATHS[name], schedule(name, 50)
    strong, weak = STRONG.denoiser(path), logit_weak(2).denoiser(path)
    x = w2sd(normal_quantiles(), levels, strong, weak, path, mode="fused")
    plain = sample(normal_quantiles(), levels, strong, path)
    assert left_mass(x) == pytest.approx(left, abs=0.01)
    assert left_mass(plain) + 0.1 < left_mass(x) < 0.5


@pytest.mark.parametrize(("strength", "left"), [(0.5, 0.323), (1.0, 0.390), (2.0, 0.501), (3.0, 0.589)])
def test_strength_scales_the_gain(strength: float, left: float) -> None:
    path = PATHS["ddpm"]
    strong, weak = STRONG.denoiser(path), logit_weak(2).denoiser(path)
    x = w2sd(normal_quantiles(), schedule("ddpm", 20), strong, weak, path, mode="fused", strength=strength)
    assert left_mass(x) == pytest.approx(left, abs=0.01)


@pytest.mark.parametrize("name", ["ddpm", "flow"])
def test_a_zero_gap_leaves_the_strong_model_alone(name: str) -> None:
    strong, same = models(name, 1.0)
    x, levels, path = normal_quantiles(), schedule(name, 50), PATHS[name]
    plain = sample(x, levels, strong, path)
    fused = w2sd(x, levels, strong, same, path, mode="fused")
    torch.testing.assert_close(fused, plain, rtol=0, atol=1e-10)
    torch.testing.assert_close(by_autoguidance(x, levels, strong, same, path), plain, rtol=0, atol=1e-10)


def test_the_mass_rises_with_the_gap_and_is_best_at_ratio_2() -> None:
    ratios = (-2.0, -1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
    left = {ratio: left_mass(run("ddpm", 50, ratio)) for ratio in ratios}
    masses = [left[ratio] for ratio in ratios]
    assert all(a < b for a, b in itertools.pairwise(masses))
    assert left[-1.0] < 0.06
    assert left[0.0] < 0.12
    assert left[3.0] > 0.6
    assert min(ratios, key=lambda ratio: abs(left[ratio] - 0.5)) == 2.0


def test_swapped_roles_land_on_the_weak_model() -> None:
    strong, weak = models("ddpm", 2.0)
    x, levels, path = normal_quantiles(), schedule("ddpm", 50), PATHS["ddpm"]
    swapped = w2sd(x, levels, strong, strong, path, mode="fused", reflector=weak)
    weakly = sample(x, levels, weak, path)
    assert left_mass(swapped) == pytest.approx(left_mass(weakly), abs=0.015)


@pytest.mark.parametrize("name", ["ddpm", "flow"])
def test_autoguidance_is_plain_sampling_with_the_extrapolated_prediction(name: str) -> None:
    strong, weak = models(name, 2.0)
    x, levels, path = normal_quantiles(), schedule(name, 50), PATHS[name]
    expected = sample(x, levels, lambda x, level: 2 * strong(x, level) - weak(x, level), path)
    torch.testing.assert_close(by_autoguidance(x, levels, strong, weak, path), expected, rtol=0, atol=1e-10)
    third = sample(x, levels, lambda x, level: 1.3 * strong(x, level) - 0.3 * weak(x, level), path)
    actual = by_autoguidance(x, levels, strong, weak, path, weight=0.3)
    torch.testing.assert_close(actual, third, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["ddpm", "flow"])
def test_fused_w2sd_converges_to_the_ideal_at_first_order_in_the_steps(name: str) -> None:
    distances = [wasserstein(run(name, num_steps, 2.0), IDEAL, 1) for num_steps in (25, 50, 100)]
    for coarse, fine in itertools.pairwise(distances):
        assert 1.7 <= coarse / fine <= 2.2


@pytest.mark.parametrize(
    ("mode", "ratio"), [("paper", 0.860), ("release", 0.848), ("lower level", 0.806), ("fused", 1)]
)
def test_without_a_gap_all_but_the_fused_mode_smooth_detail(mode: str, ratio: float) -> None:
    """Standard deviation against plain sampling, along a direction of variance .05 (SDXL schedule, T 50, lambda 49)."""
    path, levels = PATHS["sdxl"], schedule("sdxl", 50)
    model = Mixture(means=((0.0,),), weights=(1.0,), std=0.05**0.5).denoiser(path)
    weak = told_the_level_below(model, levels) if mode == "lower level" else model
    x = torch.ones(1, 1, dtype=torch.float64)  # every move is linear, so one number carries the deviation
    reflected = w2sd(x, levels, model, weak, path, mode="paper" if mode == "lower level" else mode)
    plain = sample(x, levels, model, path)
    assert (reflected / plain).item() == pytest.approx(ratio, abs=1e-10 if mode == "fused" else 0.003)


def test_four_modes_in_the_plane_come_closer_to_their_ideal_weights() -> None:
    means, path, levels = ((-4.0, -4.0), (-4.0, 4.0), (4.0, -4.0), (4.0, 4.0)), PATHS["ddpm"], schedule("ddpm", 20)
    strong_weights = torch.tensor([0.08, 0.24, 0.24, 0.44], dtype=torch.float64)
    weak_weights = strong_weights.square() / strong_weights.square().sum()  # the logit family at ratio 2
    strong = Mixture(means, tuple(strong_weights.tolist())).denoiser(path)
    weak = Mixture(means, tuple(weak_weights.tolist())).denoiser(path)
    noise = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def divergence(x: Tensor) -> float:
        """KL of the mode frequencies from uniform."""
        mode = torch.cdist(x, torch.tensor(means, dtype=torch.float64)).argmin(1)
        share = torch.bincount(mode, minlength=4).double() / len(mode)
        return (share * (4 * share).log()).sum().item()

    plain = divergence(sample(noise, levels, strong, path))
    for mode in ("paper", "fused"):
        assert divergence(w2sd(noise, levels, strong, weak, path, mode=mode)) < plain / 2
    assert divergence(w2sd(noise, levels, strong, strong, path, mode="fused", reflector=weak)) > plain * 2
