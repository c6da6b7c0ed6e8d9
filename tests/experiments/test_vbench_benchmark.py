"""What the benchmark of one decode claims in whole numbers, and that it would notice a second decode."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from benchmarks import vbench
from benchmarks.measuring import Row

from vbench_eval.dimensions import Dimension
from vbench_eval.selection import select
from vbench_eval.settings import ScoringSettings
from vbench_eval.videos import open_video

SIDE = 128


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("benchmark") / "drift-0.mp4"
    vbench.write_video(path, SIDE)
    return path


@pytest.fixture(scope="module")
def dimensions() -> Mapping[str, Dimension]:
    return select(ScoringSettings(dimensions=("proxies", "temporal_flickering"), device="cpu", offline=True)).dimensions


def by_what(rows: list[Row]) -> dict[str, Row]:
    return {row.what.partition(f", {SIDE}x{SIDE}")[0]: row for row in rows}


def test_one_pass_decodes_once_and_estimates_each_flow_once_for_the_same_values(
    video: Path, dimensions: Mapping[str, Dimension]
) -> None:
    rows = list(vbench.count(SIDE, video, dimensions))
    assert all(row.passed for row in rows), [row.what for row in rows if not row.passed]
    found = by_what(rows)
    assert found[f"decodes for {len(dimensions)} measures in one pass"].value == 1
    # Between 16 frames: 15 steps forward and 15 back, and 7 over two frames; apart, two measures make the 15 forward.
    assert found["flows between two frames in one pass"].value == 15 + 15 + 7
    assert found["flows with a pass per measure"].value == 15 + 15 + 15 + 7


def test_a_second_decode_is_noticed(video: Path) -> None:
    counts = vbench.Counts()
    with counts.counting():
        for _ in range(2):
            assert sum(len(chunk) for chunk in open_video(video).chunks()) == 16
    assert sum(len(chunk) for chunk in open_video(video).chunks()) == 16  # not counted any more
    assert counts.decodes == 2


def test_the_benchmarks_video_is_16_frames_at_8_per_second_that_move(video: Path) -> None:
    opened = open_video(video)
    frames = [frame for chunk in opened.chunks() for frame in chunk]
    assert (len(frames), opened.info.fps, opened.info.width, opened.info.height) == (16, 8.0, SIDE, SIDE)
    assert all((a != b).any() for a, b in pairwise(frames))


@pytest.mark.parametrize(("ratio", "passes"), [(0.4, True), (0.52, True), (0.6, False)])
def test_less_than_twice_the_videos_per_second_fails_by_more_than_the_spread(
    video: Path, monkeypatch: pytest.MonkeyPatch, ratio: float, passes: bool
) -> None:
    def measured(first: Callable[[], Any], second: Callable[[], Any], rounds: int) -> tuple[float, float]:
        first()
        first()
        return ratio, 0.05

    monkeypatch.setattr(vbench, "paired_ratio", measured)
    flickering = select(ScoringSettings(dimensions=("temporal_flickering",), device="cpu", offline=True)).dimensions
    rows = list(vbench.time_passes(SIDE, video, flickering, rounds=1))
    assert [row.passed for row in rows] == [passes, True, True, True]
    assert rows[1].value == 1 / ratio
