"""Training for the dataset gap: it learns, repeats byte for byte, resumes, and differs between sides by data alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from experiments.dataset_gap import training
from experiments.dataset_gap.judge import Judge, judging_loss, load_judge
from experiments.dataset_gap.networks import build_network, load_network
from experiments.dataset_gap.pictures import Pictures, Split, load_digits
from experiments.dataset_gap.recipe import CIFAR, DIGITS, PATHS
from experiments.dataset_gap.training import export_judge, export_network
from experiments.training import Phase, generator_for

from scripts import train_dataset_gap
from w2sd_video.errors import UserError

TINY = replace(
    DIGITS,
    network=dict(DIGITS.network) | {"block_out_channels": (8, 8), "norm_num_groups": 4},
    judge_width=8,
    judge_phase=Phase(1, steps=40, batch=24, learning_rate=5e-3, ema=0.9),
    network_phase=Phase(2, steps=16, batch=16, learning_rate=4e-3, ema=0.9),
)


@pytest.fixture(scope="module")
def split() -> Split:
    return load_digits()


def network_of(seen: Pictures, path: str, folder: Path, *, side: str = "strong", recipe=TINY, seed: int = 0):
    folder.mkdir(parents=True, exist_ok=True)
    return training.train_network(recipe, seen, path, side, folder, seed=seed, device="cpu", quiet=True)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("path", PATHS)
def test_training_lowers_the_loss_on_draws_it_has_not_seen(split, tmp_path, path):
    torch.manual_seed(0)
    fresh = build_network(TINY)
    trained = network_of(split.seen, path, tmp_path)
    later = [generator_for(1, TINY.network_phase, step) for step in range(20)]

    @torch.no_grad()
    def loss(network) -> float:
        found = training.LOSSES[path](network, split.seen.of_side("strong"), TINY)
        return sum(found(torch.Generator().manual_seed(g.initial_seed())).item() for g in later)

    assert loss(trained) < 0.8 * loss(fresh)


@pytest.mark.slow
def test_training_twice_writes_the_same_bytes(split, tmp_path):
    for name in ("one", "other"):
        folder = tmp_path / name
        (folder / "work").mkdir(parents=True)
        export_network(folder, "noise", "weak", network_of(split.seen, "noise", folder / "work", side="weak"))
        judge = training.train_judge(TINY, split.seen, folder / "work", 0, "cpu", True)
        export_judge(folder, TINY, judge, split.unseen)
    one, other = (files(tmp_path / name) for name in ("one", "other"))
    assert any(name.endswith(".safetensors") for name in one)
    assert {n: b for n, b in one.items() if "work" not in n} == {n: b for n, b in other.items() if "work" not in n}


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(split, tmp_path, monkeypatch):
    """Killed at a loss that raises, after a save at every step."""
    whole = network_of(split.seen, "noise", tmp_path / "whole")
    original, real_train, calls = training.LOSSES["noise"], training.train, 0

    def failing(*args):
        inner = original(*args)

        def loss(generator):
            nonlocal calls
            calls += 1
            if calls == 10:
                raise KeyboardInterrupt
            return inner(generator)

        return loss

    monkeypatch.setattr(training, "train", lambda *args: real_train(*args, save_every=0.0))
    monkeypatch.setitem(training.LOSSES, "noise", failing)
    with pytest.raises(KeyboardInterrupt):
        network_of(split.seen, "noise", tmp_path / "cut")
    resumed = network_of(split.seen, "noise", tmp_path / "cut")
    assert calls == 10 + TINY.network_phase.steps - 9, "nine steps were kept"
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_another_seed_or_recipe_is_not_continued_from_these_files(split, tmp_path):
    network_of(split.seen, "noise", tmp_path)
    with pytest.raises(UserError, match="other settings"):
        network_of(split.seen, "noise", tmp_path, seed=1)


def test_the_sides_differ_by_their_pictures_alone(split, tmp_path):
    """One step of the three sides: the same initial weights, and batches that differ where the minority replaces."""
    batches = {
        side: training.drawn(split.seen.of_side(side), TINY, torch.Generator().manual_seed(5))
        for side in ("weak", "strong", "ideal")
    }
    same = {side: (batches[side] == batches["strong"]).flatten(1).all(1) for side in ("weak", "ideal")}
    assert same["weak"].sum() >= 9 and same["ideal"].sum() >= 8  # 16 less the 5 or 6 rare of 1/3; less those of 1/2
    as_ideal = replace(TINY, network_phase=replace(TINY.network_phase, steps=1))
    everything = Pictures(split.seen.majority, split.seen.majority, split.seen.others)
    nets = [network_of(everything, "noise", tmp_path / side, side=side, recipe=as_ideal) for side in ("weak", "ideal")]
    pairs = list(zip(*(net.parameters() for net in nets), strict=True))
    # Where the minority looks like the majority, only which of its pictures is drawn differs.
    torch.manual_seed(0)
    fresh = build_network(TINY)
    moved = sum((a - b).norm() for a, b in zip(nets[0].parameters(), fresh.parameters(), strict=True))
    apart = sum((a - b).norm() for a, b in pairs)
    assert apart < 0.5 * moved


@pytest.mark.parametrize(("side", "share"), [("weak", 1 / 11), ("strong", 1 / 3), ("ideal", 1 / 2)])
def test_batches_hold_each_class_in_proportion(split, side, share):
    pictures = split.seen.of_side(side)
    marked = Pictures(torch.full_like(pictures.majority, -1.0), torch.ones_like(pictures.minority), pictures.others)
    recipe = replace(TINY, augmentation=CIFAR.augmentation)
    rare = [
        (training.drawn(marked, recipe, torch.Generator().manual_seed(n)).mean(dim=(1, 2, 3)) > 0).sum().item()
        for n in range(300)
    ]
    batch = TINY.network_phase.batch
    assert all(abs(number - share * batch) < 1 for number in rare)
    # Between two whole numbers by chance: a standard error of at most 0.5 / sqrt(300) = 0.03.
    assert sum(rare) / len(rare) == pytest.approx(share * batch, abs=0.12)


def test_spread_levels_cover_every_part_once():
    values = training.spread(32, torch.Generator().manual_seed(0))
    assert sorted((values * 32).long().tolist()) == list(range(32))
    assert values.tolist() != sorted(values.tolist())


def test_the_judge_learns_what_is_neither(split, tmp_path):
    judge = training.train_judge(TINY, split.seen, tmp_path, 0, "cpu", True)
    torch.manual_seed(0)
    fresh = Judge(1, 8, 8)
    with torch.no_grad():
        losses = [
            judging_loss(some, split.seen, TINY)(torch.Generator().manual_seed(3)).item() for some in (fresh, judge)
        ]
    assert losses[1] < 0.8 * losses[0]


def test_the_recipe_for_cifar_builds_its_network_and_takes_its_pictures():
    small = replace(CIFAR, network=dict(CIFAR.network) | {"block_out_channels": (32, 64, 64)})
    small = replace(small, network_phase=replace(small.network_phase, batch=4))
    pictures = Pictures(torch.zeros(20, 3, 32, 32), torch.ones(20, 3, 32, 32), torch.zeros(8, 3, 32, 32))
    for path in PATHS:
        value = training.LOSSES[path](build_network(small), pictures.of_side("weak"), small)(torch.Generator())
        assert value.isfinite() and value.requires_grad
    assert judging_loss(Judge(3, 32, 8), pictures, small)(torch.Generator()).isfinite()


def test_weights_that_are_missing_or_damaged_are_named(tmp_path):
    with pytest.raises(UserError, match="holds no network"):
        load_network(tmp_path)
    with pytest.raises(UserError, match="holds no judge"):
        load_judge(tmp_path)
    export_network(tmp_path, "noise", "weak", build_network(TINY))
    weights = tmp_path / "noise" / "weak" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        load_network(tmp_path / "noise" / "weak")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--threads", "0"], "--threads is 0"),
        (["--paths", "noise,sound"], "unknown path 'sound'; choose from noise, flow"),
        (["--cifar-dir", "nowhere"], "nowhere is no folder"),
    ],
)
def test_what_cannot_be_trained_ends_with_code_2(arguments, said, capsys, tmp_path):
    code = train_dataset_gap.main([*arguments, "--output", str(tmp_path / "out"), "--work", str(tmp_path / "work")])
    assert code == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [], "nothing is written before what is asked for is checked"


def test_without_scikit_learn_the_remedy_is_named(capsys, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    code = train_dataset_gap.main(["--output", str(tmp_path / "out"), "--work", str(tmp_path / "work")])
    assert code == 2
    assert "pip install -e '.[digits]'" in capsys.readouterr().err
