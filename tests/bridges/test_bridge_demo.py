"""Scoring the picture pair: the methods make what they say, are counted, kept, and read by the oracle."""

import math

import pytest
import torch
from experiments.bridge import scores as scoring
from experiments.engine import Score

from bridges.pixel.noise_maps import Mapped
from bridges.pixel.presets import NOISE_MAP
from scripts import score_bridge
from w2sd_video.demo import PICTURE_WEIGHTS
from w2sd_video.errors import UserError


@pytest.fixture(scope="module")
def sides():
    return scoring.load(PICTURE_WEIGHTS)


@pytest.fixture(scope="module")
def fitted(sides):
    return scoring.fit_noise_map(sides["strong"], sides["weak"], 100)


def short(name: str, **changes) -> scoring.Method:
    method = scoring.METHODS[name]
    values = {field: getattr(method, field) for field in scoring.Method.__dataclass_fields__}
    values |= {"steps": 4, "num_reflections": 3 if method.every > 1 or method.gap_every else 2}
    return scoring.Method(**{**values, "gap_every": method.gap_every and 1, **changes})


def test_the_noise_map_goes_from_eight_channels_to_four_and_knows_its_vaes(fitted, sides):
    assert tuple(fitted.matrix.shape) == (4, 8)
    fitted.check(scoring.codec(sides["strong"]), scoring.codec(sides["weak"]))
    assert 0 < fitted.residual < 1


@pytest.mark.slow
def test_the_bundled_map_is_the_one_that_is_fitted(sides):
    bundled = Mapped.load(PICTURE_WEIGHTS / NOISE_MAP)
    bundled.check(scoring.codec(sides["strong"]), scoring.codec(sides["weak"]))
    fitted = scoring.fit_noise_map(sides["strong"], sides["weak"])
    assert torch.allclose(bundled.matrix, fitted.matrix, atol=1e-4)  # convolutions differ between machines by 1e-6
    assert bundled.scale == pytest.approx(fitted.scale, rel=1e-3)


def test_a_real_gap_moves_pictures_and_is_counted(sides, fitted):
    strong, moved = (scoring.score(sides, short(name), fitted, 3) for name in ("strong", "w2sd"))
    assert strong[0].num_evaluations == 4
    assert strong[0].notes == {"decodes": 0, "encodes": 0, "skipped": 0}
    assert not torch.equal(moved[1], strong[1])
    made = 2 - moved[0].notes["skipped"]
    assert moved[0].num_evaluations == moved[0].num_rows == 4 + 2 * made
    assert moved[0].notes["decodes"] == moved[0].notes["encodes"] == 3 * made


@pytest.mark.slow
def test_each_side_draws_the_colours_and_shapes_it_is_told_and_the_strong_side_better(sides, fitted):
    """On 24 pictures each attribute is right more often than chance plus four of chance's standard deviations."""
    scores = {side: scoring.score(sides, scoring.METHODS[side], fitted, 24)[0] for side in ("strong", "weak")}
    for score in scores.values():
        for rate, kinds in zip(score.correct.double().mean(dim=0).tolist(), (6, 4), strict=True):
            chance = 1 / kinds
            assert rate > chance + 4 * math.sqrt(chance * (1 - chance) / 24)
    assert scores["strong"].all.sum() > scores["weak"].all.sum()


def test_every_method_of_the_pair_makes_pictures(sides, fitted):
    seen = set()  # kinds: what differs in a number alone is made once
    for name, method in scoring.METHODS.items():
        kind = method.sampled, method.partner, method.noise_map, method.every, method.gap_every is None
        if "control" not in kind and kind not in seen:
            seen.add(kind)
            score, pictures = scoring.score(sides, short(name), fitted, 1)
            assert pictures.shape == (1, 3, 32, 32), name
            assert score.correct.shape == (1, 2), name


def test_the_test_set_has_every_caption_equally_often_with_noise_of_its_own():
    prompts, seeds = scoring.prompts_and_seeds(480)
    assert {prompts.count(prompt) for prompt in prompts} == {20}
    assert len(set(prompts)) == 24
    assert len(set(seeds)) == 480


def test_the_table_has_a_row_per_method_with_its_difference_to_strong():
    right, wrong = torch.ones(40, 2, dtype=torch.bool), torch.zeros(40, 2, dtype=torch.bool)
    scores = {"strong": Score(wrong, 28, 28, 0.1, {"decodes": 0, "encodes": 0, "skipped": 0})}
    scores["w2sd"] = Score(right, 46, 46, 0.2, {"decodes": 27, "encodes": 27, "skipped": 1})
    lines = scoring.table(scores).splitlines()
    assert len(lines) == 4
    assert "| W2SD through pixels | 46 | 54 | 1.000 | 1.000 | 1.000 | +1.000 [+1.000, +1.000] | 0.20 |" in lines


def test_a_folder_without_a_pair_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no pipeline.*train_bridge_demo.py"):
        scoring.load(tmp_path)


def test_finished_methods_are_kept_and_others_of_the_pair_are_not_taken_for_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scoring, "METHODS", {name: short(name) for name in ("strong", "w2sd")})
    fit = scoring.fit_noise_map
    monkeypatch.setattr(scoring, "fit_noise_map", lambda strong, weak: fit(strong, weak, 20))
    words = ["--count", "2", "--output", str(tmp_path), "--quiet", "--threads", "1"]
    assert score_bridge.main(words) == 0
    first = capsys.readouterr().out
    assert "| W2SD through pixels | " in first
    written = (tmp_path / "w2sd.json").stat().st_mtime_ns
    assert score_bridge.main(words) == 0
    assert capsys.readouterr().out == first
    assert (tmp_path / "w2sd.json").stat().st_mtime_ns == written
    monkeypatch.setitem(scoring.METHODS, "w2sd", short("w2sd", strength=2.0))
    assert score_bridge.main(words) == 0
    assert (tmp_path / "w2sd.json").stat().st_mtime_ns != written
