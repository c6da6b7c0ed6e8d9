"""Figures: equal bytes for equal numbers, a colour for each method, and a clear word where matplotlib is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from vbench_eval import figures as shared
from w2sd_video.errors import UserError
from w2sd_video.report import figures
from w2sd_video.report.figures import METHOD_COLOURS, Point
from w2sd_video.runs.runs import write_choices
from w2sd_video.runs.tasks import METHODS

ROWS = {"a red ring, 0": "sswws", "a red ring, 1": "sssss", "a green square, 0": "wwwww"}


def test_every_method_has_a_colour_of_its_own() -> None:
    assert METHODS.keys() <= METHOD_COLOURS.keys()
    assert len(set(METHOD_COLOURS.values())) == len(METHOD_COLOURS)


def test_a_curve_shows_its_points_and_intervals_and_is_the_same_each_time(tmp_path: Path) -> None:
    lines = {"w2sd": [Point(0.0), Point(1.0, 0.9, 1.2)], "strong": [Point(0.4, 0.3, 0.5)]}
    drawn = figures.curve("title", "lambda", [0, 10], lines)
    (axes,) = drawn.axes
    assert axes.lines[0].get_xydata().tolist() == [[0, 0], [10, 1]]
    (low, high), band = axes.get_ylim(), axes.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == (0.0, 1.2) and low < 0 < 1.2 < high
    for name in ("one", "two"):
        figures.save(figures.curve("title", "lambda", [0, 10], lines), tmp_path / f"{name}.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.png", "two.png"]


def test_words_on_the_axis_are_set_evenly() -> None:
    (axes,) = figures.curve("t", "mode", ["paper", "fused"], {"w2sd": [Point(1.0), Point(2.0)]}).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["paper", "fused"]


def test_the_cells_of_choices_are_the_letters() -> None:
    grid, bars, *_ = figures.choices(ROWS, range(0, 10, 2)).axes
    cells = grid.collections[0].get_array().reshape(3, 5).tolist()
    assert ["".join("sw"[int(cell)] for cell in row) for row in cells] == list(ROWS.values())
    assert [bar.get_height() for bar in bars.patches] == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3, 1 / 3])


def test_of_many_choices_the_first_are_drawn(tmp_path: Path) -> None:
    rows = {f"{'a very long prompt ' * 20}, {index}": "sw" * 24 + "s" for index in range(figures.MOST_ROWS + 5)}
    assert write_choices(tmp_path / "choices.png", rows, range(49))
    with Image.open(tmp_path / "choices.png") as picture:
        assert picture.width < 1100 and picture.height < 2000


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(figures, "available", lambda: False)
    monkeypatch.setattr(shared, "available", lambda: False)
    with pytest.raises(UserError, match=r"pip install -e '\.\[plots\]'"):
        figures.curve("t", "x", [0], {"w2sd": [Point(0.0)]})
    assert not write_choices(tmp_path / "choices.png", ROWS, range(5)) and not list(tmp_path.iterdir())


def test_matplotlib_is_loaded_when_something_is_drawn_only() -> None:
    program = "import sys, w2sd_video.report.figures, w2sd_video.runs.runs; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
