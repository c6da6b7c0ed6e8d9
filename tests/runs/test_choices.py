"""Which side was the strong one: as letters of a record, and as a picture whose colours are the choices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from w2sd_video.runs.choices import COLOURS, MOST_ROWS, as_text, draw_choices, share_weak, write_choices

ROWS = {"a red ring, 0": "sswws", "a red ring, 1": "sssss", "a green square, 0": "wwwww"}


def painted(picture: Image.Image, letter: str) -> np.ndarray:
    """Where pixels have a side's colour; rows of the grid begin below the legend."""
    found = (np.asarray(picture.convert("RGB")) == ImageColor.getrgb(COLOURS[letter])).all(axis=-1)
    found[:70] = False
    return found


def test_a_letter_per_selection_says_which_side_it_took() -> None:
    assert as_text([[False], [True], [True]]) == "sww" and as_text([]) == ""
    assert share_weak(["sww", "s"]) == 0.5 and share_weak([]) == 0


def test_the_cells_of_the_picture_are_the_choices() -> None:
    picture = draw_choices(ROWS, range(0, 10, 2))
    strong, weak = painted(picture, "s"), painted(picture, "w")
    assert not (strong & weak).any()
    lines = [y for y in range(len(strong)) if strong[y].any() and weak[y].any()]
    assert lines, "the first row has both"
    y = lines[0]
    cells = np.flatnonzero(np.diff(np.concatenate([[False], strong[y] | weak[y]]).astype(int)) == 1)
    assert "".join("s" if strong[y, x] else "w" for x in cells) == ROWS["a red ring, 0"]
    cell = int(np.diff(cells)[0])
    areas = strong.sum(), weak[: lines[-1] + 60].sum()  # three rows of five cells; bars of the weak side lie below
    assert areas[0] == (3 + 5) * (cell - 1) * 17 and areas[1] >= (2 + 5) * (cell - 1) * 17


def test_many_rows_and_long_prompts_stay_within_the_picture(tmp_path: Path) -> None:
    rows = {f"{'a very long prompt ' * 20}, {index}": "sw" * 24 + "s" for index in range(MOST_ROWS + 5)}
    write_choices(tmp_path / "choices.png", rows, range(49))
    picture = Image.open(tmp_path / "choices.png")
    assert picture.size[0] <= 2 * 16 + 230 + 780 + 64 and picture.size[1] < 1400, "margins, labels, cells, shares"
    left = np.asarray(picture.convert("L"))[84:200, :8]
    assert (left == 255).all(), "nothing runs out of the left margin"
    assert (tmp_path / "choices.png").stat().st_size < 150_000
