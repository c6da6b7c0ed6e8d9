"""The dataset gap's statistics against brute force and closed forms, and its exact models against their densities."""

import itertools
import math

import pytest
import torch
from experiments.dataset_gap import expectation
from experiments.dataset_gap.methods import METHODS, Method, make
from experiments.dataset_gap.networks import sampling_levels
from experiments.dataset_gap.statistics import (
    NORMAL_QUANTILE,
    frechet,
    frechet_interval,
    mcnemar,
    mean_interval,
    paired_difference,
    wilson,
)

from w2sd_video.core import FlowPath, Level, NoisePath


@pytest.mark.parametrize(("successes", "count"), [(0, 20), (3, 20), (66, 200), (1000, 2000), (7, 7)])
def test_wilsons_interval_is_all_shares_that_a_score_test_accepts(successes, count):
    grid = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    share = successes / count
    accepted = grid[(share - grid).abs() <= NORMAL_QUANTILE * (grid * (1 - grid) / count).sqrt() + 1e-12]
    found = wilson(successes, count)
    assert found.value == share
    # The grid has steps of 5e-6; at its ends the test's tolerance of 1e-12 accepts as much again.
    assert found.low == pytest.approx(accepted.min().item(), abs=2e-5)
    assert found.high == pytest.approx(accepted.max().item(), abs=2e-5)


def test_the_normal_quantile_leaves_five_percent_outside():
    assert math.erf(NORMAL_QUANTILE / math.sqrt(2)) == pytest.approx(0.95, abs=1e-12)


def test_a_share_of_nothing_has_no_interval():
    with pytest.raises(ValueError, match="nothing"):
        wilson(0, 0)


def changed(gained: int, lost: int, same: int) -> tuple[torch.Tensor, torch.Tensor]:
    one = torch.tensor([True] * gained + [False] * lost + [True] * same)
    other = torch.tensor([False] * gained + [True] * lost + [True] * same)
    return one, other


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 5), (8, 2), (1, 9), (6, 5)])
def test_mcnemars_probability_is_a_count_over_all_ways_that_the_changes_could_have_gone(gained, lost):
    total = gained + lost
    as_uneven = sum(
        abs(2 * sum(ways) - total) >= abs(gained - lost) for ways in itertools.product((0, 1), repeat=total)
    )
    assert mcnemar(*changed(gained, lost, 4)) == pytest.approx(as_uneven / 2**total, rel=1e-9)


def test_the_paired_interval_is_that_of_resampled_samples():
    one, other = changed(60, 20, 120)
    found = paired_difference(one, other)
    assert found.value == pytest.approx(0.2)
    picks = torch.randint(200, (20_000, 200), generator=torch.Generator().manual_seed(7))
    means = (one.double() - other.double())[picks].mean(dim=1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    # A quantile of 2000 draws has a standard error of about sqrt(.025 * .975 / 2000) / density = 0.004 here (sd .042).
    assert found.low == pytest.approx(low, abs=0.016)
    assert found.high == pytest.approx(high, abs=0.016)


def test_samples_that_never_differ_have_no_width():
    one, _ = changed(0, 0, 50)
    assert paired_difference(one, one) == (0.0, 0.0, 0.0)


def test_the_interval_of_a_mean_is_about_two_standard_errors():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = mean_interval(values)
    half = NORMAL_QUANTILE * values.std().item() / 20
    assert found.value == pytest.approx(values.mean().item())
    # Quantiles of 2000 draws: 4 standard errors of 0.06 standard errors of the mean.
    assert found.low == pytest.approx(found.value - half, abs=0.25 * half)
    assert found.high == pytest.approx(found.value + half, abs=0.25 * half)


def white(count: int, size: int) -> torch.Tensor:
    """Numbers with mean 0 and covariance 1, exactly."""
    base = torch.randn(count, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    centred = base - base.mean(dim=0)
    values, vectors = torch.linalg.eigh(centred.T.cov())
    return centred @ vectors / values.sqrt()


def test_the_frechet_distance_is_the_closed_form_of_gaussians():
    base = white(300, 3)
    stds, mean = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([0.3, 0.0, -1.0]).double()
    expected = (mean.square().sum() + (stds - 1).square().sum()).item()
    assert frechet(base * stds + mean, base).item() == pytest.approx(expected, rel=1e-9)
    assert frechet(base, base * stds + mean).item() == pytest.approx(expected, rel=1e-9)


def test_weights_count_samples_as_copies_do():
    features, reference = white(40, 3) * 2 + 1, white(60, 3)
    times = torch.arange(40) % 3
    copied = features.repeat_interleave(times, dim=0)
    found = frechet(features, reference, times.double()[None])
    assert found.item() == pytest.approx(frechet(copied, reference).item(), rel=1e-9)


def test_the_distance_above_oneself_is_nothing():
    features, reference = white(50, 3) + 1, white(60, 3)
    found = frechet_interval(features, reference, features, draws=50)
    assert found == (0.0, 0.0, 0.0)


# --- exact models ----------------------------------------------------------------------------------------------------


def gaussian(seed: int) -> expectation.Gaussian:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))[0]
    return expectation.Gaussian(
        torch.randn(4, generator=generator, dtype=torch.float64) * 2,
        vectors,
        torch.rand(4, generator=generator, dtype=torch.float64) + 0.1,
    )


@pytest.mark.parametrize("path", [NoisePath(), FlowPath()], ids=["noise", "flow"])
def test_exact_models_predict_by_the_gradient_of_their_density(path):
    """The density written with torch.distributions, its score by automatic differentiation."""
    classes, share = (gaussian(1), gaussian(2)), 0.2
    level = Level(300, 0.6, 0.4 if isinstance(path, FlowPath) else 0.8)
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64).requires_grad_()
    parts = []
    for one, weight in zip(classes, (1 - share, share), strict=True):
        covariance = one.vectors @ one.values.diag() @ one.vectors.T
        marginal = level.alpha**2 * covariance + level.sigma**2 * torch.eye(4, dtype=torch.float64)
        law = torch.distributions.MultivariateNormal(level.alpha * one.mean, marginal)
        parts.append(law.log_prob(x) + math.log(weight))
    (score,) = torch.autograd.grad(torch.logsumexp(torch.stack(parts), 0).sum(), x)
    noise = -level.sigma * score
    expected = noise if isinstance(path, NoisePath) else noise - (x - level.sigma * noise) / level.alpha
    found = expectation.ExactSide(classes, share, path)(x.detach(), level)
    assert torch.allclose(found, expected.detach(), atol=1e-10)


def test_an_exact_flow_leaves_pure_noise_towards_the_mean_of_all_pictures():
    classes = (gaussian(1), gaussian(2))
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = expectation.ExactSide(classes, 0.25, FlowPath())(x, Level(1000, 0.0, 1.0))
    assert torch.allclose(found, x - (0.75 * classes[0].mean + 0.25 * classes[1].mean), atol=1e-12)


def test_the_static_share_of_the_papers_proportions_is_five_sevenths():
    """Odds of 1:2 squared over odds of 1:10 are 10:4."""
    assert expectation.static_share(1 / 3, 1 / 11) == pytest.approx(5 / 7, rel=1e-12)
    assert expectation.static_share(1 / 3, 1 / 11, strength=0) == pytest.approx(1 / 3, rel=1e-12)
    assert expectation.static_share(1 / 3, 1 / 3, strength=5) == pytest.approx(1 / 3, rel=1e-12)


# --- methods on exact models -----------------------------------------------------------------------------------------


def exact_world(path):
    classes = (gaussian(1), gaussian(2))
    shares = {"weak": 1 / 11, "strong": 1 / 3, "ideal": 1 / 2}
    return {side: expectation.ExactSide(classes, share, path) for side, share in shares.items()}


def small(method: Method) -> Method:
    """The method with T 6 in place of 50."""
    from dataclasses import replace

    lam = {0: 0, 25: 3, 49: 5}[method.num_reflections]
    return replace(method, steps=16 if method.steps > 50 else 6, num_reflections=lam)


@pytest.mark.parametrize("name", METHODS)
def test_methods_cost_what_they_say(name):
    method, path = small(METHODS[name]), NoisePath()
    noise = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = make(method, noise, exact_world(path), path, lambda steps: sampling_levels("noise", steps))
    if method.partner is None:
        expected = method.steps
    elif method.algorithm == "autoguided":
        expected = 2 * method.steps
    else:
        expected = method.steps + 2 * method.num_reflections
    assert made.num_evaluations == expected
    assert (made.gap > 0) == (method.partner is not None and method.algorithm == "w2sd" and name != "zero-gap-fused")


def test_equal_evaluations_are_equal():
    noise = torch.zeros(1, 4, dtype=torch.float64)
    counts = {
        name: make(
            METHODS[name], noise, exact_world(NoisePath()), NoisePath(), lambda steps: sampling_levels("noise", steps)
        ).num_evaluations
        for name in ("strong-equal", "w2sd", "w2sd-fused", "zero-gap", "s2wd", "swapped")
    }
    assert set(counts.values()) == {148}


@pytest.mark.parametrize("path", ["noise", "flow"])
def test_no_reflections_no_strength_and_no_gap_are_plain_sampling(path):
    from dataclasses import replace

    from experiments.dataset_gap.networks import sampling_path

    sides = exact_world(sampling_path(path))
    noise = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def pictures(method: Method) -> torch.Tensor:
        return make(method, noise, sides, sampling_path(path), lambda steps: sampling_levels(path, steps)).pictures

    plain = pictures(small(METHODS["strong"]))
    for mode in ("paper", "fused"):
        reflected = small(replace(METHODS["w2sd"], mode=mode))
        assert torch.equal(pictures(replace(reflected, num_reflections=0)), plain)
        assert torch.equal(pictures(replace(reflected, strength=0.0)), plain)
        assert not torch.equal(pictures(reflected), plain)
    assert torch.equal(pictures(small(METHODS["zero-gap-fused"])), plain)


@pytest.mark.parametrize("path", ["noise", "flow"])
@pytest.mark.parametrize("steps", [5, 50, 148])
def test_sampling_grids_begin_where_training_ends(path, steps):
    from experiments.dataset_gap.networks import sampling_path

    levels = sampling_levels(path, steps)
    assert len(levels) == steps + 1
    sampling_path(path).check(levels)
    assert levels[0].timestep == (1000 if path == "flow" else 999)
    if path == "flow":
        assert levels[-1].sigma == 0 and levels[0].alpha == 0
