"""Every test here runs on a machine without weights, outside a launcher; figures keep matplotlib's list of fonts."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("MPLCONFIGDIR", str(Path.home() / ".cache" / "matplotlib"))


@pytest.fixture(autouse=True)
def no_weights_and_no_launcher(tmp_path, monkeypatch):
    for name in ("HOME", "HF_HOME", "VBENCH_EVAL_CACHE", "VBENCH_CACHE_DIR", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    for name in ("HF_HUB_CACHE", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
