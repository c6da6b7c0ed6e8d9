"""How two predictions become one under the rules of other guidance, against their papers' formulas written out."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor

from w2sd_video.errors import UserError
from w2sd_video.hosting.guiders import combine_by

WEIGHT = 1.5


def draw(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, 4, 4, generator=generator), torch.randn(2, 3, 4, 4, generator=generator)


def inner(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum(dim=(1, 2, 3), keepdim=True)


def test_the_linear_sum_is_core_s_own() -> None:
    assert combine_by("linear", WEIGHT, 4, flow=True) is None


@pytest.mark.parametrize("flow", [True, False])
def test_cfg_zero_scales_the_weak_prediction_and_zeroes_a_flow_s_first_step(flow: bool) -> None:
    strong, weak = draw(0)
    combine = combine_by("cfg-zero", WEIGHT, 4, flow=flow)
    assert combine is not None
    scaled = weak * inner(strong, weak) / inner(weak, weak)
    expected = scaled + (1 + WEIGHT) * (strong - scaled)
    torch.testing.assert_close(combine(1, strong, weak), expected)
    torch.testing.assert_close(combine(0, strong, weak), torch.zeros_like(strong) if flow else expected)


def test_apg_moves_nothing_along_the_strong_prediction_and_remembers() -> None:
    combine = combine_by("apg", WEIGHT, 4, flow=True)
    assert combine is not None
    average = torch.zeros(2, 3, 4, 4)
    for step in range(2):
        strong, weak = draw(step)
        average = strong - weak - 0.5 * average
        short = average * (15 / average.flatten(1).norm(dim=1)).clamp(max=1)[:, None, None, None]
        across = short - strong * inner(short, strong) / inner(strong, strong)
        torch.testing.assert_close(combine(step, strong, weak), strong + WEIGHT * across)
    fresh = combine_by("apg", WEIGHT, 4, flow=True)
    assert fresh is not None and not torch.equal(fresh(1, strong, weak), combine(1, strong, weak))


def test_tcfg_keeps_of_the_weak_prediction_what_both_share() -> None:
    strong, weak = draw(0)
    combine = combine_by("tcfg", WEIGHT, 4, flow=True)
    assert combine is not None
    both = torch.stack([strong, weak], dim=1).flatten(2)
    first = torch.linalg.svd(both, full_matrices=False).Vh[:, :1]
    shared = ((weak.flatten(1)[:, None] @ first.mT) @ first).view_as(weak)
    torch.testing.assert_close(combine(0, strong, weak), shared + (1 + WEIGHT) * (strong - shared))


def test_fdg_needs_kornia_and_says_so() -> None:
    if importlib.util.find_spec("kornia") is None:
        with pytest.raises(UserError, match="needs the package kornia"):
            combine_by("fdg", WEIGHT, 4, flow=True)
        return
    combine = combine_by("fdg", WEIGHT, 4, flow=True)
    assert combine is not None
    one = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(combine(0, one, one), one)
    flat = torch.ones_like(one)
    torch.testing.assert_close(combine(0, flat, 0 * flat), (1 + WEIGHT) * flat)  # of the coarsest frequency
    video = torch.stack([one, one], 2)
    torch.testing.assert_close(combine(0, video, 0 * video)[:, :, 0], combine(0, one, 0 * one))
    with pytest.raises(UserError, match="frequencies of pictures"):
        combine(0, one.flatten(2), one.flatten(2))
