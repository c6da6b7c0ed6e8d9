"""On a device other than the CPU (a pretended one): the same results, nothing on the wrong side, few host reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CALLS = ("lambda 0", "paper", "zero-gap", "guidance", "cached")


def _rows(*names: str) -> list[dict]:
    """What a process of its own prints, as torch knows of the device for the rest of a process."""
    made = subprocess.run(
        [sys.executable, "-m", "tests.support.pretended_device", *names],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr[-3000:]
    return [json.loads(line) for line in made.stdout.splitlines()]


def _check(row: dict) -> None:
    for call in CALLS:
        assert "failed" not in row[call], (row["pipeline"], call, row[call])
        if "refused" not in row[call]:
            assert row[call]["difference"] < 1e-4, (row["pipeline"], call)


def test_recorded_and_replayed_calls_are_those_of_the_cpu_and_the_host_reads_little():
    refused, *rows = _rows("sdxl", "lumina2")
    assert set(refused) == {"mixed", "host generator", "numpy"}
    assert not [said for said in refused.values() if said.startswith("made")]  # else nothing below would fail
    assert [row["pipeline"] for row in rows] == ["sdxl", "lumina2"]
    for row in rows:
        _check(row)
        assert "difference" in row["paper"]
        # A flag for each evaluation, read when it has arrived, and what is read once a call.
        assert row["paper"]["reads"] <= row["stock"]["reads"] + 5 * row["paper"]["evaluations"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_pipeline_that_can_be_on_the_device():
    from tests.support import pipelines_page

    _, *rows = _rows(*pipelines_page.PIPELINES)
    checked = [row for row in rows if "difference" in row["stock"]]
    for row in checked:
        _check(row)
    assert len(checked) >= 20


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("command", ["w2sd-image", "w2sd-video", "w2sd-bridge", "w2sd-moe"])
def test_a_command_makes_the_files_of_the_cpu(command: str):
    _, row = _rows(command)
    assert row["files"] >= 3 and row["difference"] <= 1  # a rounded level
