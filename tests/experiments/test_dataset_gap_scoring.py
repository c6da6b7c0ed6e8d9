"""Scoring the dataset gap: the bundled weights, the command, its figures, and Figure 26's cosines."""

import json
import math
from dataclasses import replace

import pytest
import torch
from experiments.dataset_gap import WEIGHTS, cosines, figures, results, scoring
from experiments.dataset_gap.judge import MINORITY, Judge, verdicts
from experiments.dataset_gap.networks import build_network
from experiments.dataset_gap.pictures import Pictures, load_digits
from experiments.dataset_gap.recipe import DIGITS, PATHS, SIDES
from experiments.dataset_gap.scoring import METHODS, STRENGTHS, sweep_name
from experiments.dataset_gap.training import export_judge, export_network
from PIL import Image

from scripts import score_dataset_gap
from vbench_eval.statistics import Interval
from w2sd_video.core import Level, NoisePath
from w2sd_video.errors import UserError

TINY = replace(DIGITS, network=dict(DIGITS.network) | {"block_out_channels": (8, 8), "norm_num_groups": 4})


# --- what is bundled -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_the_bundled_networks_load_and_sample(path):
    world = scoring.load_world(WEIGHTS, path)
    made = scoring.score(world, replace(METHODS["strong"], steps=10), 4, 4)
    assert made.pictures.shape == (4, 1, 8, 8) and made.num_evaluations == 10
    share = (made.pictures < 64).double().mean()
    assert 0.2 < share < 0.9, "black paper and some ink"


def test_the_bundled_judge_is_as_accurate_as_is_said_of_it():
    judge, unseen = scoring.load_world(WEIGHTS, "noise").judge, load_digits().unseen
    stated = json.loads((WEIGHTS / "judge" / "judge.json").read_text(encoding="utf-8"))["right_of_unseen"]
    assert {kind: list(counts) for kind, counts in verdicts(judge, unseen).items()} == stated
    assert all(right / count > 0.9 for right, count in stated.values())


def test_the_bundled_files_are_small():
    sizes = [file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file()]
    assert sum(sizes) < 5_000_000
    assert {side.name for side in (WEIGHTS / "noise").iterdir()} == set(SIDES)


def test_the_bundled_strong_side_moves_towards_balance_with_the_bundled_weak_one():
    """Sixty samples of few steps: the whole claim, with intervals, is the command's."""
    world = scoring.load_world(WEIGHTS, "noise")
    shares = {}
    for name in ("weak", "strong", "w2sd-fused"):
        lam = 9 if METHODS[name].partner else 0
        made = scoring.score(world, replace(METHODS[name], steps=10, num_reflections=lam), 60, 60)
        shares[name] = made.minority.double().mean().item()
    assert shares["weak"] < shares["strong"] < shares["w2sd-fused"]


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path):
    """Untrained networks of both paths, and an untrained judge."""
    folder = tmp_path / "weights"
    for path in PATHS:
        for number, side in enumerate(SIDES):
            torch.manual_seed(number)
            export_network(folder, path, side, build_network(TINY))
    torch.manual_seed(0)
    export_judge(folder, TINY, Judge(1, 8, 8), load_digits().unseen)
    return folder


@pytest.fixture
def quick(monkeypatch):
    """All methods at T 3 with two reflections at most, few draws, few samples beside the methods'."""
    for name, method in METHODS.items():
        monkeypatch.setitem(METHODS, name, replace(method, steps=3, num_reflections=min(2, method.num_reflections)))
    for name, number in (("DRAWS", 20), ("NUM_EXACT", 20), ("NUM_COSINES", 6), ("STEPS", 3)):
        monkeypatch.setattr(results, name, number)


@pytest.mark.slow
def test_the_command_scores_all_methods_once_and_draws_every_figure(weights, quick, tmp_path, capsys, monkeypatch):
    arguments = ["--weights", str(weights), "--output", str(tmp_path / "out"), "--count", "12", "--quiet"]
    arguments += ["--projection", "pca"]
    assert score_dataset_gap.main(arguments) == 0
    first = (tmp_path / "out" / "results.json").read_bytes()
    table = capsys.readouterr().out
    assert all(f"| {method.label} |" in table for method in METHODS.values())
    for name in ("samples", "features", "strength", "cosine", "overview"):
        picture = Image.open(tmp_path / "out" / f"{name}.png").convert("RGB")
        assert len(picture.getcolors(1 << 24)) > 4, "more than paper"
    written = json.loads(first)
    assert written["methods"].keys() == METHODS.keys()
    assert all(sum(row["majority_minority_neither"]) == 12 for row in written["methods"].values())
    assert written["methods"]["zero-gap-fused"]["minus"]["strong"]["difference"] == [0, 0, 0]

    def never(*_):
        raise AssertionError("a finished method was run again")

    monkeypatch.setattr(results, "scored", never)
    assert score_dataset_gap.main(arguments) == 0
    assert (tmp_path / "out" / "results.json").read_bytes() == first


def test_a_part_of_the_methods_is_scored_and_a_damaged_file_made_again(weights, quick, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--weights", str(weights), "--output", str(out), "--path", "flow", "--count", "4", "--quiet"]
    arguments += ["--methods", "weak, w2sd"]
    assert score_dataset_gap.main(arguments) == 0
    assert {file.stem for file in out.glob("*.pt")} == {"weak", "w2sd"}
    good = torch.load(out / "w2sd.pt")["score"]
    (out / "w2sd.pt").write_bytes(b"damaged")
    assert score_dataset_gap.main(arguments) == 0
    assert torch.equal(good["pictures"], torch.load(out / "w2sd.pt")["score"]["pictures"])


def test_a_judge_of_other_pictures_is_refused(weights):
    export_judge(weights, TINY, Judge(1, 16, 8), load_no_pictures())
    with pytest.raises(UserError, match=r"makes pictures \(1, 8, 8\), and the judge there reads \(1, 16, 16\)"):
        scoring.load_world(weights, "noise")


def load_no_pictures() -> Pictures:
    return Pictures(*(torch.zeros(1, 1, 16, 16) for _ in range(3)))


# --- the parts -------------------------------------------------------------------------------------------------------


def test_samples_are_the_same_in_any_batch(weights):
    world = scoring.load_world(weights, "noise")
    method = replace(METHODS["w2sd"], steps=4, num_reflections=3)
    one, other = (scoring.score(world, method, 6, batch) for batch in (6, 2))
    # Convolutions of other batch sizes add in another order: a grey value may be rounded the other way.
    assert (one.pictures.int() - other.pictures.int()).abs().max() <= 1
    assert one.num_evaluations == other.num_evaluations == 10


def test_the_cosine_is_that_of_the_two_gaps():
    generator = torch.Generator().manual_seed(0)
    outputs = {side: torch.randn(5, 1, 2, 2, generator=generator) for side in SIDES}
    sides = {side: (lambda x, level, side=side: outputs[side]) for side in SIDES}
    found = cosines.gap_cosine(torch.zeros(5, 1, 2, 2), Level(5, 0.6, 0.8), sides)
    for n in range(5):
        a = (outputs["strong"] - outputs["weak"])[n].flatten().tolist()
        b = (outputs["ideal"] - outputs["strong"])[n].flatten().tolist()
        dot = sum(p * q for p, q in zip(a, b, strict=True))
        assert found[n].item() == pytest.approx(dot / math.hypot(*a) / math.hypot(*b), rel=1e-6)


def test_a_weak_side_as_far_on_the_same_line_has_cosine_1_everywhere():
    sides = {side: (lambda x, level, part=part: x * part) for side, part in zip(SIDES, (0.5, 0.7, 0.8), strict=True)}
    levels = [Level(9, 0.1, 0.99), Level(5, 0.6, 0.8), Level(0, 0.99, 0.1)]
    noise = scoring.noises(0, 4, (1, 2, 2))
    curves = [
        cosines.on_trajectories(noise, levels, sides, NoisePath()),
        cosines.on_pictures(torch.ones_like(noise), noise, levels, sides, NoisePath()),
    ]
    for curve in curves:
        assert curve.timesteps == [9, 5] and curve.positive == [1.0, 1.0]
        assert [mean.value for mean in curve.means] == pytest.approx([1.0, 1.0], abs=1e-6)


def test_independent_errors_of_one_size_have_the_cosine_that_the_figure_marks():
    """Two gaps that share one of three independent vectors, with opposite signs: -1/2 in many dimensions."""
    noise = torch.randn(3, 50, 4096, generator=torch.Generator().manual_seed(0))
    sides = {side: (lambda x, level, n=n: noise[n]) for n, side in enumerate(SIDES)}
    found = cosines.gap_cosine(noise[0], Level(5, 0.6, 0.8), sides)
    assert found.mean().item() == pytest.approx(-0.5, abs=0.01)


def test_nearness_knows_a_copy(weights):
    split = load_digits()
    copies = ((split.seen.of_side("weak").minority + 1) * 127.5).round().to(torch.uint8)
    features, classes = torch.zeros(len(copies), 16), torch.full((len(copies),), MINORITY)
    rows = results.nearness("weak", scoring.Score(copies, features, classes, 0, 0.0, 0.0), split)
    assert [(row.kind, row.num_trained, row.num_samples) for row in rows] == [("minority", 14, 14)]
    assert rows[0].of_samples < 0.04, "8 bits: at most 1/255 in each of 64 pixels"
    assert rows[0].of_unseen > 1


def test_the_theorys_numbers_are_those_of_the_odds():
    found = results.theory({})["of_training_sets"]
    assert found["gap"] == pytest.approx(math.log(5), rel=1e-12)
    assert found["static_share"] == pytest.approx(5 / 7, rel=1e-12)
    assert found["strength_for_balance"] == pytest.approx(math.log(2) / math.log(5), rel=1e-12)
    equal = Interval(0.5, 0.4, 0.6)
    assert "of_measured_shares" in results.theory({"weak": Interval(0.1, 0, 0.2), "strong": equal})
    assert "of_measured_shares" not in results.theory({"weak": Interval(0.0, 0, 0.2), "strong": equal})


def test_every_strength_of_the_sweep_is_a_method():
    for mode in ("paper", "fused"):
        for strength in (0.0, 1.0, *STRENGTHS):
            method = METHODS[sweep_name("weak", mode, strength)]
            assert (method.partner, method.mode, method.strength) == ("weak", mode, strength) or strength == 0


def test_an_unfinished_sweep_has_no_figure():
    assert figures.strength_figure({}, {}, "noise") is None
    assert figures.samples_figure({}, {}, DIGITS) is None
    assert figures.features_figure({}, DIGITS) is None
