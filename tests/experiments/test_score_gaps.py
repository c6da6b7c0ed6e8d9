"""The gaps of the bundled SDXL: each method is what it says, costs what it says, and its LoRA is one that fits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from experiments.demo import gaps, lora
from experiments.demo.gaps import GAPS, REFLECTIONS, STEPS, Sampling, Setting
from experiments.engine import Score
from experiments.training import Phase
from safetensors.torch import load_file, save_file

from scripts import score_gaps
from w2sd_video.demo import LORA_WEIGHTS, PICTURE_WEIGHTS

LORA_FILE = LORA_WEIGHTS / "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def pipe():
    return gaps.load(PICTURE_WEIGHTS / "weak", LORA_WEIGHTS)


@pytest.fixture
def few_steps(monkeypatch):
    """Three steps, one of which is reflected (or guided)."""
    monkeypatch.setattr(gaps, "REFLECTIONS", 1)

    def shortened(method: Sampling) -> Sampling:
        return dataclasses.replace(method, steps=3, guided_steps=None if method.guided_steps is None else 1)

    return shortened


def made(pipe, method: Sampling) -> torch.Tensor:
    return gaps.generate(pipe, method, ["a red ring", "a red ring"], [1, 2])[0]


def cost(method: Sampling) -> tuple[int, int]:
    """Evaluations and rows of a method of three steps and one reflection, from the formulas."""
    rows = lambda side: 1 if side.guidance in (0, 1) else 2  # noqa: E731
    plain = rows(method.sampled)
    if method.guided_steps is not None:
        return 3, plain + 2 * (1 if method.then == 1 else 2)
    if method.weak is None:
        return 3, 3 * plain
    one, two = method.reflector, method.weak
    # Fused, both sides see one latent: a guidance gap has both from the same two halves.
    shared = method.mode == "fused" and one != two and dataclasses.replace(one, guidance=two.guidance) == two
    return 3 + 2, 3 * plain + (2 if shared else rows(one) + rows(two))


@pytest.mark.slow
@pytest.mark.parametrize("name", GAPS)
def test_every_method_costs_what_the_formulas_say_and_moves_pictures_its_own_way(name, pipe, few_steps):
    pictures = {}
    for label, method in GAPS[name].methods().items():
        pictures[label], run = gaps.generate(pipe, few_steps(method), ["a red ring"], [1])
        assert (run.num_evaluations, run.num_rows) == cost(few_steps(method)), label
    assert not torch.equal(pictures["zero-gap, paper mode"], pictures["W2SD, paper mode"])
    assert not torch.equal(pictures["W2SD, paper mode"], pictures["swapped roles"])


def test_the_control_at_equal_evaluations_makes_as_many_as_w2sd():
    for gap in GAPS.values():
        equal = next(method for label, method in gap.methods().items() if label.startswith("strong, equal"))
        assert equal.steps == STEPS + 2 * REFLECTIONS


def test_the_strong_side_alone_is_the_stock_pipeline(pipe, few_steps):
    ours = made(pipe, few_steps(Sampling(Setting(2.0, 0.8))))
    pipe.set_adapters(["captions"], [0.8])
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    size = {"height": 32, "width": 32, "num_inference_steps": 3}
    stock = pipe(["a red ring"] * 2, guidance_scale=2.0, generator=generators, output_type="pt", **size).images
    # The schedulers' float32 arithmetic and ours round apart, a step at a time; at the noisiest level that is divided
    # by alpha, the signal's share.
    rounding = 3 * torch.finfo(torch.float32).eps / pipe.scheduler.alphas_cumprod[-1].sqrt().item()
    assert torch.allclose(ours, stock.clamp(0, 1), rtol=0, atol=rounding)


def test_a_fused_reflection_without_a_gap_leaves_the_strong_sides_pictures(pipe, few_steps):
    for strong in (Setting(2.0), Setting(lora=0.8)):
        alone = made(pipe, few_steps(Sampling(strong)))
        assert torch.equal(made(pipe, few_steps(Sampling(strong, strong, strong, mode="fused"))), alone)


def test_matched_guidance_is_twice_the_strong_sides_less_the_weak_ones():
    labels = {name: [label for label in gap.methods() if label.startswith("matched")] for name, gap in GAPS.items()}
    assert labels["guidance"] == ["matched guidance 2, all steps", "matched guidance 2, first 10 steps"]
    assert labels["guidance-5.5"][0] == "matched guidance 11, all steps"
    assert labels["lora"] == labels["prompt"] == []


def test_guidance_for_the_first_steps_is_for_those_only(pipe, few_steps):
    """For none of the steps left over it is guidance throughout, and from then on it is the other guidance."""
    methods = GAPS["guidance"].methods()
    first = few_steps(next(method for method in methods.values() if method.guided_steps is not None))
    throughout, never = made(pipe, few_steps(Sampling(Setting(2.0)))), made(pipe, few_steps(Sampling(Setting())))
    assert torch.equal(made(pipe, dataclasses.replace(first, guided_steps=3)), throughout)
    assert not torch.equal(made(pipe, first), throughout)
    assert not torch.equal(made(pipe, first), never)


def test_the_raw_prompt_lacks_the_colour():
    assert Setting(raw=True).prompt("a red ring") == "a ring"
    assert Setting().prompt("a red ring") == "a red ring"


def test_equal_settings_have_one_key_and_others_another():
    methods = {method for gap in GAPS.values() for method in gap.methods().values()}
    assert len({method.key for method in methods}) == len(methods)
    assert GAPS["lora"].methods()["strong"].key == GAPS["cumulative"].methods()["strong"].key


def test_the_bundled_lora_is_small_and_changes_the_prediction(pipe):
    assert LORA_FILE.stat().st_size < 1_000_000
    pictures = [made(pipe, Sampling(Setting(lora=scale), steps=2)) for scale in (0.0, 0.8, -1.5)]
    assert not torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[0], pictures[2])


def test_training_starts_from_no_change_and_goes_on_where_it_stopped(tmp_path: Path):
    phase = Phase(18, steps=2, batch=4, learning_rate=1e-3, ema=0.9)
    files = []
    for times in (1, 2):  # the second folder's training is called again when it has finished
        for _ in range(times):
            pipe = lora.load_pipeline(PICTURE_WEIGHTS / "weak")
            lora.train_lora(pipe, tmp_path, 0, phase, pictures=8, quiet=True)
        files.append(load_file(lora.save_lora(pipe, tmp_path / str(times))))
    assert files[0].keys() == files[1].keys() == load_file(LORA_FILE).keys()
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])
    assert any(tensor.abs().max() > 0 for name, tensor in files[0].items() if "lora_B" in name or "up" in name)


def test_differences_are_to_the_gaps_own_controls():
    right, wrong = torch.ones(40, 2, dtype=torch.bool), torch.zeros(40, 2, dtype=torch.bool)
    methods = GAPS["lora"].methods()
    names = ("strong", "W2SD, paper mode", "zero-gap, paper mode")
    keys = dict(zip(names, (methods[name].key for name in names), strict=True))
    scores = {keys["strong"]: Score(wrong, 28, 28, 0.1), keys["W2SD, paper mode"]: Score(right, 48, 48, 0.2)}
    scores[keys["zero-gap, paper mode"]] = Score(right, 48, 48, 0.2)
    line = gaps.differences(scores).splitlines()[2]
    assert line == (
        "| LoRA 0.8 over -1.5 | paper mode | +1.000 [+1.000, +1.000] | +0.000 [+0.000, +0.000] | - | - | - |"
    )
    assert "| 48 | 48 | 1.000 | 1.000 | 1.000 | +1.000 [+1.000, +1.000] | 0.20 |" in gaps.table(scores)


def test_finished_methods_are_kept(tmp_path, monkeypatch, capsys):
    short = {"lora": dataclasses.replace(GAPS["lora"], label="short")}
    few = {"strong": Sampling(Setting(lora=0.8), steps=2), "weak": Sampling(Setting(lora=-1.5), steps=2)}
    monkeypatch.setattr(gaps.Gap, "methods", lambda gap: few | {"strong, equal": few["strong"]})
    monkeypatch.setattr(gaps, "GAPS", short)
    words = ["--count", "2", "--curves", "none", "--output", str(tmp_path), "--quiet", "--threads", "1"]
    assert score_gaps.main(words) == 0
    first = capsys.readouterr().out
    assert "| short | weak | 2 | 2 |" in first
    monkeypatch.setattr(gaps, "score", None)  # nothing is made again
    assert score_gaps.main(words) == 0
    assert capsys.readouterr().out == first


def test_a_lora_of_another_network_is_refused(tmp_path, capsys):
    wrong = {name: torch.cat([tensor, tensor], dim=1) for name, tensor in load_file(LORA_FILE).items()}
    save_file(wrong, tmp_path / "wide.safetensors")
    assert score_gaps.main(["--lora", str(tmp_path / "wide.safetensors"), "--output", str(tmp_path)]) == 2
    assert "does not fit" in capsys.readouterr().err
