"""The program that makes a run on a Ray cluster; with Ray itself where it is installed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import ray_videos

FEW = ["--steps", "3", "--reflections", "2", "--device", "cpu", "--num-frames", "4", "--num", "3", "--quiet"]


def test_it_refuses_before_a_cluster_is_started(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert ray_videos.main(["--workers", "0", "--", "--output", str(tmp_path)]) == 2
    assert "1 or more" in capsys.readouterr().err
    assert ray_videos.main(["--", *FEW]) == 2
    assert "name a folder that all machines see" in capsys.readouterr().err
    assert ray_videos.main(["--", "--output", str(tmp_path), "--steps", "0"]) == 2
    assert "steps" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_actors_make_what_one_process_makes(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from w2sd_video.commands import app

    assert app.main(["video", *FEW, "--output", str(tmp_path / "one")]) == 0
    assert ray_videos.main(["--workers", "2", "--cpus", "1", "--", *FEW, "--output", str(tmp_path / "many")]) == 0
    one, many = (hashes(tmp_path / name) for name in ("one", "many"))
    assert one == many and len(one) > 3


def hashes(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob("*.mp4") if "comparison" not in path.parts]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
