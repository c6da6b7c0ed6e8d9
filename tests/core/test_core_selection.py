"""Algorithm 2: how a reward picks the stronger of two models, and what samples become of it."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from experiments.theory.mixtures import (
    IDEAL,
    PATHS,
    STRONG,
    Mixture,
    left_mass,
    logit_weak,
    normal_quantiles,
    schedule,
    two_modes,
    wasserstein,
)
from torch import Tensor

from tests.support.sampled import by_selection, by_w2sd
from w2sd_video.core import Denoiser, Level, Selector, sample, w2sd

LEVELS, PATH = schedule("sdxl", 6), PATHS["sdxl"]
TIE = 1e-9  # the threshold under which estimates that are equal but for rounding are a tie


def log_density(x: Tensor, mixture: Mixture = IDEAL) -> Tensor:
    """log p of clean data [B, 1] under a mixture in one dimension of unit deviation, [B]."""
    parts = zip(mixture.means, mixture.weights, strict=True)
    terms = [math.log(weight / math.sqrt(2 * math.pi)) - (x[:, 0] - mean) ** 2 / 2 for (mean,), weight in parts]
    return torch.logsumexp(torch.stack(terms), 0)


def answering(*answers: object) -> Callable[[Tensor], Any]:
    left = list(answers)
    return lambda _: left.pop(0)


def scripted(*rewards: list[float]) -> Callable[[Tensor], Tensor]:
    """A reward that answers from a list: for the first model, the second, the first, ..."""
    return answering(*[torch.tensor(row) for row in rewards])


def favouring(second: list[bool]) -> Callable[[Tensor], Tensor]:
    """A reward by which, always, the second model is the stronger one for these samples."""
    flags = torch.tensor(second)
    return scripted(*[row for _ in range(50) for row in ((~flags).double().tolist(), flags.double().tolist())])


def first(x: Tensor, level: Level) -> Tensor:
    return (0.9 * x).sin() + 0.1 * level.sigma


def second(x: Tensor, level: Level) -> Tensor:
    return (0.7 * x).sin() - 0.1 * level.sigma


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def written_down() -> tuple[list[str], tuple[Denoiser, Denoiser]]:
    """The two models, and the list in which they write down their evaluations as 1 and 2."""
    log: list[str] = []

    def written(model: Denoiser, role: str) -> Denoiser:
        return lambda x, level: (log.append(role), model(x, level))[1]  # type: ignore[func-returns-value]

    return log, (written(first, "1"), written(second, "2"))


def test_a_selector_starts_with_the_first_takes_clear_leads_and_keeps_its_choice_at_ties() -> None:
    selector = Selector(
        scripted(
            *([0.0, 0.0, 0.0, 1.0], [0.0, 0.25, 0.5, 0.0]),  # ties (nothing, the threshold itself), second, first
            *([5.0, 5.0, 5.0, 5.0], [6.0, 4.0, 4.9, 5.1]),  # second, first, a tie, a tie
            *([0.0, 0.0, 0.25, 0.0], [0.0, 1.0, 0.0, 9.0]),  # a tie, second, the threshold itself, second
        ),
        threshold=0.25,
    )
    chosen = [selector.select(torch.zeros(4, 3), torch.ones(4, 3)).tolist() for _ in range(3)]
    assert chosen == [[False, False, True, False], [True, False, True, False], [True, True, True, True]]
    assert [choice.tolist() for choice in selector.choices] == chosen


def test_without_a_threshold_the_smallest_lead_counts_and_equality_does_not() -> None:
    selector = Selector(scripted([1.0, 1.0, 1.0], [1.0 + 1e-7, 1.0, 1.0 - 1e-7], [1.0, 2.0, 1.0], [1.0, 2.0, 1.0]))
    assert selector.select(torch.zeros(3, 1), torch.zeros(3, 1)).tolist() == [True, False, False]
    assert selector.select(torch.zeros(3, 1), torch.zeros(3, 1)).tolist() == [True, False, False]


def test_a_reward_may_answer_in_any_kind_of_number() -> None:
    for answers in ([[0, 1], [1, 0]], [torch.tensor([1, 2]), torch.tensor([2.0, 1.0]).half()]):
        chosen = Selector(answering(*answers)).select(torch.zeros(2, 1), torch.zeros(2, 1))
        assert chosen.tolist() == [True, False] and chosen.dtype == torch.bool


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (torch.tensor([1.0]), r"shape \(1,\) for 2 samples.*\(2,\)"),
        (torch.tensor(1.0), r"shape \(\) for 2 samples"),
        (torch.zeros(2, 1), r"shape \(2, 1\) for 2 samples"),
        (torch.tensor([0.0, math.nan]), r"returned \[0\.0, nan\]; it must return finite"),
        (torch.tensor([math.inf, 0.0]), r"returned \[inf, 0\.0\]"),
    ],
)
def test_rewards_that_cannot_be_compared_are_refused(reward: Tensor, said: str) -> None:
    for answers in ((torch.zeros(2), reward), (reward, torch.zeros(2))):
        selector = Selector(answering(*answers))
        with pytest.raises(ValueError, match=said):
            selector.select(torch.zeros(2, 1), torch.zeros(2, 1))
        assert selector.choices == []


@pytest.mark.parametrize("threshold", [-1e-9, math.nan, math.inf])
def test_a_threshold_that_is_none_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=rf"threshold is {threshold}; it must be 0 or more"):
        Selector(log_density, threshold)


@pytest.mark.parametrize("name", ["ddpm", "flow"])
def test_the_reward_sees_both_clean_estimates_at_the_latent_to_be_reflected(name: str) -> None:
    path, levels, x = PATHS[name], schedule(name, 5), 3 * normal_quantiles(7)
    seen: list[Tensor] = []
    latents: list[Tensor] = []

    def reward(clean: Tensor) -> Tensor:
        seen.append(clean)
        return clean[:, 0]

    def observe(i: int, x: Tensor, tilde: Tensor) -> None:
        latents.append(x)

    models = STRONG.denoiser(path), logit_weak(2).denoiser(path)
    by_selection(x, levels, *models, path, Selector(reward), num_reflections=3, on_reflect=observe)
    expected = [m.clean(x, t) for x, t in zip(latents, levels, strict=False) for m in (STRONG, logit_weak(2))]
    assert len(latents) == 3
    torch.testing.assert_close(torch.stack(seen), torch.stack(expected), rtol=0, atol=1e-10)


@pytest.mark.parametrize("mode", ["paper", "fused"])
@pytest.mark.parametrize("name", ["sdxl", "flow"])
def test_algorithm_2_written_out_is_what_is_computed(name: str, mode: str) -> None:
    path, levels, x = PATHS[name], schedule(name, 6), noise(8, 3)
    start, last = x.clone(), [False] * 8  # a tie at the start leaves the first

    def reward(clean: Tensor) -> Tensor:
        return (3 * clean).sin().sum(1)

    def estimate(x: Tensor, model: Denoiser, t: Level) -> Tensor:
        return x - t.sigma * model(x, t) if name == "flow" else (x - t.sigma * model(x, t)) / t.alpha

    switched = 0
    for i, (t, s) in enumerate(itertools.pairwise(levels)):
        rows = []
        for b in range(8):
            row = x[b : b + 1]
            if i < 4:
                lead = reward(estimate(row, second, t)) - reward(estimate(row, first, t))
                before, last[b] = last[b], lead.item() > 0 if abs(lead.item()) > 0.2 else last[b]
                switched += before != last[b]
            better, worse = (second, first) if last[b] else (first, second)
            if i < 4:
                lower = path.step(row, better(row, t), t, s)
                row = path.step(lower, worse(row if mode == "fused" else lower, t), s, t)
            rows.append(path.step(row, better(row, t), t, s))
        x = torch.cat(rows)
    selector = Selector(reward, threshold=0.2)
    got = by_selection(start, levels, first, second, path, selector, num_reflections=4, mode=mode)
    torch.testing.assert_close(got, x, rtol=0, atol=1e-12)
    assert len(selector.choices) == 4 and selector.choices[-1].tolist() == last
    assert switched >= 4  # there was something to choose


@pytest.mark.parametrize("mode", ["paper", "fused"])
@pytest.mark.parametrize("settings", [{}, {"every": 2, "cap": 0.02}, {"window": (0.0, 0.5)}])
def test_a_reward_that_never_changes_its_mind_is_w2sd_with_these_roles(mode: str, settings: dict[str, Any]) -> None:
    x = noise(5, 3)
    for flag, pair in ((False, (first, second)), (True, (second, first))):
        selector = Selector(favouring([flag] * 5))
        got = by_selection(x, LEVELS, first, second, PATH, selector, mode=mode, strength=1.3, **settings)
        fixed = by_w2sd(x, LEVELS, *pair, PATH, mode=mode, strength=1.3, **settings)
        torch.testing.assert_close(got, fixed, rtol=0, atol=1e-13)


def test_fixed_points_refine_the_inversion_by_whichever_model_is_the_weak_one() -> None:
    x, settings = noise(4, 3), {"fixed_point": 2, "num_reflections": 2}
    flags = [True, False, False, True]
    log, models = written_down()
    got = by_selection(x, LEVELS, *models, PATH, Selector(favouring(flags)), **settings)
    for b, flag in enumerate(flags):
        pair = (second, first) if flag else (first, second)
        fixed = by_w2sd(x[b : b + 1], LEVELS, *pair, PATH, **settings)
        torch.testing.assert_close(got[b : b + 1], fixed, rtol=0, atol=1e-13)
    assert len(log) == 2 * (2 + 2 * 3 + 2) + 4 * 2  # every sample takes its own of two


@pytest.mark.parametrize("flag", [False, True])
@pytest.mark.parametrize("lam", [0, 1, 3, 5])
@pytest.mark.parametrize(("mode", "each"), [("paper", 3), ("fused", 2)])
def test_a_reflection_costs_three_evaluations_and_fused_two(mode: str, each: int, lam: int, flag: bool) -> None:
    log, models = written_down()
    by_selection(noise(4, 2), LEVELS, *models, PATH, Selector(favouring([flag] * 4)), mode=mode, num_reflections=lam)
    better, worse = "21" if flag else "12"
    step = "12" + (worse if mode == "paper" else "") + better
    assert "".join(log) == step * lam + (better if lam else "1") * (6 - lam)
    assert len(log) == 6 + each * lam


@pytest.mark.parametrize(("mode", "reflected"), [("paper", 6), ("fused", 4)])
def test_samples_that_choose_differently_pay_for_both_models(mode: str, reflected: int) -> None:
    log, models = written_down()
    selector = Selector(favouring([True, False, False, True]))
    by_selection(noise(4, 2), LEVELS, *models, PATH, selector, mode=mode, num_reflections=3)
    assert len(log) == 3 * reflected + 3 * 2


@pytest.mark.parametrize("mode", ["paper", "fused"])
def test_both_predictions_may_be_had_in_one_evaluation(mode: str) -> None:
    log, models = written_down()
    x, flags = noise(4, 2), [True, False, False, True]

    def joint(x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        log.append("b")
        return first(x, level), second(x, level)

    got = by_selection(x, LEVELS, *models, PATH, Selector(favouring(flags)), mode=mode, joint=joint)
    assert log.count("b") == 5 and len(log) == 5 + (20 if mode == "paper" else 10) + 2
    assert torch.equal(got, by_selection(x, LEVELS, first, second, PATH, Selector(favouring(flags)), mode=mode))


def test_steps_before_the_first_selection_are_the_first_models() -> None:
    log, models = written_down()
    settings: dict[str, Any] = {"every": 2, "window": (0.3, 1.0)}  # steps 2 and 4 of 6
    by_selection(noise(4, 2), LEVELS, *models, PATH, Selector(favouring([True] * 4)), **settings)
    assert "".join(log) == "11" + "1212" + "2" + "1212" + "2"


def test_settings_that_cannot_be_had_are_refused_before_any_evaluation() -> None:
    def refuse(x: Tensor, level: Level) -> Tensor:
        raise AssertionError("evaluated")

    run = noise(4, 2), LEVELS, refuse, refuse, PATH, Selector(log_density)
    with pytest.raises(ValueError, match=r'"release" repeats the published code.*choose mode "paper" or "fused"'):
        by_selection(*run, mode="release")
    with pytest.raises(ValueError, match="lag is True, and method 'w2sd-auto' has no such setting"):
        by_selection(*run, lag=True)
    with pytest.raises(ValueError, match=r"from 0 to 6 for 6 steps; got 7"):
        by_selection(*run, num_reflections=7)


@pytest.mark.parametrize(("name", "left"), [("ddpm", 0.05), ("sdxl", 0.09), ("flow", 0.04)])
def test_a_log_density_reward_is_raised_by_taking_the_more_peaked_model(name: str, left: float) -> None:
    # It is a reward maximiser, and the more biased model is the more peaked one: the left mass falls from .25 to .05.
    path, levels = PATHS[name], schedule(name, 20)
    strong, weak = STRONG.denoiser(path), logit_weak(2).denoiser(path)
    plain = sample(normal_quantiles(), levels, strong, path)
    auto = by_selection(normal_quantiles(), levels, strong, weak, path, Selector(log_density, TIE), mode="fused")
    assert log_density(auto).mean() > log_density(plain).mean() + 0.1
    assert left_mass(auto) == pytest.approx(left, abs=0.01)
    if name == "ddpm":
        assert log_density(plain).mean().item() == pytest.approx(-2.11, abs=0.005)
        assert log_density(auto).mean().item() == pytest.approx(-1.95, abs=0.005)


def complementary(name: str, left: float) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Samples of the pair of left masses (left, 1 - left) in these roles, and selected; and the choices made."""
    path, levels, x = PATHS[name], schedule(name, 20), normal_quantiles()
    pair = two_modes(left).denoiser(path), two_modes(1 - left).denoiser(path)
    selector = Selector(log_density, TIE)
    auto = by_selection(x, levels, *pair, path, selector, mode="fused")
    return w2sd(x, levels, *pair, path, mode="fused"), auto, selector.choices


def test_models_that_complement_each_other_come_out_balanced_where_fixed_roles_drive_to_one_side() -> None:
    for left, fixed_left in ((0.8, 0.964), (0.2, 0.036)):
        fixed, auto, choices = complementary("ddpm", left)
        assert left_mass(fixed) == pytest.approx(fixed_left, abs=0.001) and wasserstein(fixed, IDEAL, 2) > 5
        assert left_mass(auto) == 0.5 and wasserstein(auto, IDEAL, 2) == pytest.approx(1.2, abs=0.05)
        assert auto[auto < 0].std().item() == pytest.approx(0.46, abs=0.005)  # each is sharpened to its own mode
        # Each model is asked where the other is wrong: left of the middle the one that has more on the left.
        assert torch.equal(choices[0], (normal_quantiles()[:, 0] > 0) == (left == 0.8))


def test_a_flow_starts_with_an_exact_tie_which_leaves_the_first_model_an_advantage() -> None:
    # At t 1 both estimates are the models' means, of one density. As printed, the tie takes the second: left .357.
    masses = []
    for left in (0.8, 0.2):
        _, auto, choices = complementary("flow", left)
        assert not choices[0].any() and choices[1].any()
        masses.append(left_mass(auto))
    assert masses == [pytest.approx(1 - 0.357, abs=0.005), pytest.approx(0.357, abs=0.005)]
