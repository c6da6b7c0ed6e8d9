"""The LoRA benchmark, on a network of few layers in place of SDXL's 722."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks import lora as benchmark_lora

from tests.support import tiny
from tests.support.tiny_loras import add_lora


def network(width: int) -> Any:
    unet = tiny.sdxl_unet()
    add_lora(unet, "style", targets=benchmark_lora.TARGETS)
    unet.set_adapters(["style"], [benchmark_lora.STRONG])
    return unet.requires_grad_(False)


def test_the_benchmark_measures_both_ways_and_counts_no_recompilation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its target of 1/500 is for SDXL's number of layers; on a tenth of them the usual way is a tenth as dear."""
    monkeypatch.setattr(benchmark_lora, "network", network)
    monkeypatch.setattr(benchmark_lora, "MOST", 10 * benchmark_lora.MOST)
    assert benchmark_lora.main(["--quick", "--output", str(tmp_path / "new" / "lora.json")]) == 0
    rows = {row["what"]: row["value"] for row in json.loads((tmp_path / "new" / "lora.json").read_text())["rows"]}
    assert [value for what, value in rows.items() if what.startswith("recompilations of")] == [0]
    assert 0 < rows["ours / the usual way"] == pytest.approx(1 / rows["times cheaper"])
    table = capsys.readouterr().out
    assert all(what in table for what in rows)


def test_an_output_that_cannot_be_written_is_refused_before_measuring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="2"):
        benchmark_lora.main(["--output", str(tmp_path / "file" / "lora.json")])
    assert "cannot write" in capsys.readouterr().err
