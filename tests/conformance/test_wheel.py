"""The wheel: what it holds, how large it is, and that it runs without arguments where there is no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.programs import ROOT, installed

pytestmark = pytest.mark.slow
PACKAGES = ("w2sd_video", "bridges", "vbench_eval")
BUNDLED = {  # what commands without arguments need
    "w2sd_video/demo/weights/model_index.json",
    "w2sd_video/demo/weights/unet/diffusion_pytorch_model.safetensors",
    "w2sd_video/demo/weights/weak/unet/diffusion_pytorch_model.safetensors",
    "w2sd_video/demo/picture_weights/strong/model_index.json",
    "w2sd_video/demo/picture_weights/weak/model_index.json",
    "w2sd_video/demo/picture_weights/noise_map.safetensors",
    "bridges/dit_moe/demo/weights/model_index.json",
    "vbench_eval/sample_suite.json",
    "w2sd_video/py.typed",
}
MOST_MEGABYTES = 30
FEW = "--steps 3 --reflections 2 --device cpu --quiet"
PROGRAMS = [
    f"w2sd-video {FEW} --num-frames 4",
    "w2sd-vbench prompts --suite sample --num-prompts 2 --quiet",
    f"w2sd video {FEW} --num-frames 4",
    f"w2sd image {FEW}",
    f"w2sd bridge {FEW}",
    f"w2sd moe {FEW} --num-images 4",
    "w2sd diagnose --steps 3 --num-frames 4 --quiet",
    "w2sd presets",
    "w2sd eval --help",
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout and nothing old comes along."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(made), str(source))
    (found,) = made.glob("*.whl")
    return found


def pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *words, "--no-deps", "--no-index"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_wheel_holds_every_file_that_commands_without_arguments_need_and_no_others(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.endswith("/")}
    assert held >= BUNDLED
    packaged = {name for name in held if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in packaged} == set(PACKAGES)
    on_disk = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packaged <= on_disk
    left_out = {name for name in on_disk - packaged if Path(name).stem != "judge"}
    assert left_out == set(), "a kind of file that package-data in pyproject.toml does not name"
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, {len(held)} files")
    assert wheel.stat().st_size < MOST_MEGABYTES * 1e6


@pytest.fixture(scope="module")
def place(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip("install", "--quiet", "--target", str(target), str(wheel))
    return target


@pytest.mark.parametrize("line", [line for line in PROGRAMS if line.split()[0] in installed()])
def test_what_is_installed_runs_outside_the_checkout(line: str, place: Path, tmp_path: Path) -> None:
    name, *words = line.split()
    environment = {**os.environ, "PYTHONPATH": str(place), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(place / "bin" / name), *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    where = (
        "import w2sd_video, bridges, vbench_eval; print(w2sd_video.__file__, bridges.__file__, vbench_eval.__file__)"
    )
    said = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert str(ROOT) not in said.stdout
