"""Whole commands started several times over: the bytes of one process, whoever is killed when, and as shards."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
WORDS = (
    *("image", "--prompt", "a red ring", "--prompt", "a blue square", "--num", "6"),
    *("--steps", "3", "--methods", "strong,w2sd", "--device", "cpu", "--quiet"),
)
TOTAL = 2 * 6 * 2


def start(output: Path, *more: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "w2sd_video", *WORDS, *more, "--output", str(output)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]


def made(output: Path) -> dict[str, bytes]:
    """All pictures, comparisons too, and what results.jsonl says of them beside times and memory."""
    found = {str(path.relative_to(output)): path.read_bytes() for path in sorted(output.rglob("*.png"))}
    told = [{k: v for k, v in line.items() if k not in ("seconds", "peak_memory_mb")} for line in lines(output)]
    return {**found, "results": json.dumps(told).encode()}


def assert_once(output: Path, expected: dict[str, bytes]) -> None:
    assert made(output) == expected
    keys = [(line["method"], line["prompt"], line["index"]) for line in lines(output)]
    assert len(keys) == len(set(keys)) == TOTAL
    assert not (output / ".shared").exists()


def all_done(processes: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    return [process.wait(300) for process in processes]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("one") / "run"
    assert all_done([start(output)]) == [0]
    return made(output)


@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_and_several_shards_make_the_bytes_of_one(
    count: int, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    assert all_done([start(tmp_path / "shared", "--shared") for _ in range(count)]) == [0] * count
    assert_once(tmp_path / "shared", expected)
    shards = [start(tmp_path / "shards", "--shard", f"{number}/{count}") for number in range(count)]
    assert all_done(shards) == [0] * count
    assert_once(tmp_path / "shards", expected)


@pytest.mark.parametrize("attempt", range(10))
def test_one_killed_at_a_random_moment_costs_nothing_and_nothing_is_made_twice(
    attempt: int, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    chance = random.Random(attempt)
    output = tmp_path / "run"
    one, other = start(output, "--shared"), start(output, "--shared")
    begin = time.monotonic()
    while time.monotonic() - begin < 120 and not list(output.glob("*/*.png")):
        time.sleep(0.02)
    time.sleep(chance.uniform(0, 1.5))
    victim, rest = (one, other) if chance.random() < 0.5 else (other, one)
    victim.kill()
    victim.wait(60)
    assert rest.wait(300) == 0
    if (output / ".shared").exists():  # the one killed was the last one there: it was left to it to tidy up
        assert made(output) == expected
        assert start(output, "--shared").wait(300) == 0
    assert_once(output, expected)
    assert all_done([start(output)]) == [0]  # there is nothing left to do, and nothing changes
    assert_once(output, expected)
