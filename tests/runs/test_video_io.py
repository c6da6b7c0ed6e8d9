"""What is written is what is read back: frame count, size, rate, settings, and colours within what the format can keep.

The tolerance of an mp4, per channel, for flat patches: rounding Y, Cb and Cr to limited range is off by at most half a
step each, so R = 255/219 Y + 1.5748 * 255/224 Cr moves by at most .58 + .90, B by .58 + 1.06, G by .58 + .37; the final
rounding adds .5; together below 2.2. x264 at quality 12 quantises a flat 8x8 block by a step of at most 3.5 (qp 14) of
a coefficient that is 8 times the level: .2 levels of Y, .25 of Cr (then * 1.79), so below .7 more. In all less than 3.
Across a sharp edge the two pixels of one 2x2 square share one colour: their brightness is kept, their hue is the mean.
"""

import os
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from vbench_eval.files import write_bytes
from w2sd_video.errors import UserError
from w2sd_video.runs.tasks import Sound
from w2sd_video.runs.video_io import read_video, rgb_to_yuv420, write_video

FLAT_TOLERANCE = 3
PALETTE = np.array(
    [
        [255, 0, 0],
        [0, 255, 0],
        [0, 0, 255],
        [255, 255, 0],
        [0, 255, 255],
        [255, 0, 255],
        [255] * 3,
        [0] * 3,
        [200, 30, 90],
    ],
    np.uint8,
)
SETTINGS = {"prompt": 'a "red" ring\0, é', "seed": 3, "nested": {"list": [1, 2.5, None]}}


def patches(frames: int = 5, side: int = 32) -> NDArray[np.uint8]:
    """Flat squares of the palette, 3x3, in an order that moves on with each frame: [F, 3 * side, 3 * side, 3]."""
    grids = [np.roll(PALETTE, shift, axis=0).reshape(3, 3, 3) for shift in range(frames)]
    return np.stack([grid.repeat(side, 0).repeat(side, 1) for grid in grids])


def noise(frames: int = 4, height: int = 18, width: int = 22, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def levels_between(got: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> int:
    return int(np.abs(got.astype(int) - wanted).max())


@pytest.mark.parametrize(("rate", "channels"), [(24000, 2), (16000, 1)])
def test_an_mp4_has_the_sound_at_its_rate_no_longer_than_the_frames(tmp_path: Path, rate: int, channels: int) -> None:
    path, seconds = tmp_path / "v.mp4", 1.5
    time = np.arange(2 * rate) / rate  # longer than the frames
    tone = np.tile(0.5 * np.sin(2 * np.pi * 440 * time), (channels, 1)).astype(np.float32)
    write_video(path, noise(12, 18, 22), 8, SETTINGS, sound=Sound(tone, rate))
    assert read_video(path).frames.shape == (12, 18, 22, 3) and read_video(path).metadata == SETTINGS
    with av.open(str(path)) as file:
        stream = file.streams.audio[0]
        heard = np.concatenate([frame.to_ndarray() for frame in file.decode(audio=0)], axis=1)
        assert (stream.rate, len(heard)) == (rate, channels)
    assert abs(heard.shape[1] - seconds * rate) <= 2 * 1024  # AAC's frames
    spectrum = np.abs(np.fft.rfft(heard[0, : int(seconds * rate)]))
    assert abs(spectrum.argmax() / seconds - 440) < 2


def test_a_sound_that_an_mp4_cannot_hold_is_refused(tmp_path: Path) -> None:
    for sound, message in (
        (Sound(np.zeros((3, 100), np.float32), 24000), "one or two channels"),
        (Sound(np.zeros((1, 100), np.float32), 12345), "holds AAC of"),
    ):
        with pytest.raises(UserError, match=message):
            write_video(tmp_path / "v.mp4", noise(), 8, sound=sound)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("frames", [1, 2, 8, 17])
@pytest.mark.parametrize("fps", [8, 23.976, 1, 0.5])
def test_an_mp4_has_the_frames_size_rate_and_settings_asked_for(tmp_path: Path, frames: int, fps: float) -> None:
    path = tmp_path / "v.mp4"
    write_video(path, noise(frames, 18, 22), fps, SETTINGS)
    video = read_video(path)
    assert video.frames.shape == (frames, 18, 22, 3)
    assert video.fps == pytest.approx(fps, abs=1e-6 * fps)
    assert video.metadata == SETTINGS
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.frames == frames
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.codec_context.colorspace == stream.codec_context.color_primaries == 1, "tagged BT.709"
        assert stream.codec_context.color_range == 1, "tagged limited range"
        times = [float(frame.pts * frame.time_base) for frame in container.decode(stream)]
    assert times == pytest.approx([i / fps for i in range(frames)], abs=1e-3)


def test_flat_colours_of_an_mp4_come_back_within_the_derived_tolerance(tmp_path: Path) -> None:
    frames, side = patches(), 32
    write_video(tmp_path / "v.mp4", frames, 8)
    got = read_video(tmp_path / "v.mp4").frames
    inside = (np.arange(3 * side) % side >= 8) & (np.arange(3 * side) % side < side - 8)  # a block away from edges
    assert levels_between(got[:, inside][:, :, inside], frames[:, inside][:, :, inside]) <= FLAT_TOLERANCE


def test_an_edge_of_an_mp4_keeps_brightness_though_colour_is_shared_by_two_pixels(tmp_path: Path) -> None:
    frames = np.zeros((3, 32, 32, 3), np.uint8)
    frames[:, :, :15] = 255  # black and white: no colour to share, though the edge is in the middle of a 2x2 square
    write_video(tmp_path / "v.mp4", frames, 8)
    got = read_video(tmp_path / "v.mp4").frames
    # Next to an edge the quantisation of several coefficients adds up; half a step of 3.5 in each of 16 would be 7.
    assert levels_between(got, frames) <= 7

    frames[:, :, :15] = (255, 0, 0)
    yuv = rgb_to_yuv420(frames[0])
    assert yuv[:32, 14].tolist() == [63] * 32, "16 + 219 * .2126: red's own brightness up to the edge"
    assert yuv[:32, 15].tolist() == [16] * 32, "black's right after it"
    red = yuv[40:].reshape(16, 16)[0]
    assert red[6] == 240
    assert red[7] == 184, "half way between red's 240 and grey's 128"
    assert red[8] == 128


def test_conversion_agrees_with_bt709_on_primaries() -> None:
    frame = np.repeat(np.repeat(PALETTE[None, :3], 2, 0), 2, 1)  # red, green, blue: 2x2 squares
    yuv = rgb_to_yuv420(frame)
    assert yuv[0, ::2].tolist() == [63, 173, 32]
    assert yuv[2].tolist() == [102, 42, 240, 240, 26, 118], (
        "Cb of the three, then Cr (BT.709, table of 75 % bars scaled)"
    )


@pytest.mark.parametrize("name", ["v.mp4", "v.gif", "v.webp", "v"])
def test_the_same_frames_and_settings_give_the_same_bytes(tmp_path: Path, name: str) -> None:
    contents = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / name
        write_video(path, noise(), 8, SETTINGS)
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        contents.append([file.read_bytes() for file in files])
    assert contents[0] == contents[1]


@pytest.mark.parametrize("name", ["v.webp", "v"])
def test_webp_and_png_are_lossless_at_any_size_also_with_frames_that_repeat(tmp_path: Path, name: str) -> None:
    frames = noise(6, 17, 23)
    frames[2] = frames[3] = frames[1]
    write_video(tmp_path / name, frames, 7, SETTINGS)
    video = read_video(tmp_path / name)
    assert np.array_equal(video.frames, frames)
    assert video.fps == 7
    assert {key: video.metadata[key] for key in SETTINGS} == SETTINGS


def test_a_gif_keeps_count_rate_and_settings_also_with_frames_that_repeat(tmp_path: Path) -> None:
    frames = patches(6, 8)[:, :23, :23]
    frames[3] = frames[2]
    write_video(tmp_path / "v.gif", frames, 12, SETTINGS)
    video = read_video(tmp_path / "v.gif")
    assert video.fps == 12
    assert {key: video.metadata[key] for key in SETTINGS} == SETTINGS
    assert np.array_equal(video.frames, frames), "nine colours fit a palette of 256"


@pytest.mark.parametrize("name", ["v.mp4", "v.gif", "v.webp", "v"])
@pytest.mark.parametrize("fps", [0.1, 23.976, 50])
def test_a_video_that_stands_still_keeps_all_its_frames(tmp_path: Path, name: str, fps: float) -> None:
    frames = np.zeros((7, 16, 16, 3), np.uint8)
    write_video(tmp_path / name, frames, fps)
    video = read_video(tmp_path / name)
    assert np.array_equal(video.frames, frames)
    assert video.fps == pytest.approx(fps, rel=1e-6)


@pytest.mark.parametrize("fps", [0.0, 0.0001, 1001.0, float("nan")])
def test_rates_that_a_format_cannot_hold_are_refused(tmp_path: Path, fps: float) -> None:
    with pytest.raises(UserError, match=r"it must be from 0\.1 to 1000"):
        write_video(tmp_path / "v.mp4", noise(), fps)


def test_sizes_that_a_format_cannot_hold_are_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"23x17.*gif, webp or png"):
        write_video(tmp_path / "v.mp4", noise(2, 17, 23), 8)
    with pytest.raises(UserError, match="at most 50"):
        write_video(tmp_path / "v.gif", noise(), 60)
    with pytest.raises(UserError, match=r"\.avi"):
        write_video(tmp_path / "v.avi", noise(), 8)
    with pytest.raises(UserError, match="uint8"):
        write_video(tmp_path / "v.mp4", noise().astype(np.float32), 8)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    (tmp_path / "bad.gif").write_bytes(b"not a gif")
    (tmp_path / "empty").mkdir()
    for name in ("bad.mp4", "bad.gif", "empty", "missing.mp4"):
        with pytest.raises(UserError, match="cannot be read as a video"):
            read_video(tmp_path / name)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "v.mp4"
    write_bytes(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for write in (lambda: write_bytes(path, b"new"), lambda: write_video(tmp_path / "folder", noise(), 8)):
        with pytest.raises(OSError, match="No space left"):
            write()
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("v.mp4", b"old")]


def test_a_png_folder_replaces_an_older_one_whole(tmp_path: Path) -> None:
    write_video(tmp_path / "v", noise(6), 8)
    write_video(tmp_path / "v", noise(2), 8)
    assert sorted(file.name for file in (tmp_path / "v").iterdir()) == ["0000.png", "0001.png"]
