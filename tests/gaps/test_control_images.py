"""Control images: their size, and edges where shapes with known edges have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from w2sd_video.errors import UserError
from w2sd_video.gaps.control_images import canny_edges, check_size, read_control_image


def edges(luma: NDArray, **settings: float) -> NDArray[np.bool_]:
    picture = canny_edges(Image.fromarray(luma.astype(np.uint8)), **settings)
    found = np.asarray(picture)
    assert picture.mode == "RGB" and found.shape == (*luma.shape, 3) and set(np.unique(found)) <= {0, 255}
    assert (found == found[..., :1]).all()
    return found[..., 0] == 255


def step(height: float, *, size: int = 24, at: int = 12) -> NDArray:
    """A dark and a bright half: columns from `at` on are brighter by `height`."""
    return np.where(np.arange(size) < at, 20.0, 20.0 + height) * np.ones((size, 1))


@pytest.mark.parametrize("sigma", [0.0, 1.0, 2.0])
def test_a_step_has_one_line_of_one_pixel_at_its_place(sigma):
    luma = step(200)
    found = edges(luma, sigma=sigma)
    columns = np.flatnonzero(found.any(0))
    assert columns.tolist() in ([11], [12])  # the step lies between the two
    assert found[:, columns].all()
    assert np.array_equal(edges(luma.T, sigma=sigma), found.T)
    assert edges(255 - luma, sigma=sigma).any(0).tolist() == found.any(0).tolist()


def test_thresholds_are_in_units_of_four_times_a_steps_height():
    for height, kept in ((26, True), (24, False)):  # 4 * 26 = 104, 4 * 24 = 96
        assert edges(step(height), low=10, high=100, sigma=0).any() == kept


def test_a_weak_edge_counts_only_where_it_goes_on_from_a_strong_one():
    # Steps of 60, 40 and 20 answer with 240, 160 and 80: above high, between, below low.
    heights = np.concatenate([np.full(8, 60.0), np.full(8, 40.0), np.full(8, 20.0)])
    luma = 20 + heights[:, None] * (np.arange(24) >= 12)
    rows = edges(luma, low=100, high=200, sigma=0)[:, 11:13].any(1)
    assert rows[:15].all() and not rows[17:].any()  # a row or two at the seams are of both
    assert not edges(step(40), low=100, high=200, sigma=0).any()
    assert edges(step(40), low=100, high=150, sigma=0).any()


def test_a_disk_has_a_thin_closed_edge_on_its_circle():
    rows, columns = np.mgrid[:64, :64]
    distance = np.hypot(rows - 31.7, columns - 30.2)
    found = edges(np.where(distance < 20, 230, 30))
    # A pixel centre is at most half a diagonal (0.71) from the rim of the drawn disk, and the ridge at most one pixel
    # from there.
    assert np.abs(distance[found] - 20).max() <= 1.71
    angles = np.degrees(np.arctan2(rows - 31.7, columns - 30.2))[found] % 360
    gaps = np.diff(np.sort(np.append(angles, angles.min() + 360)))
    assert gaps.max() <= np.degrees(2 * 2**0.5 / (20 - 1.71))  # closed: the next pixel but one touches
    # A digital circle of radius r has between 4 sqrt(2) r (eight-connected) and 8 r (four-connected) pixels.
    assert 4 * 2**0.5 * 18.3 <= found.sum() <= 8 * 21.7


def test_flat_pictures_slow_ramps_and_small_noise_have_no_edges():
    flat = np.full((32, 32), 128.0)
    assert not edges(flat).any()
    ramp = np.arange(32) * 7.0 * np.ones((32, 1))  # Sobel answers a slope with 8 times it: 56 < 100
    assert not edges(ramp).any()
    noise = np.random.default_rng(0).integers(-4, 5, flat.shape)  # each answer at most 8 * 4, both sqrt(2) of that
    assert not edges(flat + noise, sigma=0).any()


def test_colours_count_by_their_luma():
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, 8:] = (0, 255, 0)
    assert np.asarray(canny_edges(Image.fromarray(pixels))).any()


@pytest.mark.parametrize("settings", [{"low": 3, "high": 2}, {"low": -1}, {"high": float("inf")}, {"sigma": -1}])
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(UserError):
        canny_edges(Image.new("L", (8, 8)), **settings)


def test_a_picture_of_the_wrong_size_is_refused_with_both_sizes_or_resized_when_asked(tmp_path: Path):
    picture = Image.new("RGB", (40, 20))
    picture.paste((255, 0, 0), (0, 0, 20, 20))
    picture.save(tmp_path / "a.png")
    assert read_control_image(tmp_path / "a.png", 40, 20).tobytes() == picture.tobytes()
    with pytest.raises(UserError, match=r"a\.png is 40 x 20 pixels and the output 16 x 16.*resized"):
        read_control_image(tmp_path / "a.png", 16, 16)
    check_size(picture, 40, 20)
    with pytest.raises(UserError, match="the control image is 40 x 20"):
        check_size(picture, 20, 40)
    fitted = np.asarray(read_control_image(tmp_path / "a.png", 16, 16, resize=True))
    assert fitted.shape == (16, 16, 3)
    # The middle 20 x 20 is what is left, so the seam stays in the middle; Lanczos reaches 3 output pixels at most.
    assert (fitted[:, :5, 0] == 255).all() and (fitted[:, 11:, 0] == 0).all()


def test_what_is_no_picture_is_refused(tmp_path: Path):
    (tmp_path / "a.png").write_text("no picture")
    for name in ("a.png", "missing.png"):
        with pytest.raises(UserError, match=rf"the control image .*{name}"):
            read_control_image(tmp_path / name, 8, 8)
