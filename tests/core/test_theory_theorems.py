"""Theorems 1 to 3 on exact mixtures, every term written out here a second time."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from experiments.theory.gaps import Triple, fisher_ratio, terms
from experiments.theory.mixtures import IDEAL, PATHS, STRONG, Mixture, logit_weak, normal_quantiles, schedule
from experiments.theory.theorems import bound_numbers, line_numbers, random_triple, theorem_1_numbers
from torch import Tensor

from w2sd_video.core import Level, NoisePath, reflect_fused

LEVELS = [Level(0, 1.0, 0.0), Level(0, 0.9, 0.436), Level(0, 0.5, 0.866), Level(0, 0.1, 0.995)]


def log_density(x: Tensor, means: Tensor, weights: Tensor, covariance: Tensor) -> Tensor:
    """Of a mixture at x [N, D], component by component with the library's own normal distribution."""
    parts = [
        weight.log() + torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)
        for mean, weight in zip(means, weights, strict=True)
    ]
    return torch.logsumexp(torch.stack(parts), 0)


def score(x: Tensor, means: Tensor, weights: Tensor, covariance: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(log_density(x, means, weights, covariance).sum(), x)[0]


def at(level: Level, mixture: Mixture) -> tuple[Tensor, Tensor, Tensor]:
    means = level.alpha * torch.tensor(mixture.means, dtype=torch.float64)
    variance = (level.alpha * mixture.std) ** 2 + level.sigma**2
    covariance = variance * torch.eye(means.shape[1], dtype=torch.float64)
    return means, torch.tensor(mixture.weights, dtype=torch.float64), covariance


@pytest.mark.parametrize("level", LEVELS[1:])
def test_density_score_and_denoisers_of_a_mixture_belong_together(level: Level) -> None:
    mixture = Mixture(((-4.0, 1.0), (2.0, 3.0), (0.0, -5.0)), (0.2, 0.5, 0.3), std=0.7)
    x = 3 * torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(
        mixture.log_density(x, level), log_density(x, *at(level, mixture)), rtol=1e-10, atol=1e-10
    )
    expected = score(x, *at(level, mixture))
    torch.testing.assert_close(mixture.score(x, level), expected, rtol=1e-8, atol=1e-10)
    eps, velocity = (mixture.denoiser(PATHS[name])(x, level) for name in ("ddpm", "flow"))
    torch.testing.assert_close(eps, -level.sigma * expected, rtol=1e-8, atol=1e-10)
    clean = (x + level.sigma**2 * expected) / level.alpha
    torch.testing.assert_close(velocity, (x - clean) / level.sigma, rtol=1e-8, atol=1e-9)


def test_the_remainder_of_a_reflection_is_of_second_order_and_of_none_in_the_fused_form() -> None:
    """Theorem 1, for both levels an inversion may be told; with fixed points the third order shows for longer."""
    numbers = theorem_1_numbers()
    for name, t in itertools.product(("vp", "flow"), (0.3, 0.6)):
        for kind in ("level of x", "level below"):
            orders = numbers[name][f"{kind}, t {t}"]["orders"]
            assert all(1.8 <= order <= 2.15 for order in orders[1:]), (name, kind, t, orders)  # intervals from .02 on
        assert 1.9 <= numbers[name][f"fixed point 2, t {t}"]["orders"][-1] <= 2.1
        assert max(numbers[name][f"fused, t {t}"]["remainder"]) <= 1e-12


def test_the_printed_coefficient_of_theorem_1_is_twice_what_a_step_moves() -> None:
    ratios = theorem_1_numbers()["printed_over_true"]
    assert all(2 < b < a < 2.2 for a, b in itertools.pairwise(ratios))
    assert ratios[-1] == pytest.approx(2, abs=0.02)


@pytest.mark.parametrize("name", ["sdxl", "flow"])
def test_the_fused_move_in_terms_of_clean_estimates(name: str) -> None:
    """x~ = x + c (x0_weak - x0_strong), c = -(a - a^2 s' / (a' s)) for eps held fixed, -(t - t') / t for v."""
    path, levels = PATHS[name], schedule(name, 20)
    x, weak = 3 * normal_quantiles(101), logit_weak(2)
    for start, end in itertools.pairwise(levels):
        a, s = start.alpha, start.sigma
        factor = (s - end.sigma) / s if name == "flow" else a - a**2 * end.sigma / (end.alpha * s)
        expected = x - factor * (weak.clean(x, start) - STRONG.clean(x, start))
        actual = reflect_fused(x, start, end, STRONG.denoiser(path), weak.denoiser(path), path)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("condition", [1.0, 25.0])
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_the_terms_of_theorem_2_are_those_of_its_proof(seed: int, condition: float) -> None:
    triple, x = random_triple(seed, condition)
    found = terms(triple, x)
    means, covariance = triple.means, triple.covariance
    assert torch.linalg.cond(covariance).item() == pytest.approx(condition, rel=1e-9)
    ideal, strong, weak = (score(x, means, w, covariance) for w in (triple.ideal, triple.strong, triple.weak))
    torch.testing.assert_close(found.weak_to_strong, strong - weak, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(found.strong_to_ideal, ideal - strong, rtol=1e-9, atol=1e-10)
    # Eq. 19, 23 and 26 of one latent, component by component.
    point = x[7]
    densities = {
        name: log_density(point[None], means, weights, covariance).exp().item()
        for name, weights in (("ideal", triple.ideal), ("strong", triple.strong), ("weak", triple.weak))
    }
    epsilon, above, below = 0.0, 0.0, torch.zeros(2, dtype=torch.float64)
    for k in range(len(means)):
        share = triple.ideal[k].item() / densities["ideal"]
        biases = [getattr(triple, n)[k].item() / densities[n] / share - 1 for n in ("strong", "weak")]
        normal = torch.distributions.MultivariateNormal(means[k], covariance).log_prob(point).exp().item()
        epsilon = max(epsilon, abs(biases[1] / biases[0] - 2))
        above += means[k].norm().item() * triple.ideal[k].item() * abs(biases[0]) * normal
        below += means[k] * triple.ideal[k] * biases[0] * normal
    assert found.epsilon[7].item() == pytest.approx(epsilon, rel=1e-8)
    assert found.efficiency[7].item() == pytest.approx(above / below.norm().item(), rel=1e-8)
    bound = found.efficiency[7] * found.epsilon[7] * (ideal - strong)[7].norm()
    assert found.bound[7].item() == pytest.approx(bound.item(), rel=1e-8)


def test_theorem_2_bounds_the_error_for_round_components_and_not_for_flat_ones() -> None:
    """The last step of Eq. 27 takes |Sigma^-1| |v| for |Sigma^-1 v|: true for round components alone."""
    round_, flat = bound_numbers(1.0), bound_numbers(100.0)
    assert round_["points"] > 5000 and round_["violations"] == 0
    assert round_["largest_ratio"] <= 1 + 1e-9
    assert flat["violations"] > 0 and flat["largest_ratio"] > 1.5


@pytest.mark.parametrize("level", LEVELS)
def test_on_a_line_with_symmetric_modes_the_bound_of_theorem_2_is_an_equality(level: Level) -> None:
    x = torch.linspace(-8, 8, 201, dtype=torch.float64)[:, None]
    found = terms(Triple.at(level, IDEAL, STRONG, logit_weak(2)), x)
    kept = found.strong_to_ideal.norm(dim=1) > 1e-6
    assert kept.sum() > 10
    torch.testing.assert_close(found.efficiency[kept], torch.ones_like(found.efficiency[kept]), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.error[kept], found.bound[kept], rtol=1e-4, atol=0)


def test_a_real_mixture_has_no_single_epsilon() -> None:
    """The ratio of weights' logits is 2, that of biases 1 + 3 on one mode's side and 1 + 1/3 on the other's."""
    smallest, median, largest = line_numbers()["mixture_epsilon"]
    assert largest == pytest.approx(2.0, abs=1e-3)
    assert smallest < 0.1
    assert median == pytest.approx(2 / 3, abs=0.02)


def test_mixtures_of_other_components_are_refused() -> None:
    with pytest.raises(ValueError, match="more than their weights"):
        Triple.at(LEVELS[0], IDEAL, STRONG, Mixture(((-4.0,), (5.0,)), (0.5, 0.5)))


@pytest.mark.parametrize("ratio", [-1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
def test_the_fisher_divergence_falls_by_the_square_of_epsilon(ratio: float) -> None:
    """Theorem 3, with equality for an exact ratio."""
    for level in LEVELS[1:]:
        assert fisher_ratio(IDEAL, STRONG, ratio, level) == pytest.approx((ratio - 2) ** 2, rel=1e-6, abs=1e-12)


def test_the_fisher_divergence_of_a_real_mixture_is_that_of_its_scores() -> None:
    level = Level(0, 0.5, 0.866)
    x = torch.linspace(-12, 12, 2401, dtype=torch.float64)[:, None]
    density = log_density(x, *at(level, IDEAL)).exp()
    ideal, strong, weak = (score(x, *at(level, model)) for model in (IDEAL, STRONG, logit_weak(2)))
    reflected = (density[:, None] * (ideal - 2 * strong + weak) ** 2).sum()
    expected = (reflected / (density[:, None] * (ideal - strong) ** 2).sum()).item()
    found = fisher_ratio(IDEAL, STRONG, logit_weak(2), level)
    assert found == pytest.approx(expected, rel=1e-6)
    assert found == pytest.approx(0.2646, abs=0.005)


def test_the_levels_of_eq_1_move_by_half_its_coefficient_to_the_limit() -> None:
    """With alpha 1 a step moves by sigma (sigma - sigma') times the score: half the change of sigma^2."""
    start, end = Level(1, 1.0, 2.0), Level(0, 1.0, 2.0 - 1e-6)
    assert NoisePath().gap_coefficient(start, end) * 2.0 == pytest.approx((4.0 - end.sigma**2) / 2, rel=1e-6)
    assert math.isclose(NoisePath().gap_coefficient(start, end), 1e-6, rel_tol=1e-9)
