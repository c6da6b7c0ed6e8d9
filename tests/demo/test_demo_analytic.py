"""The demo's comparison on a pair that needs no training: exact posterior means over clips with wrong captions."""

import pytest
import torch
from experiments.demo import components
from experiments.demo.videos import REFLECTIONS, STEPS
from experiments.engine import paired_interval

from tests.support.analytic_pair import ClipSpace, PosteriorMean, caption_log_posterior
from w2sd_video.core import Level, NoisePath, autoguidance, sample, w2sd
from w2sd_video.demo import oracle
from w2sd_video.demo.captions import ALL_ATTRIBUTES

COUNT = 120


@pytest.fixture(scope="module")
def right():
    """For each method, which of 120 videos the oracle reads as asked, all from the same noise."""
    scheduler = components.build_scheduler()
    scheduler.set_timesteps(STEPS)
    rates = scheduler.alphas_cumprod.double()
    steps = [int(t) for t in scheduler.timesteps] + [0]
    levels = [Level(t, float(rates[t].sqrt()), float((1 - rates[t]).sqrt())) for t in steps]
    space, path = ClipSpace(per_caption=6), NoisePath()
    wanted = torch.tensor(ALL_ATTRIBUTES).repeat(COUNT // len(ALL_ATTRIBUTES), 1)
    x = torch.randn(COUNT, space.clips.shape[1], generator=torch.Generator().manual_seed(1))
    strong, weak = (PosteriorMean(space, wanted, corruption) for corruption in (0.15, 0.30))
    few = {"num_reflections": REFLECTIONS}
    samples = {
        "weak": sample(x, levels, weak, path),
        "strong": sample(x, levels, strong, path),
        "w2sd": w2sd(x, levels, strong, weak, path, **few),
        "fused": w2sd(x, levels, strong, weak, path, mode="fused", **few),
        "zero-gap": w2sd(x, levels, strong, strong, path, **few),
        "zero-gap fused": w2sd(x, levels, strong, strong, path, mode="fused", **few),
        "swapped": w2sd(x, levels, weak, strong, path, **few),
        "autoguided": sample(x, levels, autoguidance(strong, weak), path),
        "ideal": sample(x, levels, PosteriorMean(space, wanted, 1e-9), path),
    }
    return {name: oracle.accuracy(space.decode(x), wanted).all(dim=1) for name, x in samples.items()}


def test_a_model_with_right_captions_is_always_right(right):
    assert right["ideal"].all()


def test_the_sides_are_as_accurate_as_their_captions(right):
    """Captions are right in all three attributes with 0.683 and 0.442; sampling noise over 120 videos is 0.045."""
    for side, expected in (("strong", 0.683), ("weak", 0.442)):
        assert abs(right[side].float().mean().item() - expected) < 0.045 * 4


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("strong", "weak"),
        ("w2sd", "strong"),
        ("fused", "strong"),
        ("w2sd", "zero-gap"),
        ("autoguided", "strong"),
        ("strong", "swapped"),
        ("weak", "swapped"),
    ],
)
def test_the_gap_works_in_the_expected_direction_with_its_interval(right, better, worse):
    low = paired_interval(right[better], right[worse]).low
    assert low > 0


def test_fused_zero_gap_is_the_strong_model_exactly(right):
    assert torch.equal(right["zero-gap fused"], right["strong"])


def test_clip_space_is_exact():
    """Distances between clips, all that a posterior mean depends on, are those in pixels."""
    space = ClipSpace(per_caption=1)
    pixels = space.decode(space.clips).flatten(1) * 2 - 1
    ours = torch.cdist(space.clips.double(), space.clips.double())
    assert torch.allclose(torch.cdist(pixels.double(), pixels.double()), ours, atol=1e-2)  # of distances up to 40


def test_caption_posteriors_sum_to_one():
    attributes = torch.tensor(ALL_ATTRIBUTES)
    total = caption_log_posterior(attributes, attributes, 0.3).exp().sum(dim=1)
    assert torch.allclose(total, torch.ones_like(total))
