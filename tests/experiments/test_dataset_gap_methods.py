"""The dataset gap's exact models against their densities, and its methods on them."""

import math
from dataclasses import replace

import pytest
import torch
from experiments.dataset_gap import expectation
from experiments.dataset_gap.networks import sampling_levels, sampling_path
from experiments.dataset_gap.scoring import METHODS, Method, make

from w2sd_video.core import FlowPath, Level, NoisePath


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
    levels = sampling_levels(path, steps)
    assert len(levels) == steps + 1
    sampling_path(path).check(levels)
    assert levels[0].timestep == (1000 if path == "flow" else 999)
    if path == "flow":
        assert levels[-1].sigma == 0 and levels[0].alpha == 0
