"""Reading a folder of pictures as pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bridges.pixel.noise_maps import load_pictures
from w2sd_video.errors import UserError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def stripes(colours: list[tuple[int, int, int]], height: int = 8, width: int = 8) -> Image.Image:
    """Upright stripes, `width` pixels each."""
    rows = np.repeat(np.array(colours, dtype=np.uint8)[None], width, axis=1)
    return Image.fromarray(np.repeat(rows, height, axis=0))


def plain(colour: tuple[int, int, int] = RED, height: int = 8, width: int = 8) -> Image.Image:
    return stripes([colour], height, width)


def only(folder: Path, height: int = 8, width: int = 8) -> torch.Tensor:
    (batch,) = load_pictures(folder, height, width)
    assert batch.shape == (1, 3, height, width)
    return batch[0]


def is_plain(pixels: torch.Tensor, colour: tuple[int, int, int]) -> bool:
    expected = torch.tensor(colour).reshape(3, 1, 1) / 127.5 - 1
    return bool(((pixels - expected).abs() < 1e-6).all())


def test_pictures_come_in_the_order_of_their_names_in_batches(tmp_path: Path) -> None:
    for name, level in (("c.png", 30), ("a.jpg", 10), ("b.webp", 20), ("d.PNG", 40), ("e.jpeg", 50)):
        plain((level, level, level)).save(tmp_path / name, lossless=True)
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "f.png").mkdir()
    batches = list(load_pictures(tmp_path, 8, 8, batch_size=2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    levels = (torch.cat(batches).mean(dim=(1, 2, 3)) + 1) * 127.5
    assert levels.round().tolist() == [10, 20, 30, 40, 50]


def test_pixels_are_rgb_from_minus_one_to_one(tmp_path: Path) -> None:
    stripes([(0, 127, 255), (255, 0, 51)]).save(tmp_path / "a.png")
    pixels = only(tmp_path, 8, 16)
    assert pixels.dtype == torch.float32
    assert is_plain(pixels[:, :, :8], (0, 127, 255))
    assert is_plain(pixels[:, :, 8:], (255, 0, 51))
    assert (pixels.min(), pixels.max()) == (-1, 1)


@pytest.mark.parametrize("turned", [False, True])
def test_what_is_cut_off_is_cut_off_on_both_sides_alike(tmp_path: Path, turned: bool) -> None:
    wide = stripes([RED, GREEN, GREEN, BLUE])
    (wide.transpose(Image.Transpose.ROTATE_90) if turned else wide).save(tmp_path / "a.png")
    assert is_plain(only(tmp_path, *((16, 8) if turned else (8, 16))), GREEN)


def test_shrinking_averages_and_enlarging_keeps_plain_colours(tmp_path: Path) -> None:
    stripes([(0, 0, 0), (255, 255, 255)] * 32, 64, 1).save(tmp_path / "a.png")
    assert only(tmp_path)[:, :, 2:-2].abs().max() < 0.02  # grey: one pixel of 8 bits is 0.008
    plain(height=3, width=5).save(tmp_path / "a.png")
    assert is_plain(only(tmp_path, 16, 24), RED)


def test_transparent_pictures_are_put_on_white(tmp_path: Path) -> None:
    clear = plain(BLUE).convert("RGBA")
    clear.putalpha(0)
    clear.save(tmp_path / "a.png")
    assert is_plain(only(tmp_path), (255, 255, 255))
    half = plain(BLUE).convert("RGBA")
    half.putalpha(51)
    half.save(tmp_path / "a.png")
    assert is_plain(only(tmp_path), (204, 204, 255))
    palette = plain(BLUE).convert("P")
    palette.save(tmp_path / "a.png", transparency=palette.getpixel((0, 0)))
    assert is_plain(only(tmp_path), (255, 255, 255))


def test_pictures_stand_as_the_camera_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: to be turned a quarter clockwise
    stripes([RED, BLUE], height=16).save(tmp_path / "a.png", exif=exif)
    pixels = only(tmp_path, 16, 16)
    assert is_plain(pixels[:, :8], RED)
    assert is_plain(pixels[:, 8:], BLUE)


def test_grey_pictures_keep_their_level_in_8_and_16_bits(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 51, dtype=np.uint8)).save(tmp_path / "a.png")
    assert is_plain(only(tmp_path), (51, 51, 51))
    Image.fromarray(np.full((8, 8), 51 * 257, dtype=np.uint16)).save(tmp_path / "a.png")
    assert is_plain(only(tmp_path), (51, 51, 51))


def test_pictures_that_cannot_be_read_are_named_all_of_them_before_the_first_batch(tmp_path: Path) -> None:
    plain().save(tmp_path / "good.png")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not a picture")
    with pytest.raises(UserError, match=r"cannot read these pictures in .*: empty.png, text.jpg; repair or remove"):
        load_pictures(tmp_path, 8, 8)


def test_a_picture_that_breaks_off_is_named(tmp_path: Path) -> None:
    noisy = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noisy).save(tmp_path / "cut.png")
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"cannot read these pictures in .*: cut.png"):
        list(load_pictures(tmp_path, 8, 8))


def test_folders_without_pictures_and_sizes_of_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        load_pictures(tmp_path / "absent", 8, 8)
    with pytest.raises(UserError, match="holds no pictures"):
        load_pictures(tmp_path, 8, 8)
    with pytest.raises(UserError, match="must be at least 1"):
        load_pictures(tmp_path, 0, 8)
