"""Prompts and LoRAs as gaps of the command for videos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import tiny, tiny_loras
from tests.support.family_programs import video as main
from tests.support.saved_pairs import save_pair
from w2sd_video.runs.video_io import read_video

pytestmark = pytest.mark.slow  # tests/gaps and test_generate_image_gaps.py hold the gaps; these repeat them on videos

SIZES = ("--steps", "3", "--num-frames", "2", "--height", "16", "--width", "16", "--device", "cpu")
QUICK = (*SIZES, "--guidance", "2", "--weak-guidance", "2")  # no gap in guidance
LORA = ("--lora", "a=@lora.safetensors:0.8")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("video-gaps")
    save_pair(root)
    unet = tiny.motion_unet(1)
    modules = [name for name, _ in unet.named_modules() if name.endswith(("to_q", "to_v")) and "motion" not in name]
    tiny_loras.kohya_file(root / "lora.safetensors", unet, modules, alpha=40.0)
    return root


def words(disk: Path, *given: str, weak: str = "strong", prompt: str = "a ring") -> list[str]:
    asked = ["--strong", "@strong", "--weak", f"@{weak}", "--prompt", prompt, *given]
    return [*QUICK, "--video-format", "png", "--quiet", *(word.replace("@", f"{disk}/") for word in asked)]


def run(disk: Path, output: Path, *given: str, **which: str) -> dict[str, np.ndarray]:
    """The frames by method, lossless."""
    assert main([*words(disk, *given, **which), "--output", str(output)]) == 0
    records = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
    return {record["method"]: read_video(output / record["path"]).frames for record in records}


def alike(one: Any, other: Any) -> bool:
    return bool(np.array_equal(one, other))


ALL = ("--methods", "weak,strong,w2sd,zero-gap,swapped")


def test_the_weak_side_is_told_its_own_prompt(disk: Path, tmp_path: Path) -> None:
    made = run(disk, tmp_path / "gap", *ALL, "--weak-prompt", "a cross")
    plain = run(disk, tmp_path / "plain", "--methods", "strong", "--reflections", "0")
    assert alike(made["strong"], plain["strong"]) and not alike(made["w2sd"], made["zero-gap"])
    other = run(disk, tmp_path / "other", "--methods", "strong", "--reflections", "0", prompt="a cross")
    assert alike(made["weak"], other["strong"]), "one checkpoint: the weak side is the strong one told the other prompt"


def test_exchanging_the_prompts_exchanges_w2sd_and_swapped(disk: Path, tmp_path: Path) -> None:
    one = run(disk, tmp_path / "one", "--methods", "w2sd,swapped", "--weak-prompt", "a cross")
    other = run(disk, tmp_path / "two", "--methods", "w2sd,swapped", "--weak-prompt", "a ring", prompt="a cross")
    assert alike(one["swapped"], other["w2sd"]) and alike(one["w2sd"], other["swapped"])


def test_a_lora_is_a_gap_between_equal_checkpoints(disk: Path, tmp_path: Path) -> None:
    made = run(disk, tmp_path / "gap", *ALL, *LORA)
    plain = run(disk, tmp_path / "plain", "--methods", "strong", "--reflections", "0")
    assert alike(made["weak"], plain["strong"]) and not alike(made["strong"], plain["strong"])
    assert len({frames.tobytes() for frames in made.values()}) == 5
    turned = run(disk, tmp_path / "turned", *ALL, "--lora", "a=@lora.safetensors:0", "--weak-lora", "a:0.8")
    for method, counterpart in (("weak", "strong"), ("w2sd", "swapped"), ("swapped", "w2sd")):
        assert alike(made[method], turned[counterpart]), method


def test_a_gap_of_checkpoints_and_one_of_loras_add_up_to_a_third(disk: Path, tmp_path: Path) -> None:
    weights = run(disk, tmp_path / "weights", "--methods", "w2sd", weak="weak")
    lora = run(disk, tmp_path / "lora", "--methods", "w2sd", *LORA)
    both = run(disk, tmp_path / "both", "--methods", "w2sd", *LORA, weak="weak")
    assert not alike(both["w2sd"], weights["w2sd"]) and not alike(both["w2sd"], lora["w2sd"])
    record = json.loads((tmp_path / "both" / "run.json").read_text())
    assert record["pair"]["loras"] == {"a": {"from": str(disk / "lora.safetensors"), "strong": 0.8, "weak": 0.0}}
