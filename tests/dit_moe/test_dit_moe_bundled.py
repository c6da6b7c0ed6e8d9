"""The bundled digits network: what is shipped, that it draws what is asked, and what its report says of scores."""

import sys
from pathlib import Path

import pytest
import torch
from experiments.digits import gaps, scoring
from experiments.digits.judge import JUDGE, load_judge

from bridges.dit_moe.demo import WEIGHTS

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from scripts import score_digits

STEPS = 12


@pytest.fixture(scope="module")
def pipe():
    return scoring.load(WEIGHTS)


def scored(seed: int, num_evaluations: int = 50) -> scoring.Score:
    """40 made-up readings: every picture right but for one in `seed + 2`."""
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.rand(40, 10, generator=generator, dtype=torch.float64).softmax(dim=1)
    features = torch.randn(40, 32, generator=generator, dtype=torch.float64)
    correct = torch.arange(40) % (seed + 2) > 0
    return scoring.Score(features, probabilities, correct, num_evaluations, 100, 0.1, 0.01)


def test_the_bundle_is_a_half_precision_pipeline_of_a_few_megabytes(pipe):
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 5e6
    from safetensors import safe_open

    for path in WEIGHTS.rglob("*.safetensors"):
        with safe_open(path, "pt") as stored:
            assert {stored.get_slice(key).get_dtype() for key in stored.keys()} == {"F16"}, path  # noqa: SIM118
    config = pipe.transformer.config
    assert (config.num_experts, config.num_experts_per_tok, config.num_classes) == (8, 2, 10)


def test_the_judge_reads_most_pictures_as_the_class_asked_for_and_the_weak_side_is_worse(pipe):
    judge = load_judge(WEIGHTS / JUDGE)
    labels, seeds = scoring.labels_and_seeds(40)

    def correct(method: scoring.Method) -> int:
        pictures, _ = scoring.generate(pipe, method, labels, seeds)
        return (judge.read(pictures).probabilities.argmax(dim=1) == torch.tensor(labels)).sum().item()

    strong = correct(scoring.Method("strong", steps=STEPS))
    weak = correct(scoring.Method("weak", routing=scoring.BOTTOM, steps=STEPS))
    # .96 and .34 of 2000 pictures with 50 steps: 4 and 7 standard deviations of 40 pictures from these bounds
    assert strong >= 33
    assert weak <= 34 - 12


def test_every_expert_is_used_so_that_top_and_bottom_differ(pipe):
    labels = torch.arange(10)
    latents = torch.randn(10, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), pipe.transformer.recording() as record:
        for timestep in (900, 500, 100):
            pipe.transformer(latents, torch.full((10,), timestep), labels)
    used = sum(load.double() for load in record.loads())
    assert (used > 0).all()  # [layers, experts]


def test_methods_count_the_evaluations_that_their_table_promises(pipe):
    lam = STEPS - 2
    for weak, expected in ((None, STEPS), (scoring.WEAK, STEPS + 2 * lam), ("zero-gap", STEPS + 2 * lam)):
        _, run = scoring.generate(pipe, scoring.Method("", weak, steps=STEPS, num_reflections=lam), [3], [0])
        assert run.num_evaluations == expected


def test_a_gap_that_points_at_what_is_missing_is_worth_adding_and_one_that_does_not_is_not():
    latents = torch.randn(60, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.zeros(60, dtype=torch.long)
    alphas, sigmas = gaps.signal_rates()

    def off_by(amount: float, along: str):
        """The noise that was really added, off by `amount` times the latent or by as much in an unrelated way."""

        def predict(x, timesteps, labels):
            noise = (x - alphas[timesteps[0]] * latents) / sigmas[timesteps[0]]
            unrelated = torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
            return noise - amount * (latents if along == "latent" else unrelated)

        return predict

    (found,) = gaps.gap_by_level(off_by(0.2, "latent"), off_by(0.6, "latent"), latents, labels, [500])
    # the strong lacks 0.2 latents, and the gap is 0.4 latents
    assert found.best == pytest.approx(0.5, abs=1e-4)
    assert found.weak_error / found.strong_error == pytest.approx(9, rel=1e-3)
    (found,) = gaps.gap_by_level(off_by(0.2, "latent"), off_by(0.6, "noise"), latents, labels, [500])
    # now the gap is 0.6 unrelated - 0.2 latents: E[gap . lack] / E[gap . gap] = -0.04 / 0.4
    assert found.best == pytest.approx(-0.1, abs=4 * found.margin / 1.96)
    assert 0 < found.margin < 0.03


def test_the_sweep_is_drawn_once_every_point_is_scored(tmp_path):
    reference = torch.randn(50, 32, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    scores = {name: scored(i % 5) for i, name in enumerate(scoring.METHODS)}
    assert scoring.sweep_plot(scores, reference, tmp_path / "sweep.png", draws=20)
    some = {name: score for name, score in scores.items() if name != "w2sd-20"}
    assert not scoring.sweep_plot(some, reference, tmp_path / "none.png", draws=20)
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.png"]
    for name, against in scoring.PAIRS:
        assert {name, against} <= set(scoring.METHODS)
    lines = scoring.pairs({name: scores[name] for name in ("strong", "w2sd")}, reference, draws=20).splitlines()
    assert len(lines) == 3  # the head, and the only pair that is finished
    difference = scores["w2sd"].correct.double().mean() - scores["strong"].correct.double().mean()
    assert f"| {difference:+.3f} [" in lines[2]


@pytest.mark.slow  # test_engine keeps finished scores in small
def test_scoring_keeps_what_is_finished_and_refuses_what_cannot_be_scored(tmp_path, capsys):
    words = ["--count", "4", "--methods", "strong", "--output", str(tmp_path), "--quiet"]
    assert score_digits.main(words) == 0
    kept = (tmp_path / "strong.pt").stat().st_mtime_ns
    assert "| strong: top 2 of 8 experts | 50 | 100 |" in capsys.readouterr().out
    assert score_digits.main(words) == 0
    assert (tmp_path / "strong.pt").stat().st_mtime_ns == kept
    assert score_digits.main(["--count", "1"]) == 2
    assert score_digits.main(["--methods", "stronger"]) == 2
    assert score_digits.main(["--weights", str(tmp_path)]) == 2
    assert "holds no pipeline" in capsys.readouterr().err
