"""The ways that are scored on the bundled pair: what each computes and costs, and the controls it stands beside."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from experiments.demo import methods, one_network, videos
from experiments.demo.methods import ALGORITHMS, CURVES, SETTINGS, groups
from experiments.demo.videos import Method as Way
from experiments.engine import Score, Scores, fingerprint

from scripts import score_methods
from w2sd_video.demo import WEIGHTS, world
from w2sd_video.demo.captions import parse_caption

EVERY = {way.key: way for ways in groups().values() for way in ways}
CAPTION = "a red ring moving up"


@pytest.fixture(scope="module")
def sides():
    return videos.load(WEIGHTS)


def shortened(way: Way, steps: int = 2) -> Way:
    """Few steps, of which all but one are reflected where ten of twenty are."""
    lam = way.config.num_reflections
    few = {} if lam is None else {"num_reflections": min(lam, steps - 1)}
    return dataclasses.replace(way, steps=steps, settings={**way.settings, **few})


def score_of(right: list[int], evaluations: int = 20) -> Score:
    return Score(torch.tensor(right).bool()[:, None].expand(-1, 3), evaluations, evaluations, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("label", ALGORITHMS)
def test_every_algorithm_costs_what_its_method_says(label, sides):
    way = shortened(ALGORITHMS[label])
    _, run = videos.generate(sides, way, [CAPTION], [1])
    assert run.num_evaluations == way.config.evaluations(2, way.algorithm)


def test_ways_differ_wherever_their_keys_do_and_are_made_once_where_they_do_not():
    assert len({repr(way) for way in EVERY.values()}) == len(EVERY)
    assert SETTINGS["W2SD, paper mode"].key == ALGORITHMS["W2SD, paper mode (Alg. 1)"].key
    values, lines = CURVES["lambda"].values, CURVES["lambda"].lines
    assert lines["w2sd"][values.index(10)] == SETTINGS["W2SD, paper mode"]
    assert all(line[values.index(0)].key == Way().key for line in lines.values())


def test_the_rewards_count_all_attributes_or_the_colour_alone():
    wanted = torch.tensor([parse_caption(CAPTION)])
    clip = world.render(wanted, world.random_starts(1, torch.Generator().manual_seed(0))).frames[0]
    frames = (clip.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    oracle, colour = videos.reward_called("oracle"), videos.reward_called("colour")
    assert oracle(frames, CAPTION) == colour(frames, CAPTION) == 1.0
    assert oracle(frames, "a green ring moving up") == pytest.approx(2 / 3)
    assert colour(frames, "a green ring moving up") == 0.0 and colour(frames, "a red cross moving down") == 1.0
    assert oracle(np.zeros_like(frames), CAPTION) == 0.0


@pytest.mark.slow  # a control of `make score-methods`
def test_a_random_reward_chooses_the_weak_side_about_as_often_as_the_strong_one(sides):
    way = ALGORITHMS["auto-selection, reward random, paper mode (control)"]
    prompts, seeds = [CAPTION] * 12, list(range(12))
    _, run = videos.generate(sides, shortened(way, 3), prompts, seeds)
    chosen = [second for selection in run.choices for second in selection]
    assert len(chosen) == 2 * 12
    assert 3 <= sum(chosen) <= 21  # fair coins miss this once in 90,000


def test_the_controls_are_the_same_reflections_without_a_gap_and_no_more_evaluations():
    paper, auto = ALGORITHMS["W2SD, paper mode (Alg. 1)"], ALGORITHMS["auto-selection, reward colour, paper mode"]
    zero = ALGORITHMS["zero-gap, paper mode"]
    assert methods.zero_gap_of(paper) == methods.zero_gap_of(auto) == zero
    assert methods.zero_gap_of(zero) is None
    assert methods.zero_gap_of(SETTINGS["paper, fixed point 1"]) == SETTINGS["zero-gap, fixed point 1"]
    assert methods.zero_gap_of(ALGORITHMS["swapped roles (the weak side samples), fused"]) is None
    scores = {Way(steps=n).key: score_of([1, 0], n) for n in (20, 30, 40)} | {paper.key: score_of([1, 1], 39)}
    assert methods.equal_of(paper, scores) is scores[Way(steps=30).key]
    assert methods.equal_of(Way(steps=40), scores) is None


def test_the_table_has_paired_differences_and_the_curve_its_intervals(tmp_path):
    strong, paper = Way(), ALGORITHMS["W2SD, paper mode (Alg. 1)"]
    scores = {strong.key: score_of([1, 0, 0, 0] * 5), paper.key: score_of([1, 1, 0, 0] * 5, 40)}
    row = methods.table({"paper": paper}, scores).splitlines()[-1]
    assert row.startswith("| paper | 40 | 0.500 | 0.500 | 0.500 | 0.500 | +0.250 [")
    assert row.endswith("| - | - |")
    curve = CURVES["lambda"].table(scores).splitlines()
    assert curve[2].startswith("| 0 | 0.250 [")
    assert curve[5].startswith("| 10 | 0.500 [") and curve[5].endswith("| - | - |")
    assert not CURVES["lambda"].draw(scores, "share right", tmp_path / "lambda.png")
    whole = {key: score_of([1, 0, 1]) for key in EVERY}
    assert CURVES["strength"].draw(whole, "share right", tmp_path / "strength.png")
    assert [path.name for path in tmp_path.iterdir()] == ["strength.png"]


def test_a_weak_side_without_a_network_is_chosen_on_other_seeds_than_it_is_scored_on(tmp_path, monkeypatch, capsys):
    """The zero-gap and plain steps have nothing to choose; a tie of strengths goes to the least."""
    asked = []

    def score(sides, way, count, progress, *, first):
        asked.append((first, count))
        good = way.partner == "rank-8" and way.settings["strength"] == 2.0
        return score_of([1, 1, good, 0] * (count // 4), way.config.evaluations(way.steps)), None

    for name, stand_in in (("load", lambda weights: {"strong": None}), ("add_difference", lambda *_: None)):
        monkeypatch.setattr(one_network, name, stand_in)
    monkeypatch.setattr(one_network, "score", score)
    assert score_methods.main(["--count", "4", "--output", str(tmp_path), "--quiet", "--only", "one-network"]) == 0
    tuned = [count for first, count in asked if first == one_network.TUNED_ON]
    assert tuned == [4] * len(one_network.SIDES) * len(one_network.STRENGTHS), "no more than are scored"
    assert [count for first, count in asked if first == one_network.SCORED_ON] == [4] * len(one_network.METHODS)
    printed = capsys.readouterr().out
    assert "| difference, rank 8 | 2 | 20 | 0.750 | 0.750 | 0.750 | 0.750 | +0.250 [" in printed
    assert "| strong at int2 | 0.5 | 20 |" in printed and "reads as the strong side does in every video" in printed


def test_finished_ways_are_read_and_not_made_again(tmp_path, monkeypatch, capsys):
    prints = fingerprint(WEIGHTS)
    kept = Scores(tmp_path, Score, lambda way: (4, prints, way))
    for key, way in EVERY.items():
        kept.put(key, way, Score(torch.ones(4, 3).bool(), 20, 20, 1.0, {"second": 0.25}))
    monkeypatch.setattr(methods, "load", lambda weights: pytest.fail("the pair was loaded"))
    words = ["--count", "4", "--output", str(tmp_path), "--quiet", "--only", "algorithms,settings,lambda,strength"]
    assert score_methods.main(words) == 0
    printed = capsys.readouterr().out
    assert "| strong | 20 | 1.000 | 1.000 | 1.000 | 1.000 | - | - | - |" in printed
    assert "25.0% of selections" in printed
    assert {path.name for path in tmp_path.glob("*.png")} == {"lambda.png", "strength.png"}
