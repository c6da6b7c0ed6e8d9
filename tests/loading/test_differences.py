"""The weak side as a difference: what is written, how exactly, and that it reflects as the weak network itself does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support import disk_pairs, tiny
from tests.support.layouts import save_single_file
from w2sd_video import ModelSpec, reflected
from w2sd_video.commands.difference import main
from w2sd_video.errors import UserError
from w2sd_video.loading.describe import describe
from w2sd_video.loading.differences import _own_names, factors, find_difference, read_report
from w2sd_video.loading.loras import load_loras

LINEAR = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"  # without a bias
CONV = "down_blocks.0.resnets.0.conv1"
BIASED = "down_blocks.0.resnets.0.time_emb_proj"  # its bias alone differs
NORM = "mid_block.resnets.0.norm1.weight"
CALL = {**tiny.IMAGE_CALL, "num_inference_steps": 3, "guidance_scale": 1.0, "output_type": "latent"}


def changed(*, norm: bool = False) -> Any:
    """The tiny SDXL network with a difference of rank 3 in a linear and a convolution, and a bias."""
    unet, generator = tiny.sdxl_unet(1), tiny.generator(7)
    with torch.no_grad():
        for name in (LINEAR, CONV):
            weight = unet.get_submodule(name).weight
            flat = weight.flatten(1)
            up, down = (torch.randn(*shape, generator=generator) for shape in ((len(flat), 3), (3, flat.shape[1])))
            weight += (0.05 * up @ down).view_as(weight)
        unet.get_submodule(BIASED).bias += 0.3
        if norm:
            unet.get_parameter(NORM).mul_(1.5)
    return unet


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("difference")
    for name, unet in (
        ("strong", tiny.sdxl_unet(1)),
        ("weak", changed()),
        ("with-norm", changed(norm=True)),
        ("other-shape", tiny.sd15_unet(1)),
    ):
        unet.save_pretrained(root / name / "unet")
    return root


def sides(folder: Path, strong: str, weak: str) -> Any:
    return [describe(str(folder / name), role, lent=True) for role, name in (("strong", strong), ("weak", weak))]


def test_factors_are_the_nearest_of_their_rank_and_energy_takes_the_fewest():
    """Eckart-Young: the least squared error is the sum of the squares of the singular values left out."""
    generator = tiny.generator(1)
    left, right = (torch.linalg.qr(torch.randn(n, 300, generator=generator)).Q for n in (320, 400))
    values = 1.0 / torch.arange(1, 301) ** 1.5
    matrix = left * values @ right.T
    for rank in (4, 12):  # large enough that the decomposition is the randomised one
        down, up = factors(matrix, rank=rank, energy=None, generator=tiny.generator(2))
        assert down.shape == (rank, 400) and up.shape == (320, rank)
        best = values[rank:].square().sum().sqrt()
        assert best * 0.9999 <= (matrix - up @ down).norm() <= best * 1.001
    again = factors(matrix, rank=12, energy=None, generator=tiny.generator(2))
    assert torch.equal(again[0], down) and torch.equal(again[1], up)
    share = values.square().cumsum(0) / values.square().sum()
    for energy in (0.9, 0.999):
        down, _ = factors(matrix, rank=None, energy=energy, generator=tiny.generator(2))
        assert len(down) == int((share < energy).sum()) + 1
    down, _ = factors(matrix, rank=3, energy=0.999, generator=tiny.generator(2))
    assert len(down) == 3


def test_the_difference_is_that_of_the_weights_and_what_has_no_place_is_listed(folder):
    tensors, found = find_difference(*sides(folder, "strong", "with-norm"), rank=3)
    assert set(found.layers) == {LINEAR, CONV, BIASED} and found.biases == 1
    assert {name: layer.rank for name, layer in found.layers.items()} == {LINEAR: 3, CONV: 3, BIASED: 0}
    assert max(layer.error for layer in found.layers.values()) < 1e-5
    assert found.not_carried == {NORM: pytest.approx(0.5, rel=1e-5)}
    ours, theirs = tiny.sdxl_unet(1), changed(norm=True)
    squares = {
        name: (theirs.get_parameter(name) - tensor).detach().double().square().sum()
        for name, tensor in ours.named_parameters()
    }
    assert found.error == pytest.approx(float((squares[NORM] / sum(squares.values())).sqrt()), rel=1e-4)
    up, down = (tensors[f"unet.{CONV}.lora_{half}.weight"] for half in "BA")
    delta = theirs.get_submodule(CONV).weight - ours.get_submodule(CONV).weight
    assert torch.allclose((up.flatten(1) @ down.flatten(1)).view_as(delta), delta, atol=1e-6)
    _, short = find_difference(*sides(folder, "strong", "weak"), rank=1)
    assert all(0.3 < short.layers[name].error < 0.95 for name in (LINEAR, CONV))
    assert 0 < short.error < 0.95 and short.worst[-1][0] == BIASED


def test_it_reflects_as_the_weak_network_does_with_one_network_in_one_batch(folder, capsys):
    """Fused: one call evaluates both sides. The two ways differ by rounding of x W + x A B against x (W + B A)."""
    path = folder / "difference.safetensors"
    command = ["--strong", str(folder / "strong"), "--weak", str(folder / "weak"), "--rank", "3", str(path)]
    assert main([*command, "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["layers"][LINEAR]["rank"] == 3 and report["biases"] == 1
    kept = read_report(path)
    assert kept is not None and kept["layers"] == report["layers"] and kept["seed"] == 0
    pipe = tiny.sdxl(1)
    weak = changed()
    with reflected(pipe, weak, num_reflections=2, mode="fused") as run:
        wanted = pipe("a cat", **CALL, generator=tiny.generator()).images
    assert (run.num_evaluations, run.num_rows) == (7, 7)
    with reflected(pipe, num_reflections=0):
        plain = pipe("a cat", **CALL, generator=tiny.generator()).images
    assert load_loras(pipe, {"weak": path}).layers == {"weak": 3}
    calls: list[int] = []
    hook = pipe.unet.register_forward_hook(lambda module, args, output: calls.append(1))
    with reflected(
        pipe, ModelSpec(loras={"weak": 1.0}), num_reflections=2, mode="fused", reflector=ModelSpec(loras={"weak": 0.0})
    ):
        made = pipe("a cat", **CALL, generator=tiny.generator()).images
    hook.remove()
    assert len(calls) == 5  # three steps, and one call for both sides of each reflection
    assert (made - wanted).abs().max() <= 1e-4 * wanted.abs().max() < (plain - wanted).abs().max()


def test_a_single_file_is_read_under_the_names_of_diffusers(tmp_path):
    pipe = disk_pairs.sdxl(2)
    save_single_file(pipe, tmp_path / "weak.safetensors")
    pipe.save_pretrained(tmp_path / "folder")
    file = describe(str(tmp_path / "weak.safetensors"), "weak", config=str(tmp_path / "folder"))
    weights = file.weights("unet")
    assert weights is not None
    table, tensors = _own_names(file, "unet", weights), load_file(tmp_path / "weak.safetensors")
    own = pipe.unet.state_dict()
    assert table.keys() == own.keys() and all(torch.equal(tensors[table[name]], own[name]) for name in own)


def test_what_cannot_be_written_is_refused(folder, capsys):
    with pytest.raises(UserError, match="do not differ"):
        find_difference(*sides(folder, "strong", "strong"), rank=4)
    with pytest.raises(UserError, match=r"mid_block\.resnets\.0\.norm1\.weight alone"):
        find_difference(*sides(folder, "weak", "with-norm"), rank=4)
    with pytest.raises(UserError, match="not of one shape"):
        other = describe(str(folder / "strong"), "strong", lent=True), sd15(folder)
        find_difference(*other, rank=4)
    strong, weak = f"--strong={folder / 'strong'}", f"--weak={folder / 'weak'}"
    for words, said in (
        ([strong, weak], "the file to write is missing"),
        ([strong, weak, "x.bin"], "x.bin"),
        ([strong, weak, "--output", "a.safetensors", "b.safetensors"], "given twice"),
        ([strong, "a.safetensors"], "--weak is missing"),
        ([strong, "--weak", "owner/name", "a.safetensors"], "hub id; download it"),
        ([strong, weak, "--rank", "0", "a.safetensors"], "rank is 0"),
        ([strong, weak, "--energy", "2", "a.safetensors"], "energy is 2"),
    ):
        assert main(words) == 2
        assert said in capsys.readouterr().err


def sd15(folder: Path) -> Any:
    return describe(str(folder / "other-shape"), "weak", lent=True)
