"""The digits' DiT-MoE: honest data, measures that are right where the answer is known, training that can be resumed."""

import math

import pytest
import torch
from experiments.demo.loop import Phase
from experiments.digits import measures, training
from experiments.digits.judge import Judge, Reading, load_judge, save_judge
from sklearn.datasets import load_digits

from bridges.dit_moe.demo import components, digits
from w2sd_video.errors import UserError


def reading(features: torch.Tensor, probabilities: torch.Tensor | None = None) -> measures.Sample:
    count = len(features)
    given = torch.full((count, 10), 0.1, dtype=torch.float64) if probabilities is None else probabilities
    return measures.Sample(Reading(features, given), torch.arange(count) % 2 == 0)


def plain(measure: measures.Measure, sample: measures.Sample) -> float:
    """The measure of a sample in which every picture counts once."""
    return measure(sample, ones(len(sample.correct))[None]).item()


def ones(count: int) -> torch.Tensor:
    return torch.ones(count, dtype=torch.float64)


# --- the data --------------------------------------------------------------------------------------------------------


def test_the_parts_are_all_digits_once_and_the_test_part_is_a_quarter_of_each_class():
    parts = {part: digits.load(part) for part in digits.PARTS}
    pixels, targets = load_digits(return_X_y=True)
    rows = [tuple(row) for part in parts.values() for row in (part.scans.flatten(1) * 16).int().tolist()]
    assert sorted(rows) == sorted(tuple(row) for row in pixels.astype(int).tolist())
    counts = torch.from_numpy(targets).bincount()
    assert torch.equal(parts["test"].labels.bincount(), counts // 4)
    assert torch.equal(parts["train"].labels.bincount() + parts["test"].labels.bincount(), counts)


def test_an_unknown_part_is_refused():
    with pytest.raises(UserError, match="'tests'; choose one of train, test"):
        digits.load("tests")


def test_pictures_are_rgb_in_range_and_keep_each_scans_ink():
    scans = digits.load("test").scans
    pictures = digits.to_pictures(scans)
    assert pictures.shape == (445, 3, 32, 32)
    assert pictures.min() >= 0 and pictures.max() <= 1
    assert torch.equal(pictures[:, 0], pictures[:, 2])
    # Cubic interpolation of flat ink is flat: averaging gives it back.
    flat = torch.full((1, 1, 8, 8), 0.4)
    assert torch.allclose(digits.to_scans(digits.to_pictures(flat)), flat, atol=1e-6)
    again = digits.to_scans(pictures)
    nearest = torch.cdist(again.flatten(1), scans.flatten(1)).argmin(dim=1)
    assert torch.equal(nearest, torch.arange(445)), "each picture still shows its own scan"


# --- the measures ----------------------------------------------------------------------------------------------------


def test_the_frechet_distance_of_gaussians_is_the_closed_form():
    """Diagonal covariances: the squared distance of means plus that of standard deviations."""
    base = torch.randn(400, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    centred = base - base.mean(dim=0)
    values, vectors = torch.linalg.eigh(centred.T.cov())
    white = centred @ vectors / values.sqrt()  # mean 0 and covariance 1, exactly
    stds, mean = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([0.3, 0.0, -1.0]).double()
    found = plain(measures.frechet_distance(measures.moments(white)), reading(white * stds + mean))
    assert found == pytest.approx((mean.square().sum() + (stds - 1).square().sum()).item(), rel=1e-9)


def test_the_frechet_distance_is_0_to_itself_also_where_features_never_vary():
    features = torch.randn(100, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    features[:, 4] = 0.0
    # Root of rounding: the covariance's error of 1e-16 enters as its square root.
    assert abs(plain(measures.frechet_distance(measures.moments(features)), reading(features))) < 1e-6


def test_a_picture_that_counts_twice_counts_as_two_pictures():
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(50, 4, dtype=torch.float64, generator=generator)
    probabilities = torch.randn(50, 10, dtype=torch.float64, generator=generator).softmax(dim=1)
    times = torch.randint(0, 4, (50,), generator=generator)
    reference = measures.moments(torch.randn(80, 4, dtype=torch.float64, generator=generator))
    sample = reading(features, probabilities)
    copies = torch.arange(50).repeat_interleave(times)
    copied = measures.Sample(Reading(features[copies], probabilities[copies]), sample.correct[copies])
    for measure in (measures.accuracy, measures.inception_score, measures.frechet_distance(reference)):
        several = measure(sample, torch.stack([ones(50), times.double()]))
        assert several.tolist() == pytest.approx([plain(measure, sample), plain(measure, copied)], rel=1e-9)


def test_the_inception_score_is_the_number_of_classes_shown_with_certainty():
    certain = torch.eye(10, dtype=torch.float64).repeat(3, 1)
    features = torch.zeros(30, 1, dtype=torch.float64)
    assert plain(measures.inception_score, reading(features, certain)) == pytest.approx(10)
    assert plain(measures.inception_score, reading(features, certain[:1].expand(30, 10))) == pytest.approx(1)
    assert plain(measures.inception_score, reading(features)) == pytest.approx(1), "it never knows: all the same"


def test_intervals_hold_the_number_and_a_sample_differs_from_itself_by_exactly_0():
    weights = measures.resamples(200, draws=300)
    assert torch.equal(weights.sum(dim=1), ones(300) * 200)
    sample = reading(torch.zeros(200, 1, dtype=torch.float64))
    found = measures.interval(measures.accuracy, sample, weights)
    assert found.low < found.value == 0.5 < found.high
    # A share of one half of 200 has the standard deviation 0.035; the interval is about 4 of them wide.
    assert found.high - found.low == pytest.approx(4 * math.sqrt(0.25 / 200), rel=0.2)
    assert measures.interval(measures.accuracy, sample, weights, sample) == (0.0, 0.0, 0.0)


def test_the_bias_of_a_small_samples_frechet_distance_is_taken_off():
    # Of samples of the reference itself, the distance is above 0 for finite counts, and hardly after correction.
    generator = torch.Generator().manual_seed(3)
    reference = measures.moments(torch.randn(20_000, 4, generator=generator, dtype=torch.float64))
    distance, uncorrected, corrected = measures.frechet_distance(reference), [], []
    for _ in range(20):
        sample = reading(torch.randn(100, 4, generator=generator, dtype=torch.float64))
        uncorrected.append(plain(distance, sample))
        corrected.append(measures.interval(distance, sample, measures.resamples(100, draws=60)).value)
    assert min(uncorrected) > 0
    assert abs(sum(corrected)) < sum(uncorrected) / 3


# --- the judge and the training --------------------------------------------------------------------------------------


def test_a_judge_is_read_back_as_it_was_rounded(tmp_path):
    torch.manual_seed(0)
    judge = Judge().eval()
    save_judge(judge, tmp_path, test_accuracy=0.5)
    pictures = digits.to_pictures(digits.load("test").scans[:8])
    again = load_judge(tmp_path).read(pictures)
    # Half precision rounds each weight by at most 2^-11 of itself.
    assert torch.allclose(again.probabilities, judge.read(pictures).probabilities, atol=2**-9)
    with pytest.raises(UserError, match="does not exist; make it with scripts"):
        load_judge(tmp_path / "nowhere")


def test_the_judge_reads_8_bits_as_it_reads_fractions():
    torch.manual_seed(0)
    judge = Judge().eval()
    pictures = (digits.to_pictures(digits.load("test").scans[:8]) * 255).round().to(torch.uint8)
    assert torch.equal(judge.read(pictures).features, judge.read(pictures / 255).features)


def test_a_vaes_scaled_latents_have_unit_variance(tmp_path):
    seen = digits.load("train")
    part = digits.Digits(seen.scans[:64], seen.labels[:64])
    vae = training.train_vae(part, tmp_path, 0, Phase(2, steps=2, batch=4, learning_rate=1e-3, ema=0.9), True)
    latents = training.encode(vae, part) * vae.config.scaling_factor
    assert latents.shape == (64, 4, 8, 8)
    # Folded in float32 and rounded to float16, 2^-11 a weight.
    assert torch.allclose(latents.mean(dim=(0, 2, 3)), torch.zeros(4), atol=0.02)
    assert torch.allclose(latents.std(dim=(0, 2, 3)), torch.ones(4), atol=0.02)


def test_the_loss_reaches_every_weight_of_every_expert_and_gate_that_was_used():
    torch.manual_seed(0)
    network = components.build_network()
    for parameter in network.parameters():  # the zeros it starts from would let no gradient through
        torch.nn.init.normal_(parameter, std=0.05)
    latents, labels = torch.randn(32, 4, 8, 8), torch.arange(32) % 10
    training.diffusion_loss(network, latents, labels, 32)(torch.Generator().manual_seed(0)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    with network.recording() as record, torch.no_grad():
        network(latents, torch.full((32,), 500), labels)
    used = record.loads()[0] > 0  # [layers, experts]
    assert used.double().mean() > 0.5
    for block, loads in zip(network.blocks, used, strict=True):
        moved = block.moe.experts.w_in.grad.abs().sum(dim=(1, 2)) > 0
        assert moved[loads].all()
