"""The command for pictures of one latent space, on tiny pipelines saved to disk: what each gap makes and costs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support import disk_pairs, tiny, tiny_families
from tests.support.family_programs import image as main
from w2sd_video.loading.pipelines import load_pipeline
from w2sd_video.runs.picture_io import read_picture

QUICK = ("--steps", "3", "--reflections", "2", "--height", "16", "--width", "16", "--device", "cpu", "--quiet")
PROMPT = "a cat"


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for seed in (1, 2):
        disk_pairs.sdxl(seed).save_pretrained(root / f"sdxl-{seed}")
    tiny.sd15(1).save_pretrained(root / "sd15")
    tiny.flux(1).save_pretrained(root / "flux")
    tiny_families.sd3(1).save_pretrained(root / "sd3")
    return root


def run(disk: Path, output: Path, *words: str, strong: str = "sdxl-1", prompt: bool = True) -> dict[str, Any]:
    """The records of a run of one prompt by method; "" is run.json."""
    asked = ["--prompt", PROMPT] if prompt else []
    assert main([*QUICK, "--strong", str(disk / strong), *asked, *words, "--output", str(output)]) == 0
    lines = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
    return {**{line["method"]: line for line in lines}, "": json.loads((output / "run.json").read_text())}


def pixels(output: Path, method: str, prompt: str = PROMPT) -> np.ndarray:
    return read_picture(output / method / f"{prompt}-0.png").pixels


def moved(output: Path) -> np.ndarray:
    """What the reflection made of the picture, beyond what it makes without a gap."""
    return pixels(output, "w2sd").astype(int) - pixels(output, "zero-gap")


def stock(folder: Path, **arguments: Any) -> np.ndarray:
    """The picture of the stock pipeline for the same noise."""
    pipe = load_pipeline(str(folder), role="strong", dtype=torch.float32, quiet=True)
    pipe.set_progress_bar_config(disable=True)
    made = pipe(
        PROMPT,
        height=16,
        width=16,
        num_inference_steps=3,
        generator=torch.Generator("cpu").manual_seed(0),
        output_type="np",
        **arguments,
    ).images[0]
    return np.rint(made.clip(0, 1) * 255).astype(np.uint8)


GAPS: dict[str, tuple[str, ...]] = {
    "guidance 0": ("--guidance", "3", "--weak-guidance", "0"),
    "negative guidance": ("--guidance", "3", "--weak-guidance", "-10"),
    "guidance on a pipeline that samples unguided": ("--guidance", "1", "--weak-guidance", "-2"),
    "prompt": ("--guidance", "3", "--weak-prompt", "a dog"),
    "negative prompt": ("--guidance", "3", "--weak-negative-prompt", "a dog"),
    "checkpoint": ("--guidance", "3", "--weak", "sdxl-2"),
    "checkpoint and guidance": ("--guidance", "3", "--weak", "sdxl-2", "--weak-guidance", "0"),
}


def words_of(disk: Path, gap: str) -> list[str]:
    return [str(disk / word) if word.startswith("sdxl") else word for word in GAPS[gap]]


@pytest.mark.parametrize("gap", GAPS)
def test_a_gap_moves_the_picture_and_leaves_the_strong_side_the_stock_pipeline(
    gap: str, disk: Path, tmp_path: Path
) -> None:
    words = words_of(disk, gap)
    records = run(disk, tmp_path / "out", *words, "--methods", "strong,w2sd,zero-gap")
    scale = float(words[1])
    assert np.array_equal(pixels(tmp_path / "out", "strong"), stock(disk / "sdxl-1", guidance_scale=scale))
    assert moved(tmp_path / "out").any()
    assert [records[m]["num_evaluations"] for m in ("strong", "w2sd", "zero-gap")] == [3, 7, 7], "T and T + 2 lambda"
    weak = {"guidance 0": 1, "checkpoint and guidance": 1}.get(gap, 2)  # rows of the weak side's evaluation
    own = 1 if scale == 1 else 2
    assert records["w2sd"]["num_rows"] == 3 * own + 2 * (own + weak)
    settings = read_picture(tmp_path / "out" / records["w2sd"]["path"]).metadata
    assert (settings["guidance"], settings["pair"]["strong"]) == (scale, str(disk / "sdxl-1"))


def test_a_checkpoint_that_is_a_copy_is_no_gap(disk: Path, tmp_path: Path) -> None:
    shutil.copytree(disk / "sdxl-1", tmp_path / "copy")
    run(disk, tmp_path / "out", "--guidance", "3", "--weak", str(tmp_path / "copy"), "--methods", "w2sd,zero-gap")
    assert not moved(tmp_path / "out").any()


def test_two_gaps_together_are_neither_of_them_alone(disk: Path, tmp_path: Path) -> None:
    made = []
    for number, gap in enumerate(("guidance 0", "checkpoint", "checkpoint and guidance")):
        run(disk, tmp_path / str(number), *words_of(disk, gap), "--methods", "w2sd")
        made.append(pixels(tmp_path / str(number), "w2sd"))
    assert not any(np.array_equal(made[2], one) for one in made[:2])


def test_exchanged_roles_are_a_picture_of_their_own(disk: Path, tmp_path: Path) -> None:
    run(disk, tmp_path / "out", *words_of(disk, "checkpoint"), "--methods", "weak,w2sd,swapped")
    assert np.array_equal(pixels(tmp_path / "out", "weak"), stock(disk / "sdxl-2", guidance_scale=3.0))
    assert not np.array_equal(pixels(tmp_path / "out", "w2sd"), pixels(tmp_path / "out", "swapped"))


def test_swapping_a_prompt_gap_is_asking_for_the_pair_the_other_way_round(disk: Path, tmp_path: Path) -> None:
    same = ("--guidance", "3", "--methods", "weak,strong,w2sd,swapped")
    run(disk, tmp_path / "one", *same, "--weak-prompt", "a dog")
    run(disk, tmp_path / "other", *same, "--weak-prompt", PROMPT, "--prompt", "a dog", prompt=False)
    for one, other in (("weak", "strong"), ("swapped", "w2sd")):
        assert np.array_equal(pixels(tmp_path / "one", one), pixels(tmp_path / "other", other, "a dog"))


@pytest.mark.parametrize("separator", ["\t", ","])
def test_prompt_pairs_tell_each_side_its_own_prompt(separator: str, disk: Path, tmp_path: Path) -> None:
    table = tmp_path / ("pairs.csv" if separator == "," else "pairs.tsv")
    table.write_text(f"refined{separator}raw\na cat{separator}a dog\na fox{separator}a hen\n")
    same = ("--guidance", "3", "--methods", "weak,w2sd")
    records = run(disk, tmp_path / "pairs", *same, "--prompt-pairs", str(table), prompt=False)
    run(disk, tmp_path / "one", *same, "--weak-prompt", "a dog")
    assert records[""]["prompts"] == ["a cat", "a fox"]
    assert records[""]["pair"]["raw_prompts"] == {"a cat": "a dog", "a fox": "a hen"}
    for method in ("weak", "w2sd"):
        assert np.array_equal(pixels(tmp_path / "pairs", method), pixels(tmp_path / "one", method))


GUIDED = 3 * 2 + 2 * (2 + 1)  # rows: of T steps, and of both sides of lambda reflections, the weak one at guidance 1


@pytest.mark.parametrize(("strong", "rows"), [("sd15", GUIDED), ("flux", 3 + 2 * (1 + 1)), ("sd3", GUIDED)])
def test_other_families_take_a_guidance_gap_as_they_guide(strong: str, rows: int, disk: Path, tmp_path: Path) -> None:
    records = run(
        disk, tmp_path / "out", *("--guidance", "3", "--weak-guidance", "1", "--methods"), "strong,w2sd,zero-gap",
        strong=strong,
    )  # fmt: skip
    assert np.array_equal(pixels(tmp_path / "out", "strong"), stock(disk / strong, guidance_scale=3.0))
    assert moved(tmp_path / "out").any() and records["w2sd"]["num_rows"] == rows


@pytest.mark.parametrize("methods", ["weak,w2sd", "weak"])
def test_a_weak_folder_with_one_network_alone_makes_what_the_whole_pipeline_of_it_makes(
    disk: Path, tmp_path: Path, methods: str
) -> None:
    network = tmp_path / "network" / "unet"
    shutil.copytree(disk / "sdxl-2" / "unet", network)
    guided = ("--guidance", "3", "--methods", methods)
    run(disk, tmp_path / "whole", *guided, "--weak", str(disk / "sdxl-2"))
    run(disk, tmp_path / "alone", *guided, "--weak", str(network.parent))
    for method in methods.split(","):
        ours, theirs = (pixels(tmp_path / folder, method).astype(int) for folder in ("alone", "whole"))
        assert abs(ours - theirs).max() <= 1 and ours.std() > 1  # text and VAE are equal on both sides
