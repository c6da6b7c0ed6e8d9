"""Frames out of files are the frames that went in, whatever the container, the rate and the size of the chunks."""

import unicodedata
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.vbench_files import LOSSLESS, Frames, levels, patterned, write_animation, write_pictures, write_video
from vbench_eval.video_info import in_chunks
from vbench_eval.videos import Video, open_video


def frames_of(video: Video, **options: int) -> Frames:
    return torch.cat(list(video.chunks(**options))).numpy()


EXACT = [
    ("mp4", LOSSLESS),
    ("m4v", LOSSLESS),
    ("MP4", LOSSLESS),
    ("mov", LOSSLESS),
    ("mkv", {"codec": "ffv1", "pixels": "bgr0"}),
    ("avi", {"codec": "ffv1", "pixels": "bgr0"}),
]


@pytest.mark.parametrize("suffix, how", EXACT, ids=[suffix for suffix, _ in EXACT])
def test_a_lossless_file_gives_back_every_bit(tmp_path, suffix, how):
    frames = patterned()
    written = write_video(tmp_path / f"video.{suffix.lower()}", frames, **how)
    video = open_video(written.rename(tmp_path / f"video.{suffix}"))
    assert np.array_equal(frames_of(video), frames)
    assert np.array_equal(frames_of(video), frames), "a video can be read again"
    info = video.info
    assert (info.fps, info.average_fps, info.variable_rate, info.directory) == (8, 8, False, False)
    assert (info.height, info.width) == (64, 96)
    assert info.declared_frames in (16, None)
    assert info.codec == ("h264" if how is LOSSLESS else "ffv1")
    assert info.decoder.startswith("pyav ")


@pytest.mark.parametrize("height, width", [(63, 61), (1, 1), (17, 2)])
def test_odd_sizes_are_not_rounded(tmp_path, height, width):
    frames = patterned(4, height, width)
    video = open_video(write_video(tmp_path / "odd.mkv", frames, codec="ffv1", pixels="bgr0"))
    assert (video.info.height, video.info.width) == (height, width)
    assert np.array_equal(frames_of(video), frames)


LOSSY = [
    ("mp4", "libx264", "h264"),
    ("mp4", "mpeg4", "mpeg4"),
    ("mov", "mpeg4", "mpeg4"),
    ("webm", "libvpx", "vp8"),
    ("webm", "libvpx-vp9", "vp9"),
    ("mkv", "libx264", "h264"),
    ("avi", "mpeg4", "mpeg4"),
]


@pytest.mark.parametrize("suffix, codec, name", LOSSY, ids=[f"{codec}-{suffix}" for suffix, codec, _ in LOSSY])
def test_a_lossy_file_gives_every_frame_once_and_in_order(tmp_path, suffix, codec, name):
    frames = levels(step=15)
    video = open_video(write_video(tmp_path / f"video.{suffix}", frames, codec=codec, options={"b": "2M"}))
    means = frames_of(video).mean(axis=(1, 2, 3))
    assert np.abs(means - np.arange(16) * 15).max() < 7.5, "each is nearest to its own level"
    assert (video.info.fps, video.info.codec) == (8, name)


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_an_animation_gives_every_stored_frame_and_the_rate_of_its_times(tmp_path, suffix):
    frames = patterned()
    video = open_video(write_animation(tmp_path / f"video.{suffix}", frames, [120, 130] * 8))
    assert np.array_equal(frames_of(video), frames)
    assert (video.info.fps, video.info.variable_rate) == (8, False)
    assert video.info.container == suffix
    uneven = open_video(write_animation(tmp_path / f"uneven.{suffix}", frames, [100, 300] * 8))
    assert (uneven.info.fps, uneven.info.variable_rate) == (5, True)


def test_one_frame_is_a_video(tmp_path):
    frames = patterned(1)
    write_video(tmp_path / "one.mp4", frames, **LOSSLESS)
    write_pictures(tmp_path, frames, ["one.png"])
    write_animation(tmp_path / "one.gif", frames, [100])
    for name in ("one.mp4", "one.png", "one.gif"):
        video = open_video(tmp_path / name)
        assert np.array_equal(frames_of(video), frames)
        assert video.info.declared_frames == 1
        assert not video.info.directory


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), 12, 25, 60])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_an_even_rate_is_the_containers_own_although_times_are_rounded(tmp_path, rate, suffix):
    # mkv writes times in whole milliseconds: 33, 34, 33, ... at 29.97 frames per second
    info = open_video(write_video(tmp_path / f"video.{suffix}", patterned(), fps=rate)).info
    assert info.fps == pytest.approx(float(rate), rel=1e-6)
    assert info.average_fps == info.fps
    assert not info.variable_rate


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_variable_rate_loses_no_frame_and_is_told(tmp_path, suffix):
    frames = patterned(9)
    times = [0, 125, 250, 375, 500, 750, 1000, 1250, 1500]  # 8 steps in 1.5 seconds
    how = LOSSLESS if suffix == "mp4" else {"codec": "ffv1", "pixels": "bgr0"}
    video = open_video(write_video(tmp_path / f"video.{suffix}", frames, milliseconds=times, **how))
    assert np.array_equal(frames_of(video), frames)
    assert video.info.variable_rate
    assert video.info.average_fps == pytest.approx(8 / 1.5, rel=1e-3)


def test_frames_that_an_edit_list_hides_are_not_of_the_video(tmp_path):
    frames = patterned(8)
    times = [-1000, -100, 0, 125, 250, 375, 500, 625]  # mp4 hides what comes before 0
    video = open_video(write_video(tmp_path / "edited.mp4", frames, milliseconds=times, **LOSSLESS))
    assert np.array_equal(frames_of(video), frames[2:])
    assert (video.info.declared_frames, video.info.variable_rate) == (8, False)
    assert video.info.average_fps == pytest.approx(8)


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_frames_stand_as_a_player_shows_them(tmp_path, rotation):
    frames = patterned(2)
    video = open_video(write_video(tmp_path / "turned.mp4", frames, rotation=rotation, **LOSSLESS))
    expected = np.stack([np.rot90(frame, rotation // 90) for frame in frames])
    assert (video.info.height, video.info.width) == expected.shape[1:3]
    assert np.array_equal(frames_of(video), expected)


def test_colours_follow_the_tags_of_the_stream_and_the_tags_are_told(tmp_path):
    # One picture without structure, stored as the same Y, Cb, Cr under different tags.
    import av

    y, cb, cr = 100, 100, 170
    stored = np.full((96, 64), y, np.uint8)  # 64 rows of luma, then 16 rows of each colour plane
    stored[64:80], stored[80:] = cb, cr

    def written(name: str, tags: tuple[int, int] | None) -> Path:
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("libx264", rate=8)
            stream.height = stream.width = 64
            stream.pix_fmt, stream.options = "yuv420p", {"qp": "0"}
            if tags:
                stream.codec_context.colorspace, stream.codec_context.color_range = tags
            container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="yuv420p")))
            container.mux(stream.encode(None))
        return tmp_path / name

    def expected(red_difference: float, blue_difference: float, *, limited: bool) -> list[float]:
        """RGB by the definition: Y' = Kr R + Kg G + Kb B, Cr = (R - Y') / (2 - 2 Kr), Cb = (B - Y') / (2 - 2 Kb)."""
        luma = (y - 16) * 255 / 219 if limited else y
        scale = 255 / 224 if limited else 1
        red = luma + red_difference * scale * (cr - 128)
        blue = luma + blue_difference * scale * (cb - 128)
        kr, kb = 1 - red_difference / 2, 1 - blue_difference / 2
        return [red, (luma - kr * red - kb * blue) / (1 - kr - kb), blue]

    cases = {
        "untagged.mp4": (None, expected(1.402, 1.772, limited=True), {}),
        "601.mp4": ((6, 1), expected(1.402, 1.772, limited=True), {"colorspace": "smpte170m", "color_range": "tv"}),
        "709.mp4": ((1, 1), expected(1.5748, 1.8556, limited=True), {"colorspace": "bt709", "color_range": "tv"}),
        "full.mp4": ((1, 2), expected(1.5748, 1.8556, limited=False), {"colorspace": "bt709", "color_range": "pc"}),
    }
    for name, (tags, colour, told) in cases.items():
        video = open_video(written(name, tags))
        assert video.info.colour == told
        got = frames_of(video)[0, 32, 32].astype(float)
        assert np.abs(got - colour).max() <= 3, name  # green is a sum of three numbers whose fractions are cut off
    red601, red709, red_full = (cases[name][1][0] for name in ("601.mp4", "709.mp4", "full.mp4"))
    assert min(abs(red709 - red601), abs(red709 - red_full)) > 6, "no colour is within reach of another tag's"


@pytest.mark.parametrize(
    "name", ["cat:dog.mp4", "100%d [x]*?.mp4", unicodedata.normalize("NFD", "façades.mp4"), "-x.mp4"]
)
def test_any_name_is_a_file_and_never_an_address_or_a_pattern(tmp_path, name, monkeypatch):
    frames = patterned(3)
    write_video(tmp_path / "plain.mp4", frames, **LOSSLESS).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    video = open_video(name)
    assert np.array_equal(frames_of(video), frames)
    assert video.info.path == name


@pytest.mark.parametrize("capacity", [1, 3, 5, 16, 100])
def test_chunks_fill_half_of_the_memory_they_may_take(tmp_path, capacity):
    frames = patterned()
    allowed = 2 * capacity * frames[0].nbytes
    write_video(tmp_path / "a.mp4", frames, **LOSSLESS)
    write_animation(tmp_path / "a.webp", frames, [125] * 16)
    write_pictures(tmp_path / "a", frames)
    for name in ("a.mp4", "a.webp", "a"):
        video = open_video(tmp_path / name)
        for max_bytes in (allowed, allowed + 1):
            chunks = list(video.chunks(max_bytes))
            assert [len(chunk) for chunk in chunks[:-1]] == [capacity] * (len(chunks) - 1)
            assert all(2 * chunk.untyped_storage().nbytes() <= allowed for chunk in chunks)
            assert np.array_equal(torch.cat(chunks).numpy(), frames)


def test_a_frame_that_is_larger_than_allowed_still_comes_alone(tmp_path):
    video = open_video(write_video(tmp_path / "a.mp4", patterned(4), **LOSSLESS))
    assert [len(chunk) for chunk in video.chunks(max_bytes=10)] == [1, 1, 1, 1]


def test_a_chunk_is_given_out_before_the_frames_behind_it_are_read():
    read = 0

    def source() -> Iterator[Frames]:
        nonlocal read
        for frame in patterned(10, 8, 8):
            read += 1
            yield frame

    chunks = in_chunks(source(), 8, 8, max_bytes=2 * 3 * 8 * 8 * 3)
    seen = []
    for chunk in chunks:
        seen.append((len(chunk), read))
    assert seen == [(3, 3), (3, 6), (3, 9), (1, 10)]
