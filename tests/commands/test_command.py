"""The installed command as users meet it: help, refusals, dry runs, reports, and being killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.disk_pairs import loaded_pair, save_pair, write_checkpoints
from tests.support.family_programs import video as main
from w2sd_video.commands import making

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, str(ROOT / "scripts" / "generate_video.py")]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command's arguments for a quick run of a tiny saved pair."""
    return save_pair(tmp_path_factory.mktemp("pair"))


def test_a_prompt_that_is_not_unicode_is_refused() -> None:
    done = subprocess.run([*COMMAND, "--prompt", b"caf\xe9"], capture_output=True, env=ENVIRONMENT)
    assert done.returncode == 2 and b"not valid Unicode" in done.stderr


def test_a_missing_accelerator_is_refused_before_a_model_is_loaded(
    pair: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device, so it is not missing")
    monkeypatch.setattr(making, "load_pipelines", lambda *_: pytest.fail("a model was loaded"))
    for device in ("cuda", "cuda:3", "toaster"):
        assert main([*pair, "--prompt", "x", "--device", device, "--output", str(tmp_path / "run")]) == 2
        assert f"device {device!r} cannot be used" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_place_that_cannot_be_written_is_refused(
    pair: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(making, "load_pipelines", lambda *_: pytest.fail("a model was loaded"))
    (tmp_path / "file").write_text("")
    places = [tmp_path / "file" / "run", Path("/proc/run")]
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        places.append(tmp_path / "locked" / "run")
    for place in places:
        assert main([*pair, "--prompt", "x", "--output", str(place)]) == 2
        error = capsys.readouterr().err
        assert str(place) in error and "Traceback" not in error


def test_a_dry_run_of_the_papers_pair_needs_none_of_its_files(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--preset", "juggernaut-vs-sdxl", "--prompt", "x", "--dtype", "bfloat16", "--device", "cpu", "--dry-run"]
    assert main([*words, "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["methods"]["w2sd"] == {"evaluations": 148, "rows": 247}
    assert 10_000 < report["memory_mb"]["weights"] < 12_000, "two 2-D UNets of 4.9 GB and motion modules of .45"


def test_loading_single_files_shows_no_bars_where_there_is_no_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = write_checkpoints(tmp_path / "files")
    capfd.readouterr()
    words = ["--strong", files["strong.safetensors"], "--weak", files["weak.safetensors"], "--config", files["config"]]
    words += [
        "--motion-adapter",
        files["motion"],
        "--prompt",
        "x",
        "--methods",
        "strong",
        "--output",
        str(tmp_path / "run"),
    ]
    assert (
        main(
            [
                *words,
                *["--steps", "2", "--num-frames", "2", "--height", "16", "--width", "16", "--guidance", "1", "--quiet"],
            ]
        )
        == 0
    )
    assert capfd.readouterr().err == ""


def test_compiled_blocks_are_those_that_repeat(pair: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from w2sd_video.loading.placement import compile_networks

    compiled: list[str] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    loaded = loaded_pair(pair[1], pair[3])
    compile_networks((loaded.pipe.unet, loaded.weak_unet))
    assert set(compiled) == {"BasicTransformerBlock", "ResnetBlock2D", "AnimateDiffTransformer3D"}
