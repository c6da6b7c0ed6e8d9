"""Where cached gaps are measured: the places that miss least, and on exact models where the gap turns."""

import itertools
from dataclasses import replace

import pytest
import torch
from experiments.theory.mixtures import PATHS, Mixture, schedule

from w2sd_video.core import ReflectionConfig, w2sd
from w2sd_video.core.placing import GapTurns, placed
from w2sd_video.errors import UserError

T = 20
AUTO = ReflectionConfig(T - 1, "fused", gap_every="auto")


def missed(lost: list[list[float]], before: tuple[int, ...], measured: tuple[int, ...]) -> float:
    return sum(lost[step + 1][max(at for at in measured if at <= step)] for step in before)


@pytest.mark.parametrize("before", [tuple(range(7)), (0, 2, 3, 6, 7, 10), (4,)])
def test_the_places_are_those_of_all_choices_by_which_least_is_missed(before: tuple[int, ...]) -> None:
    for seed, count in itertools.product(range(4), range(1, len(before) + 1)):
        lost = torch.rand(12, 12, generator=torch.Generator().manual_seed(seed)).tril(-1).tolist()
        found = placed(lost, before, count)
        choices = [(before[0], *others) for others in itertools.combinations(before[1:], count - 1)]
        assert found in choices
        assert missed(lost, before, found) == pytest.approx(min(missed(lost, before, choice) for choice in choices))


def test_a_gap_that_does_not_turn_is_measured_evenly_and_none_at_no_steps() -> None:
    assert placed([[0.0] * T] * T, tuple(range(9)), 3) == (0, 3, 6)
    assert placed([[0.0] * T] * T, (), 0) == ()


def test_what_a_gap_misses_is_the_part_of_a_move_that_an_older_one_has_not() -> None:
    turns, x = GapTurns(), torch.zeros(2, 3)
    right, up = torch.tensor([[2.0, 0, 0]]).repeat(2, 1), torch.tensor([[0.0, 1, 0]]).repeat(2, 1)
    for _ in range(2):  # passes of equal moves
        for i, move in ((0, right), (1, up), (3, -right)):  # step 2 is left out
            turns(i, x, x + move)
    lost = turns.lost(5)
    assert lost[1][0] == pytest.approx(1 / 9) and lost[0][1] == pytest.approx(4 / 9), "at right angles: all of it"
    assert lost[3][0] == pytest.approx(2 * 4 / 9) and lost[3][3] == 0, "the other way round: twice"
    assert lost[2] == [0.0] * 5 and lost[4] == [0.0] * 5
    with pytest.raises(ValueError, match="no reflection was seen"):
        GapTurns().lost(5)


@pytest.mark.parametrize(("name", "densest"), [("sdxl", range(2, 12)), ("ddpm", range(5, 15)), ("flow", range(10))])
def test_on_exact_models_measurements_stand_where_modes_part_and_come_closer_to_fused_mode_at_equal_cost(
    name: str, densest: range
) -> None:
    """Two modes, which the weak model weighs otherwise and has elsewhere: by level the gap turns from the one towards
    the other. The median distance to fused mode over 500 samples, places found on 8 of other noises."""
    path, levels = PATHS[name], schedule(name, T)
    strong = Mixture(((-4.0, 0.0, 0.0), (4.0, 0.0, 0.0)), (0.25, 0.75)).denoiser(path)
    weak = Mixture(((-4.0, 1.0, 0.0), (4.0, 1.0, 0.0)), (0.1, 0.9)).denoiser(path)
    noise = torch.randn(508, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    turns, few, x = GapTurns(), noise[:8], noise[8:]
    w2sd(few, levels, strong, weak, path, options=AUTO.with_fresh_gaps(T), on_reflect=turns)
    even, found = replace(AUTO, gap_every=2), replace(AUTO, gap_every=turns.steps(AUTO, T))
    assert AUTO.evaluations(T) == even.evaluations(T) == found.evaluations(T) == T + 9
    assert found.gap_steps(T) == found.gap_every and found.steps(T) == AUTO.steps(T)
    assert sum(step in densest for step in found.gap_steps(T)) >= 8, "of nine; even ones have five there"
    fused = w2sd(x, levels, strong, weak, path, options=replace(AUTO, gap_every=None, window=(1 / T, 1.0)))
    far = [
        (w2sd(x, levels, strong, weak, path, options=config) - fused).norm(dim=1).median().item()
        for config in (even, found)
    ]
    assert far[1] < 0.85 * far[0]


def test_steps_are_placed_before_sampling_and_their_number_is_known() -> None:
    config = ReflectionConfig(8, "fused", 2.0, every=2, window=(0.25, 1), cap=0.1, noise=0.1, gap_every="auto")
    fresh = config.with_fresh_gaps(12)
    assert fresh == ReflectionConfig(8, "fused", 2.0) and fresh.evaluations(12) == 12 + 2 * 8
    assert config.evaluations(12) == replace(config, gap_every=2).evaluations(12)
    path, levels = PATHS["flow"], schedule("flow", 12)
    model = Mixture(((1.0,),), (1.0,)).denoiser(path)
    with pytest.raises(UserError, match=r"'auto', which the commands place.*with_fresh_gaps\(num_steps\).*GapTurns"):
        w2sd(torch.zeros(1, 1), levels, model, model, path, options=config)
