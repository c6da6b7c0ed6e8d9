"""The command for pictures of one latent space, on tiny pipelines saved to disk: what each gap makes and costs."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support import disk_pairs, tiny, tiny_families
from tests.support.family_programs import image as main
from w2sd_video.commands.prompts import read_prompt_pairs
from w2sd_video.loading.pipelines import load_pipeline
from w2sd_video.runs.picture_io import read_picture

QUICK = ("--steps", "3", "--reflections", "2", "--height", "16", "--width", "16", "--device", "cpu", "--quiet")
PROMPT = "a cat"
Made = Callable[[str], tuple[dict[str, Any], Path]]


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


@functools.cache
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


@pytest.fixture(scope="module")
def made(disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The records and the folder of a gap's run, which is made once."""

    @functools.cache
    def run_of(gap: str) -> tuple[dict[str, Any], Path]:
        output = tmp_path_factory.mktemp("gap")
        more = ",weak,swapped" * (gap == "checkpoint")
        return run(disk, output, *words_of(disk, gap), "--methods", f"strong,w2sd,zero-gap{more}"), output

    return run_of


@pytest.mark.parametrize("gap", GAPS)
def test_a_gap_moves_the_picture_and_leaves_the_strong_side_the_stock_pipeline(
    gap: str, disk: Path, made: Made
) -> None:
    records, output = made(gap)
    scale = float(GAPS[gap][1])
    assert np.array_equal(pixels(output, "strong"), stock(disk / "sdxl-1", guidance_scale=scale))
    assert moved(output).any()
    assert [records[m]["num_evaluations"] for m in ("strong", "w2sd", "zero-gap")] == [3, 7, 7], "T and T + 2 lambda"
    weak = {"guidance 0": 1, "checkpoint and guidance": 1}.get(gap, 2)  # rows of the weak side's evaluation
    own = 1 if scale == 1 else 2
    assert records["w2sd"]["num_rows"] == 3 * own + 2 * (own + weak)
    settings = read_picture(output / records["w2sd"]["path"]).metadata
    assert (settings["guidance"], settings["pair"]["strong"]) == (scale, str(disk / "sdxl-1"))


def test_a_checkpoint_that_is_a_copy_is_no_gap(disk: Path, tmp_path: Path) -> None:
    shutil.copytree(disk / "sdxl-1", tmp_path / "copy")
    run(disk, tmp_path / "out", "--guidance", "3", "--weak", str(tmp_path / "copy"), "--methods", "w2sd,zero-gap")
    assert not moved(tmp_path / "out").any()


def test_two_gaps_together_are_neither_of_them_alone(made: Made) -> None:
    *alone, both = (pixels(made(gap)[1], "w2sd") for gap in ("guidance 0", "checkpoint", "checkpoint and guidance"))
    assert not any(np.array_equal(both, one) for one in alone)


def test_exchanged_roles_are_a_picture_of_their_own(disk: Path, made: Made) -> None:
    output = made("checkpoint")[1]
    assert np.array_equal(pixels(output, "weak"), stock(disk / "sdxl-2", guidance_scale=3.0))
    assert not np.array_equal(pixels(output, "w2sd"), pixels(output, "swapped"))


def test_swapping_a_prompt_gap_is_asking_for_the_pair_the_other_way_round(disk: Path, tmp_path: Path) -> None:
    same = ("--guidance", "3", "--methods", "weak,strong,w2sd,swapped")
    run(disk, tmp_path / "one", *same, "--weak-prompt", "a dog")
    run(disk, tmp_path / "other", *same, "--weak-prompt", PROMPT, "--prompt", "a dog", prompt=False)
    for one, other in (("weak", "strong"), ("swapped", "w2sd")):
        assert np.array_equal(pixels(tmp_path / "one", one), pixels(tmp_path / "other", other, "a dog"))


def test_prompt_pairs_tell_each_side_its_own_prompt(disk: Path, tmp_path: Path) -> None:
    text, tables = "refined\traw\na cat\ta dog\na fox\ta hen\n", (tmp_path / "pairs.tsv", tmp_path / "pairs.csv")
    for table, separator in zip(tables, "\t,", strict=True):
        table.write_text(text.replace("\t", separator))
    assert read_prompt_pairs(tables[1]) == read_prompt_pairs(tables[0])
    same = ("--guidance", "3", "--methods", "weak,w2sd")
    records = run(disk, tmp_path / "pairs", *same, "--prompt-pairs", str(tables[0]), prompt=False)
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


def test_a_weak_folder_with_one_network_alone_makes_what_the_whole_pipeline_of_it_makes(
    disk: Path, tmp_path: Path
) -> None:
    network = tmp_path / "network" / "unet"
    shutil.copytree(disk / "sdxl-2" / "unet", network)
    run(disk, tmp_path / "whole", "--guidance", "3", "--methods", "weak,w2sd", "--weak", str(disk / "sdxl-2"))
    for methods in ("weak,w2sd", "weak"):
        run(disk, tmp_path / methods, "--guidance", "3", "--methods", methods, "--weak", str(network.parent))
        for method in methods.split(","):
            ours, theirs = (pixels(tmp_path / folder, method).astype(int) for folder in (methods, "whole"))
            assert abs(ours - theirs).max() <= 1 and ours.std() > 1  # text and VAE are equal on both sides


def test_a_step_cache_at_threshold_0_changes_nothing_and_a_run_keeps_to_its_own(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--guidance", "3", "--weak-guidance", "1", "--methods", "w2sd")
    folders = {"plain": (), "0": ("--cache", "first-block=0"), "1": ("--cache", "first-block=1")}
    records = {name: run(disk, tmp_path / name, *words, *more, strong="flux") for name, more in folders.items()}
    made = {name: pixels(tmp_path / name, "w2sd") for name in folders}
    assert np.array_equal(made["plain"], made["0"]) and not np.array_equal(made["plain"], made["1"])
    assert records["1"][""]["settings"]["cache"] == "first-block=1" and "cache" not in records["plain"][""]["settings"]
    told = [*QUICK, "--strong", str(disk / "flux"), "--prompt", PROMPT, *words, "--output", str(tmp_path / "1")]
    assert main(told) == 2 and "cache" in capsys.readouterr().err
