"""The digits' DiT-MoE: honest data, a judge, and training that can be resumed."""

import pytest
import torch
from experiments.digits import components, training
from experiments.digits.judge import Judge, load_judge, save_judge
from experiments.training import Phase
from sklearn.datasets import load_digits

from bridges.dit_moe.demo import digits
from w2sd_video.errors import UserError

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
