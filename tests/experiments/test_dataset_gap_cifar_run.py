"""The paper's own setting from end to end, on made-up files of CIFAR-10's format and with a small network."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from experiments.dataset_gap import cifar, results
from experiments.dataset_gap.recipe import CIFAR
from experiments.dataset_gap.scoring import METHODS
from experiments.training import Phase
from PIL import Image

from scripts import score_dataset_gap, train_dataset_gap

SMALL = replace(
    CIFAR,
    network=dict(CIFAR.network) | {"block_out_channels": (32, 32, 32), "layers_per_block": 1, "attention_head_dim": 8},
    judge_width=8,
    judge_phase=Phase(1, steps=3, batch=24, learning_rate=2e-3, ema=0.9),
    network_phase=Phase(2, steps=2, batch=4, learning_rate=1e-3, ema=0.9),
)


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    made = tmp_path / "cifar-10-batches-py"
    made.mkdir()
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        count = 100 if name == "test_batch" else 40
        data = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        batch = {b"labels": [n % 10 for n in range(count)], b"data": data}
        (made / name).write_bytes(pickle.dumps(batch, protocol=2))
    return made


@pytest.mark.slow
def test_both_commands_take_a_folder_of_cifar_batches(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cifar, "CIFAR", SMALL)
    for name in ("strong", "w2sd"):
        monkeypatch.setitem(METHODS, name, replace(METHODS[name], steps=2, num_reflections=1))
    monkeypatch.setattr(results, "NUM_COSINES", 2)
    monkeypatch.setattr(results, "STEPS", 2)
    weights, given = tmp_path / "weights", ["--cifar-dir", str(folder), "--quiet"]
    trained = ["--paths", "noise", "--output", str(weights), "--work", str(tmp_path / "work")]
    assert train_dataset_gap.main([*given, *trained]) == 0
    scored = ["--weights", str(weights), "--output", str(tmp_path / "out"), "--count", "3", "--methods", "strong,w2sd"]
    assert score_dataset_gap.main([*given, *scored]) == 0
    written = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert (written["majority"], written["minority"]) == ("horse", "automobile")
    assert written["trained_on"] == {"weak": [20, 2], "strong": [20, 10], "ideal": [20, 20]}
    assert written["methods"].keys() == {"strong", "w2sd"}
    assert Image.open(tmp_path / "out" / "samples.png").width > 2 * 32
    # The bundled networks are for digits.
    capsys.readouterr()
    assert score_dataset_gap.main([*given, "--output", str(tmp_path / "other")]) == 2
    assert "not for cifar" in capsys.readouterr().err
