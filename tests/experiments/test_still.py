"""A strong side that moves less: which clips it is shown, and how quality and motion are read apart."""

from __future__ import annotations

import torch
from experiments.demo import still
from experiments.demo.training import Bank

from w2sd_video.demo.captions import CAPTIONS, parse_caption

ATTRIBUTES = torch.tensor([parse_caption(caption) for caption in CAPTIONS]).repeat(2, 1)


def bank() -> Bank:
    """Two clips of each caption, whose latents say which clip they are."""
    numbers = torch.arange(float(len(ATTRIBUTES)))[:, None, None, None, None]
    return Bank(numbers, ATTRIBUTES, torch.zeros(1), torch.zeros(1))


def test_a_share_of_the_moving_clips_is_shown_standing_still_under_its_own_caption() -> None:
    assert torch.equal(still.shown_still(bank(), 0.0, 0).latents, bank().latents)
    shown = still.shown_still(bank(), 1.0, 0)
    seen = shown.latents.flatten().long()
    assert torch.equal(shown.attributes, ATTRIBUTES), "what captions say stays"
    assert torch.equal(ATTRIBUTES[seen, :2], ATTRIBUTES[:, :2]) and (ATTRIBUTES[seen, 2] == still.STANDING).all()
    moving = ATTRIBUTES[:, 2] != still.STANDING
    some = still.shown_still(bank(), 0.7, 0).latents.flatten().long()[moving]
    share = (ATTRIBUTES[some, 2] == still.STANDING).double().mean().item()
    assert 0.55 < share < 0.85


def test_motion_counts_where_it_is_asked_for_and_quality_knows_nothing_of_it() -> None:
    wanted = torch.tensor([[0, 0, 0], [0, 0, 1], [1, 1, still.STANDING]])
    read = torch.tensor([[0, 0, still.STANDING], [0, 1, 2], [1, 1, 0]])
    found = still.Reading(read, 20)
    assert found.quality(wanted).tolist() == [True, False, True]
    assert found.moving(wanted).tolist() == [False, True], "another direction is motion; the last was to stand still"
    lines = still.table({"strong": found, "W2SD": still.Reading(wanted, 40)}, wanted).splitlines()
    assert lines[3].startswith("| W2SD | 40 | 1.000 [") and "| +0.333 [" in lines[3] and "| +0.500 [" in lines[3]


def test_parts_of_a_move_are_its_mean_over_frames_and_the_rest() -> None:
    move = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    mean = move.mean(2, keepdim=True)
    made = {name: part(mean, move - mean) for name, part in still.PARTS.items()}
    assert torch.allclose(made["all of it"], move) and all(each.shape == move.shape for each in made.values())
    alike = made["noise of the mean's size, alike in all frames"]
    assert torch.equal(alike, alike[:, :, :1].expand_as(alike))
    assert torch.allclose(alike[:, :, 0].flatten(1).norm(dim=1), mean.flatten(1).norm(dim=1))
    assert torch.allclose(
        made["the mean, with the differences turned round"] + move, 2 * mean.expand_as(move), atol=1e-6
    )
