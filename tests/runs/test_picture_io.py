"""Pictures come back as they were written, with the settings that made them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from w2sd_video.errors import UserError
from w2sd_video.runs.picture_io import PICTURES, read_picture, write_picture
from w2sd_video.runs.video_io import write_video

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
SETTINGS: dict[str, Any] = {"prompt": "caf\u00e9 \u6c34 \0 \"'", "steps": 4, "pair": {"name": "a"}, "weak": None}


def test_pixels_and_settings_come_back_exactly(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", PIXELS, SETTINGS)
    picture = read_picture(tmp_path / "a.png")
    assert np.array_equal(picture.pixels, PIXELS) and picture.pixels.dtype == np.uint8
    assert picture.metadata == SETTINGS
    with Image.open(tmp_path / "a.png") as image:
        assert "steps" in image.info["parameters"], "where other programs look"


def test_the_same_picture_gives_the_same_bytes_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    for name in ("a.png", "b.PNG"):
        write_picture(tmp_path / name, PIXELS, SETTINGS)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.PNG").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "b.PNG"]


def test_a_full_disk_leaves_the_old_picture_and_no_half_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_picture(tmp_path / "a.png", PIXELS)
    before = (tmp_path / "a.png").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_picture(tmp_path / "a.png", 255 - PIXELS)
    assert (tmp_path / "a.png").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("name", "pixels", "said"),
    [
        ("a.jpg", PIXELS, r"ends in \.png"),
        ("a", PIXELS, r"ends in \.png"),
        ("a.png", PIXELS[None], r"uint8 \(1, 5, 7, 3\)"),
        ("a.png", PIXELS[..., :1], r"uint8 \(5, 7, 1\)"),
        ("a.png", PIXELS.astype(np.float32), r"float32"),
        ("a.png", PIXELS[:0], r"at least one pixel"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path: Path, name: str, pixels: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        write_picture(tmp_path / name, pixels)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_of_several_frames_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one frame; got 2"):
        PICTURES.write(tmp_path / "a.png", np.stack([PIXELS, PIXELS]), {})
    PICTURES.write(tmp_path / "a.png", PIXELS[None], {})
    assert np.array_equal(PICTURES.read(tmp_path / "a.png"), PIXELS[None])


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_pictures_from_elsewhere_are_read_as_rgb(tmp_path: Path, mode: str) -> None:
    flat = Image.new("RGB", (4, 3), (102, 102, 102)).convert(mode)  # a colour of the palette that P gets
    flat.save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert picture.pixels.shape == (3, 4, 3) and (picture.pixels == 102).all()
    assert picture.metadata == {}


def test_a_photograph_is_read_the_way_up_its_camera_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the picture is on the right
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_picture(tmp_path / "a.png").pixels, np.rot90(PIXELS, -1))


@pytest.mark.parametrize(
    ("mode", "values", "read"),
    [
        ("I;16", [0, 1000, 65535], [0, 3, 255]),
        ("F", [0.0, 0.5, 1.0], [0, 128, 255]),
        ("F", [0.0, 0.6, 255.0], [0, 1, 255]),
    ],
)
def test_depth_maps_of_more_bits_keep_their_range(
    tmp_path: Path, mode: str, values: list[float], read: list[int]
) -> None:
    Image.fromarray(np.array([values], {"I;16": np.uint16, "F": np.float32}[mode])).save(tmp_path / "a.tiff")
    assert read_picture(tmp_path / "a.tiff").pixels[0, :, 0].tolist() == read


@pytest.mark.parametrize("value", [1000.0, -1.0, float("nan")])
def test_floats_of_an_unknown_range_are_not_cut_silently(tmp_path: Path, value: float) -> None:
    Image.new("F", (4, 4), value).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match=r"a\.tiff cannot be read as a picture: its pixels are from"):
        read_picture(tmp_path / "a.tiff")


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    write_picture(tmp_path / "cut.png", PIXELS)
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.png").write_text("no picture")
    write_video(tmp_path / "folder", PIXELS[None], 8)
    for name in ("cut.png", "text.png", "nowhere.png", "folder"):
        with pytest.raises(UserError, match=f"{name} cannot be read as a picture"):
            read_picture(tmp_path / name)


@pytest.mark.parametrize("text", ["Steps: 20, Sampler: Euler", "[1]", ""])
def test_other_programs_parameters_are_not_taken_for_settings(tmp_path: Path, text: str) -> None:
    from PIL import PngImagePlugin

    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("parameters", text)
    Image.fromarray(PIXELS).save(tmp_path / "a.png", pnginfo=chunks)
    assert read_picture(tmp_path / "a.png").metadata == {}
