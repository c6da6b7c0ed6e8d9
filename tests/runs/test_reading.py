"""Videos and pictures from elsewhere are read as ffmpeg and Pillow say they look, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.vbench_files import LOSSLESS, patterned, write_animation, write_pictures, write_video
from w2sd_video.commands.checks import read_control_frames
from w2sd_video.errors import UserError
from w2sd_video.gaps.control_images import WHITE, read_rgb
from w2sd_video.runs.video_io import read_video

FRAMES = patterned(3, 16, 24)


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_videos_of_a_phone_stand_upright(tmp_path: Path, rotation: int) -> None:
    path = write_video(tmp_path / "phone.mp4", FRAMES, rotation=rotation, **LOSSLESS)
    upright = np.stack([np.rot90(frame, rotation // 90) for frame in FRAMES])
    assert np.array_equal(read_video(path).frames, upright)
    height, width = upright.shape[1:3]
    assert np.array_equal(np.stack([np.asarray(f) for f in read_control_frames(path, width, height, 3)]), upright)


def test_a_colon_in_a_name_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "plain.mp4", FRAMES, **LOSSLESS)
    (tmp_path / "plain.mp4").rename("a: b.mp4")
    assert np.array_equal(read_video("a: b.mp4").frames, FRAMES)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tiff"])
def test_what_moves_by_itself_has_all_its_frames(tmp_path: Path, name: str) -> None:
    frames = np.stack([np.full((16, 16, 3), shade, np.uint8) for shade in (10, 120, 250)])
    write_animation(tmp_path / name, frames, [100, 100, 100])
    assert np.array_equal(read_video(tmp_path / name).frames, frames)
    assert [f.getpixel((0, 0))[0] for f in read_control_frames(tmp_path / name, 16, 16, 3)] == [10, 120, 250]
    with pytest.raises(UserError, match="it holds 3 pictures; give one"):
        read_rgb(tmp_path / name, "control image")


def test_what_is_transparent_hides_its_colour(tmp_path: Path) -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 0], pixels[0, :, 3] = 200, (0, 128, 255)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png")
    control = np.asarray(read_rgb(tmp_path / "a.png", "control image"))
    assert control[0].tolist() == [[0, 0, 0], [100, 0, 0], [200, 0, 0]]
    picture = np.asarray(read_rgb(tmp_path / "a.png", "picture", WHITE))
    assert picture[0].tolist() == [[255, 255, 255], [227, 127, 127], [200, 0, 0]]


def test_a_long_video_is_not_read_to_its_end(tmp_path: Path) -> None:
    write_pictures(tmp_path / "v", FRAMES)
    (tmp_path / "v" / "0002.png").write_bytes(b"damaged, and not looked at")
    assert np.array_equal(read_video(tmp_path / "v", most=2).frames, FRAMES[:2])


def cut(path: Path) -> Path:
    write_video(path, patterned(20, 64, 64))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def bomb(path: Path) -> Path:
    Image.new("1", (20000, 20000)).save(path)
    return path


def text(path: Path) -> Path:
    path.write_text("#EXTM3U\nfile:///etc/passwd")
    return path


@pytest.mark.parametrize(
    ("make", "name", "said"),
    [
        (cut, "cut.mkv", "cut.mkv cannot be read as a video: the file is cut short"),
        (bomb, "bomb.png", "bomb.png cannot be read as a video: .*(megapixels|exceeds)"),
        (text, "list.mp4", "list.mp4 cannot be read as a video"),
        (text, "list.m3u8", "m3u8 is not read"),
        (text, "no.png", "no.png cannot be read"),
    ],
)
def test_what_is_damaged_or_hostile_is_refused_by_name(tmp_path: Path, make: Any, name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_video(make(tmp_path / name))
    with pytest.raises(UserError, match="cannot read the control video"):
        read_control_frames(tmp_path / name, 16, 16, 3)
