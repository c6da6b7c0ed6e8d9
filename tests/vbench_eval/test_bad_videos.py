"""What cannot be read is told as a VideoError with its reason; nothing else ever comes out, and no memory runs full."""

import contextlib
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import av
import numpy as np
import pytest

from tests.support.vbench_files import levels, patterned, write_animation, write_pictures, write_video
from vbench_eval import video_info
from vbench_eval.video_info import in_chunks
from vbench_eval.videos import VideoError, open_video

ROOT = Path(__file__).resolve().parents[2]


def reason_for(path: Path) -> str:
    with pytest.raises(VideoError) as caught:
        list(open_video(path).chunks())
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["mp4", "webm", "mkv", "mov", "avi", "gif", "webp", "png"])
def test_a_file_that_is_no_video_is_told_to_be_none(tmp_path, suffix):
    file = tmp_path / f"video.{suffix}"
    for content in (b"", b"hello\n" * 100, bytes(range(256)) * 4):
        file.write_bytes(content)
        assert "cannot be read as a" in reason_for(file)


def test_what_is_missing_or_of_an_unknown_kind_is_told(tmp_path):
    assert reason_for(tmp_path / "none.mp4") == "there is no such file"
    (tmp_path / "notes.txt").write_text("hello")
    assert reason_for(tmp_path / "notes.txt").startswith(".txt is not read; .mp4, .mov, .webm")
    (tmp_path / "empty").mkdir()
    assert "holds no picture" in reason_for(tmp_path / "empty")
    (tmp_path / "folder.mp4").mkdir()
    assert "holds no picture" in reason_for(tmp_path / "folder.mp4")


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    assert reason_for(tmp_path / "sound.mp4") == "it holds no video stream"


CUT = [
    ("mp4", {"codec": "libx264", "muxing": {"movflags": "faststart"}}),
    ("mp4", {"codec": "mpeg4", "muxing": {"movflags": "faststart"}}),
    ("mkv", {"codec": "ffv1", "pixels": "bgr0"}),
    ("webm", {"codec": "libvpx"}),
    ("avi", {"codec": "mpeg4"}),
]


@pytest.mark.parametrize("suffix, how", CUT, ids=[f"{how['codec']}-{suffix}" for suffix, how in CUT])
def test_a_file_whose_end_is_missing_is_not_scored_by_its_beginning(tmp_path, suffix, how):
    whole = write_video(tmp_path / f"whole.{suffix}", patterned(), **how)
    assert sum(len(chunk) for chunk in open_video(whole).chunks()) == 16
    data = whole.read_bytes()
    for share in (0.9, 0.7, 0.5):
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(data[: int(share * len(data))])
        try:
            assert sum(len(chunk) for chunk in open_video(cut).chunks()) == 16, "only the index at the end is missing"
        except VideoError as error:
            assert "cut short" in str(error)
    assert "cut short" in reason_for(cut)  # half of the file holds not all frames


def test_an_animation_whose_end_is_missing_is_refused(tmp_path):
    for suffix in ("gif", "webp"):
        data = write_animation(tmp_path / f"whole.{suffix}", patterned(), [125] * 16).read_bytes()
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(data[: 2 * len(data) // 3])
        assert "cannot be read as a picture" in reason_for(cut)


@pytest.mark.parametrize("suffix, how", CUT, ids=[f"{how['codec']}-{suffix}" for suffix, how in CUT])
def test_damage_anywhere_gives_frames_of_one_size_or_a_reason(tmp_path, suffix, how):
    data = write_video(tmp_path / f"whole.{suffix}", patterned(6, 32, 48), **how).read_bytes()
    generator = np.random.default_rng(0)
    outcomes = set()
    for trial in range(24):
        damaged = np.frombuffer(data, np.uint8).copy()
        start = int(generator.integers(0, len(damaged)))
        length = int(generator.integers(1, 64))
        damaged[start : start + length] = generator.integers(0, 256, len(damaged[start : start + length]))
        file = tmp_path / f"{trial}.{suffix}"
        file.write_bytes(damaged.tobytes())
        try:
            video = open_video(file)
            shapes = {tuple(chunk.shape[1:]) for chunk in video.chunks()}
            assert shapes == {(video.info.height, video.info.width, 3)}
            outcomes.add("frames")
        except VideoError as error:
            assert len(str(error)) > 10
            outcomes.add("reason")
    assert outcomes == {"frames", "reason"}, "the trials meet both"


def test_a_frame_that_the_decoder_patched_up_is_not_scored(tmp_path):
    data = write_video(tmp_path / "whole.mp4", patterned(6, 32, 48), codec="mpeg4").read_bytes()
    generator = np.random.default_rng(0)
    reasons = []
    for _ in range(60):
        damaged = np.frombuffer(data, np.uint8).copy()
        start = int(generator.integers(100, len(damaged) - 8))
        damaged[start : start + 8] = generator.integers(0, 256, 8)
        (tmp_path / "damaged.mp4").write_bytes(damaged.tobytes())
        with contextlib.suppress(av.FFmpegError, IndexError), av.open(str(tmp_path / "damaged.mp4")) as container:
            if any(frame.is_corrupt for frame in container.decode(video=0)):
                reasons.append(reason_for(tmp_path / "damaged.mp4"))
    assert any("is damaged" in reason for reason in reasons), "ffmpeg conceals damage, and says so"


def test_a_playlist_named_mp4_makes_nobody_open_what_it_lists(tmp_path):
    video = write_video(tmp_path / "secret.mp4", patterned(2))
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{video}\n#EXT-X-ENDLIST\n")
    assert "cannot be read as a video" in reason_for(playlist)
    playlist.write_text(f"ffconcat version 1.0\nfile {video.name}\n")  # ffmpeg itself would find this one harmless
    assert "cannot be read as a video" in reason_for(playlist)


def test_frames_of_two_sizes_are_told_with_both(tmp_path):
    frames = [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 10, 3), np.uint8)]
    with pytest.raises(VideoError, match="frame 1 is 10x8, the first one 8x8"):
        list(in_chunks(iter(frames), 8, 8, max_bytes=1 << 20))
    write_pictures(tmp_path / "a", patterned(2, 8, 8))
    write_pictures(tmp_path / "a", patterned(1, 16, 8), ["last.png"])
    assert "frame 2 is 8x16, the first one 8x8" in reason_for(tmp_path / "a")
    with pytest.raises(VideoError, match="holds no frame"):
        list(in_chunks(iter([]), 8, 8, max_bytes=1 << 20))


def claimed_png(width: int, height: int) -> bytes:
    """A png whose header claims a size, with no pixels behind it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side, told", [(9000, "9000x9000, 81 megapixels; at most 67"), (60000, "exceeds limit")])
def test_a_picture_that_claims_to_be_huge_is_not_given_the_memory(tmp_path, side, told):
    (tmp_path / "huge.png").write_bytes(claimed_png(side, side))
    assert told in reason_for(tmp_path / "huge.png")


def test_a_video_beyond_the_limit_is_refused_with_its_size(tmp_path, monkeypatch):
    for name in ("a.mp4", "a.webm"):
        write_video(tmp_path / name, levels(2), codec="libx264" if name == "a.mp4" else "libvpx")
    monkeypatch.setattr(video_info, "MAX_PIXELS", 96 * 64 - 1)
    for name in ("a.mp4", "a.webm"):
        with pytest.raises(VideoError, match="its frames are 96x64"):
            open_video(tmp_path / name)  # before a frame is asked for
    monkeypatch.setattr(video_info, "MAX_PIXELS", 96 * 64)
    assert open_video(tmp_path / "a.mp4").info.width == 96


MEASURE = """
import resource, sys
import torch
from vbench_eval.dimensions import build
from vbench_eval.profiles import get_profile
from vbench_eval.videos import open_video
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
warm = build("temporal_flickering", get_profile("vbench")).start(None)
warm.add(torch.zeros(2, 8, 8, 3, dtype=torch.uint8))
for small in open_video(sys.argv[1]).chunks():
    pass
before = peak()
video = open_video(sys.argv[2])
accumulator = build("temporal_flickering", get_profile("vbench")).start(video.info)
count = 0
for frames in video.chunks(max_bytes=int(sys.argv[3])):
    accumulator.add(frames)
    count += len(frames)
print(count, accumulator.finish().value, peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
def test_a_huge_video_is_scored_in_the_memory_of_a_few_frames(tmp_path):
    small = write_video(tmp_path / "small.mp4", levels(2))
    huge = tmp_path / "huge.mp4"
    with av.open(str(huge), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = 1080, 1920, "yuv420p"
        stream.options = {"preset": "ultrafast"}
        picture = av.VideoFrame.from_ndarray(np.full((1080 * 3 // 2, 1920), 128, np.uint8), format="yuv420p")
        for index in range(24):
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    frame = 1080 * 1920 * 3
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(small), str(huge), str(2 * frame)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    count, score, growth = done.stdout.split()
    assert (int(count), float(score)) == (24, 1.0)
    # Two chunks of a frame, the frame kept for the next pair and the one just converted, three more while a pair is
    # compared, and the decoder's own (half the size each): far from the 24 of the video.
    assert int(growth) < 14 * frame
