"""Every test here runs on a machine without weights, outside a launcher; figures keep matplotlib's list of fonts."""

import os
from pathlib import Path

import pytest

from tests.support.vbench_files import patterned, write_video

os.environ.setdefault("MPLCONFIGDIR", str(Path.home() / ".cache" / "matplotlib"))


@pytest.fixture(autouse=True)
def no_weights_and_no_launcher(tmp_path, monkeypatch):
    for name in ("HOME", "HF_HOME", "VBENCH_EVAL_CACHE", "VBENCH_CACHE_DIR", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    for name in ("HF_HUB_CACHE", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def folder(tmp_path):
    """Four videos of 5 frames, 48x32, of one method."""
    made = tmp_path / "videos" / "w2sd"
    made.mkdir(parents=True)
    for number, prompt in enumerate(("a cat", "a dog", "a fox", "an owl")):
        write_video(made / f"{prompt}-0.mp4", patterned(5, 32, 48, number))
    return made
