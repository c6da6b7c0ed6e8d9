"""Which videos hold still, which are looked at, and the copies that VBench's recipe leaves."""

import json

import numpy as np
import pytest
import torch

from tests.support.vbench_backbones import TableFlow, numbered
from tests.support.vbench_files import write_suite, write_video
from vbench_eval.commands import main
from vbench_eval.dimensions.formulas import largest_motion
from vbench_eval.static_filter import SHARE, is_static, video_is_static
from vbench_eval.videos import FramesInMemory

SIZE = (512, 256)  # a motion of more than 3 pixels counts


@pytest.mark.parametrize(
    ("motions", "ends", "static"),
    [
        ([3.0] * 15, (12.0, 12.0), True),  # the threshold itself does not count; 16 frames may move twice
        ([9.0, 9.0] + [0.0] * 13, (0.0, 0.0), True),
        ([9.0, 9.0, 9.0] + [0.0] * 12, (0.0, 0.0), False),
        ([0.0] * 15, (12.1, 0.0), False),  # 3 pixels x 2 frames x 2
        ([0.0] * 15, (0.0, 12.1), False),
        ([0.0, 0.0], (0.1, 0.0), False),  # 3 frames: none may move, nor the ends at all
        ([3.0, 3.0], (0.0, 0.0), True),
        ([9.0] + [0.0] * 10, (0.0, 0.0), True),  # 12 frames: 1.5 is rounded to 2
        ([9.0, 9.0] + [0.0] * 18, (0.0, 0.0), True),  # 21 frames: 2.6 to 3
    ],
)
def test_an_eighth_of_the_frames_may_move_and_the_ends_by_twice_as_much(motions, ends, static):
    assert is_static(motions, ends, frames=len(motions) + 1, size=SIZE) is static


def test_every_pair_is_looked_at_and_the_ends_both_ways():
    flow = TableFlow({0: (0.0, 0.0)})
    assert video_is_static(FramesInMemory(numbered(5, 64, 64), fps=24), flow)
    assert flow.pairs == [(0, 1), (1, 2), (2, 3), (3, 4), (0, 4), (4, 0)]
    assert not video_is_static(FramesInMemory(numbered(5, 64, 64), fps=24), TableFlow({4: (2.0, 0.0)}))


def test_the_largest_fiftieth_of_the_motions_speaks_for_a_frame():
    flow = torch.zeros(2, 10, 10)
    flow[0, 0, :3] = torch.tensor([6.0, 2.0, 1.0])
    assert largest_motion(flow, SHARE) == pytest.approx(4.0)
    assert largest_motion(flow) == pytest.approx(9 / 5)


@pytest.fixture
def videos(tmp_path):
    """Two prompts: seven still videos of the first, a moving and a broken one of the second."""
    folder = tmp_path / "videos"
    folder.mkdir()
    grey = np.ones((3, 64, 64, 3), dtype=np.uint8)
    for index in range(7):
        write_video(folder / f"a still-{index}.mp4", 90 * grey)
    write_video(folder / "a storm-0.mp4", np.array([10, 90, 170], dtype=np.uint8).reshape(3, 1, 1, 1) * grey)
    (folder / "a storm-1.mp4").write_bytes(b"broken")
    return folder


def filtered(tmp_path, capsys, *words):
    flow = "tests.support.vbench_backbones:flow"
    code = main(["static_filter", *words, "--model", flow, "--device", "cpu", "--format", "json"])
    assert code == 1
    return json.loads(capsys.readouterr().out)


def test_five_of_each_prompt_of_the_suite_are_copied_and_written_down_as_vbench_does(videos, tmp_path, capsys):
    entries = [{"prompt_en": one, "dimension": ["temporal_flickering"]} for one in ("a still", "a storm", "a lake")]
    suite = write_suite(tmp_path, [*entries, {"prompt_en": "other", "dimension": ["color"]}])
    places = ("--result_path", str(tmp_path / "out"))
    report = filtered(tmp_path, capsys, "--videos_path", str(videos), "--suite", str(suite), *places)
    found = json.loads((tmp_path / "out/filtered_static_video.json").read_text())
    assert {prompt: one["static_count"] for prompt, one in found.items()} == {"a still": 5, "a storm": 0, "a lake": 0}
    assert found["a still"]["static_path"] == [str(videos / f"a still-{index}.mp4") for index in range(5)]
    copies = sorted(path.name for path in (tmp_path / "out/filtered_videos").iterdir())
    assert copies == [f"a still-{index}.mp4" for index in range(5)]
    assert report["short"] == ["a storm", "a lake"] and list(report["skipped"]) == ["a storm-1.mp4"]


def test_other_scopes_keep_every_static_video_of_what_they_name(videos, tmp_path, capsys):
    report = filtered(tmp_path, capsys, str(videos), "--filter_scope", "all", "--output", str(tmp_path / "all"))
    assert (report["static"], report["looked_at"], report["short"]) == (7, 9, [])
    (tmp_path / "list.json").write_text('["a storm-0.mp4"]')
    words = ("--filter_scope", str(tmp_path / "list.json"), "--output", str(tmp_path / "some"))
    report = filtered(tmp_path, capsys, str(videos), *words)
    assert (report["static"], report["looked_at"]) == (0, 2)
