"""Measures of sets of samples, where the answer is known, and their intervals."""

from __future__ import annotations

import math

import pytest
import torch
from experiments.measures import Measure, frechet_distance, inception_score, measure_interval, weighted_mean

HALF = torch.arange(200) % 2 == 0


def plain(measure: Measure, count: int) -> float:
    """The measure of `count` samples, each counting once."""
    return measure(torch.ones(1, count, dtype=torch.float64)).item()


def normal(count: int, size: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(count, size, generator=generator, dtype=torch.float64)


def test_the_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    """Diagonal covariances: the squared distance of means plus that of standard deviations."""
    base = normal(400, 3, torch.Generator().manual_seed(0))
    centred = base - base.mean(dim=0)
    values, vectors = torch.linalg.eigh(centred.T.cov())
    white = centred @ vectors / values.sqrt()  # mean 0 and covariance 1, exactly
    stds, mean = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([0.3, 0.0, -1.0]).double()
    found = plain(frechet_distance(white * stds + mean, white), 400)
    assert found == pytest.approx((mean.square().sum() + (stds - 1).square().sum()).item(), rel=1e-9)


def test_the_frechet_distance_is_0_to_itself_also_where_features_never_vary() -> None:
    features = normal(100, 5, torch.Generator().manual_seed(1))
    features[:, 4] = 0.0
    # Root of rounding: the covariance's error of 1e-16 enters as its square root.
    assert abs(plain(frechet_distance(features, features), 100)) < 1e-6


def test_a_sample_that_counts_twice_counts_as_two_samples() -> None:
    generator = torch.Generator().manual_seed(2)
    features, reference = normal(50, 4, generator), normal(80, 4, generator)
    probabilities = normal(50, 10, generator).softmax(dim=1)
    times = torch.randint(0, 4, (50,), generator=generator)
    copies = torch.arange(50).repeat_interleave(times)
    correct = torch.arange(50) % 2 == 0
    weights = torch.stack([torch.ones(50), times]).double()
    for measure, copied in (
        (weighted_mean(correct), weighted_mean(correct[copies])),
        (inception_score(probabilities), inception_score(probabilities[copies])),
        (frechet_distance(features, reference), frechet_distance(features[copies], reference)),
    ):
        assert measure(weights).tolist() == pytest.approx([plain(measure, 50), plain(copied, len(copies))], rel=1e-9)


def test_the_inception_score_is_the_number_of_classes_shown_with_certainty() -> None:
    certain = torch.eye(10, dtype=torch.float64).repeat(3, 1)
    assert plain(inception_score(certain), 30) == pytest.approx(10)
    assert plain(inception_score(certain[:1].expand(30, 10)), 30) == pytest.approx(1)
    unsure = torch.full((30, 10), 0.1, dtype=torch.float64)
    assert plain(inception_score(unsure), 30) == pytest.approx(1), "it never knows: all the same"


def test_intervals_hold_the_number_and_a_sample_differs_from_itself_by_exactly_0() -> None:
    share = weighted_mean(HALF)
    found = measure_interval(share, 200, draws=300, biased=False)
    assert found.low is not None and found.high is not None
    assert found.low < found.value == 0.5 < found.high
    # A share of one half of 200 has the standard deviation 0.035; the interval is about 4 of them wide.
    assert found.high - found.low == pytest.approx(4 * math.sqrt(0.25 / 200), rel=0.2)
    same = measure_interval(share, 200, share, draws=300, biased=False)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_the_bias_of_a_small_samples_frechet_distance_is_taken_off() -> None:
    # Of samples of the reference itself, the distance is above 0 for finite counts, and hardly after correction.
    generator = torch.Generator().manual_seed(3)
    reference = normal(20_000, 4, generator)
    uncorrected, corrected = [], []
    for _ in range(20):
        distance = frechet_distance(normal(100, 4, generator), reference)
        uncorrected.append(plain(distance, 100))
        corrected.append(measure_interval(distance, 100, draws=60).value)
    assert min(uncorrected) > 0
    assert abs(sum(corrected)) < sum(uncorrected) / 3
