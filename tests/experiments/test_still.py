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
