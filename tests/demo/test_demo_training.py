"""The demo's training: stopped and continued it ends where it would have; its parts are the real formats' parts."""

from pathlib import Path

import pytest
import torch
from experiments.demo import components, training
from experiments.training import Phase, normalise_latents, train
from torch import nn

from w2sd_video.demo import CAPTIONS, parse_caption, world
from w2sd_video.errors import UserError

PHASE = Phase(1, steps=6, batch=4, learning_rate=1e-2, ema=0.9)


def run(folder: Path, stop_at: int | None = None, seed: int = 0) -> nn.Module:
    """A linear layer after training; `stop_at` kills it before that step."""
    torch.manual_seed(0)
    network, calls = nn.Linear(3, 3), 0

    def loss(generator: torch.Generator) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls - 1 == stop_at:
            raise KeyboardInterrupt
        return (network(torch.randn(4, 3, generator=generator)) - 1).square().mean()

    train("part", PHASE, network, loss, folder, seed, quiet=True, save_every=0.0)
    return network


def test_training_that_was_stopped_ends_bit_for_bit_where_unbroken_training_does(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "broken").mkdir()
    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", stop_at=3)
    broken = run(tmp_path / "broken")
    assert torch.equal(whole.weight, broken.weight)
    assert torch.equal(whole.bias, broken.bias)


def test_finished_training_is_read_and_not_repeated(tmp_path):
    first = run(tmp_path)
    again = run(tmp_path, stop_at=0)  # would raise if it made a step
    assert torch.equal(first.weight, again.weight)


def test_checkpoints_of_another_seed_are_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(UserError, match=r"other settings.*--work"):
        run(tmp_path, seed=1)


def test_folding_the_latents_statistics_changes_no_picture():
    torch.manual_seed(0)
    vae = components.build_vae().eval()
    pixels = world.random_frames(8, torch.Generator().manual_seed(0)).frames[:, 0] * 2 - 1
    with torch.no_grad():
        before = vae.encode(pixels).latent_dist
        picture = vae.decode(before.mean).sample
        mean, std = before.mean.mean(dim=(0, 2, 3)), before.mean.std(dim=(0, 2, 3))
        normalise_latents(vae, mean, std)
        after = vae.encode(pixels).latent_dist
        assert torch.allclose(after.mean.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-5)
        assert torch.allclose(after.mean.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-5)
        assert torch.allclose(after.std * std[:, None, None], before.std, rtol=1e-4)
        assert torch.allclose(vae.decode(after.mean).sample, picture, atol=1e-5)


def test_each_caption_is_seven_tokens_and_any_text_can_be_encoded():
    tokenizer = components.build_tokenizer()
    assert all(len(tokenizer(caption).input_ids) == 7 for caption in CAPTIONS)
    assert (
        len(tokenizer("Größe, 東京 and 🦊", padding="max_length", truncation=True).input_ids) == components.MAX_TOKENS
    )


def test_a_bank_holds_every_caption_and_finds_its_embedding():
    attributes = torch.tensor([parse_caption(caption) for caption in CAPTIONS])
    hidden, pooled = torch.arange(120.0)[:, None, None].expand(120, 2, 3), torch.arange(120.0)[:, None]
    bank = training.Bank(torch.zeros(120, 4, 8, 8, 8), attributes, hidden, pooled)
    found, found_pooled = bank.embed(attributes, torch.Generator().manual_seed(0))
    kept = found_pooled[:, 0] != 0  # one in ten is the empty prompt
    assert torch.equal(found[kept, 0, 0], torch.arange(120.0)[kept])
    assert 1 <= (~kept).sum() <= 30
