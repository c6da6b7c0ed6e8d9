"""Long videos cut into clips as VBench-Long cuts them."""

import pytest
import torch

from tests.support.vbench_backbones import TableEncoder, TableFlow, info, measure, numbered
from vbench_eval.dimensions import build
from vbench_eval.dimensions.clips import InClips, clip_places
from vbench_eval.one_pass import measure as measured_in
from vbench_eval.profiles import get_profile
from vbench_eval.scoring import evaluate_frames
from vbench_eval.videos import FramesInMemory


@pytest.mark.parametrize(
    ("frames", "length", "places"),
    [
        (41, 16, [(0, 16), (16, 32), (25, 41)]),  # the last one borrows what it lacks
        (48, 16, [(0, 16), (16, 32), (32, 48)]),
        (17, 16, [(0, 16), (1, 17)]),
        (15, 16, [(0, 15)]),
        (16, 16, [(0, 16)]),
    ],
)
def test_clips_follow_each_other_and_the_last_is_as_long_as_the_rest(frames, length, places):
    assert clip_places(frames, length) == places


def value_of(name, frames, backbone, chunk_bytes=4000):
    dimension = InClips(build(name, get_profile("vbench"), backbone))
    return measured_in(FramesInMemory(frames, fps=8), {name: dimension}, chunk_bytes=chunk_bytes).measured[name]


@pytest.mark.parametrize("chunk_bytes", [1, 5000, 1 << 20])
def test_a_long_video_has_the_mean_of_its_clips_however_it_is_read(chunk_bytes):
    frames = numbered(41)
    angles = torch.arange(41) ** 2 / 900
    encoder = TableEncoder(torch.stack([angles.cos(), angles.sin()], dim=1).tolist())
    found = value_of("subject_consistency", frames, encoder, chunk_bytes)
    clips = [measure("subject_consistency", frames[a:b], encoder).value for a, b in clip_places(41, 16)]
    assert found["value"] == found["score"] == pytest.approx(sum(clips) / 3, abs=1e-12) and found["weight"] == 1
    assert [clip["value"] for clip in found["extras"]["clips"]] == clips and len(set(clips)) == 3
    assert found["value"] != measure("subject_consistency", frames, encoder).value
    # of a video up to five seconds all is as it was
    assert value_of("subject_consistency", frames[:40], encoder)["value"] == pytest.approx(
        measure("subject_consistency", frames[:40], encoder).value
    )


def test_whether_a_long_video_moves_is_the_share_of_its_clips_that_do():
    flow = TableFlow(dict.fromkeys(range(16), (9.0, 0.0)))  # the first clip of three
    found = value_of("dynamic_degree", numbered(41), flow)
    assert found["value"] == found["score"] == pytest.approx(1 / 3)
    assert measure("dynamic_degree", numbered(41), flow, about=info()).value is True


def test_where_nobody_says_how_many_frames_there_are_or_says_it_wrongly_there_is_no_value():
    for claimed, reason in ((None, "does not say how many frames"), (60, "says 60 frames and holds 41")):
        video = FramesInMemory(numbered(41), fps=8)
        object.__setattr__(video.info, "declared_frames", claimed)
        dimension = InClips(build("temporal_flickering", get_profile("vbench")))
        got = measured_in(video, {"x": dimension}).measured["x"]
        assert got["value"] is None and reason in got["reason"]


def test_reports_say_that_clips_were_measured():
    frames = numbered(41).numpy()
    settings = {"dimensions": "temporal_flickering", "device": "cpu", "proxies": False}
    long, whole = (evaluate_frames(frames, fps=8, long=long, **settings) for long in (True, False))
    assert len(long["measured"]["temporal_flickering"]["extras"]["clips"]) == 3
    assert "VBench-Long" in long["stamp"]["long"] and "long" not in whole["stamp"]
