"""What should be known of a folder before its scores are believed is said before it is scored."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from tests.support.vbench_files import moving_square, patterned, write_pictures, write_video
from vbench_eval.preflight import format_line, formats, frozen, look_at, repeats, warnings
from vbench_eval.videos import VideoFile


def info(**changes: Any) -> dict[str, Any]:
    about = {"width": 512, "height": 512, "fps": 8.0, "declared_frames": 16, "average_fps": 8.0}
    return {**about, "directory": False, "variable_rate": False, **changes}


def said(*infos: dict[str, Any], dimensions: tuple[str, ...] = ("dynamic_degree",)) -> str:
    return "\n".join(warnings({f"v/{number}-0.mp4": one for number, one in enumerate(infos)}, dimensions=dimensions))


def test_videos_as_vbench_means_them_are_not_warned_of():
    assert said(info(), info()) == ""


@pytest.mark.parametrize(
    ("fps", "nth"),
    # round(fps / 8) by hand, half to even: 1.25 -> 1, 1.5 -> 2, 2.5 -> 2, 3.0 -> 3, 3.75 -> 4
    [(8, None), (10, None), (12, "2nd"), (20, "2nd"), (24, "3rd"), (30, "4th")],
)
def test_a_rate_at_which_dynamic_degree_skips_frames_is_warned_of(fps, nth):
    line = said(info(fps=float(fps), average_fps=float(fps)))
    assert (f"every {nth} frame" in line) if nth else line == ""
    assert said(info(fps=float(fps), average_fps=float(fps)), dimensions=("subject_consistency",)) == ""


def test_a_folder_of_pictures_has_no_rate_to_be_wrong():
    assert said(info(fps=30.0, average_fps=30.0, directory=True)) == ""


def test_a_very_slow_rate_is_warned_of():
    assert "meant for about 8 fps" in said(info(fps=2.0, average_fps=2.0, declared_frames=4))


@pytest.mark.parametrize(("frames", "long"), [(39, False), (40, True), (41, True)])
def test_five_seconds_and_more_are_too_long(frames, long):
    assert ("5 s or more" in said(info(declared_frames=frames))) == long


def test_mixed_rates_sizes_and_lengths_are_told_with_their_numbers():
    line = said(info(), info(), info(fps=10.0, width=256, declared_frames=20))
    assert "8 fps: 2, 10 fps: 1" in line
    assert "512x512: 2, 256x512: 1" in line
    assert "16 frames: 2, 20 frames: 1" in line


def test_unreadable_and_variable_files_are_named():
    line = said({"error": "torn"}, info(variable_rate=True))
    assert "1 video cannot be read and will be skipped: 0-0.mp4" in line
    assert "variable frame rate" in line and "1-0.mp4" in line


def test_files_are_looked_at_without_decoding_a_frame(tmp_path, monkeypatch):
    write_video(tmp_path / "a-0.mp4", patterned(6, 32, 48), fps=Fraction(24))
    write_pictures(tmp_path / "b-0", patterned(3, 32, 48))
    (tmp_path / "c-0.mp4").write_bytes(b"no video")

    def refuse(*arguments: object) -> None:
        raise AssertionError("a frame was read")

    monkeypatch.setattr(VideoFile, "chunks", refuse)
    found = look_at([tmp_path / name for name in ("a-0.mp4", "b-0", "c-0.mp4")])
    assert [("error" in one) for one in found.values()] == [False, False, True]
    assert found[str(tmp_path / "a-0.mp4")]["fps"] == 24.0
    assert found[str(tmp_path / "b-0")]["directory"] is True


def test_the_table_of_formats_counts_every_readable_video():
    rows = formats([info(), info(), info(fps=10.0), {"error": "torn"}, {}, info(frames=15)])
    assert [(row["fps"], row["frames"], row["videos"]) for row in rows] == [(8.0, 16, 2), (10.0, 16, 1), (8.0, 15, 1)]
    assert format_line(rows[0]) == "2 videos of 512x512, 16 frames at 8 fps (2 s)"
    assert format_line({**rows[1], "frames": None}) == "1 video of 512x512, an unknown number of frames at 10 fps"


def test_files_of_the_same_content_are_told_and_those_of_the_same_size_are_not(tmp_path):
    contents = {"a-0.mp4": b"same", "b-0.mp4": b"same", "c-0.mp4": b"else"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    lines = repeats([tmp_path / name for name in contents])
    assert lines == ["2 files have the same content: a-0.mp4, b-0.mp4"]


def test_videos_that_stand_still_for_half_of_their_frames_are_told():
    shares = {"a": 0.0, "b": 0.49, "c": 0.5, "d": 1.0, "e": None}
    (line,) = frozen({path: {"value": share} for path, share in shares.items()})
    assert line.startswith("2 of 4 videos stand still") and line.endswith("c, d")
    assert frozen({"a": {"value": 0.0}, "b": {}}) == []


def test_a_still_is_frozen_and_a_moving_square_is_not():
    from vbench_eval import evaluate_frames

    moving = moving_square(6, 4)
    for frames, share in ((moving, 0.0), (np.repeat(moving[:1], 6, axis=0), 1.0)):
        found = evaluate_frames(frames, dimensions="contrast", device="cpu")
        assert found["measured"]["frozen_frames"]["value"] == share
