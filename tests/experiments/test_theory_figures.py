"""The theory's program, page and plots."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from experiments.theory import making
from experiments.theory.catalogue import ENTRIES, SLIPS, Entry, chosen
from experiments.theory.made import Made, verdict
from PIL import Image, ImageColor

from w2sd_video.errors import UserError
from w2sd_video.report.plotting import Arrows, Axis, Bars, Dots, Fan, Line, Mark, Note, Panel, Rule, Sheet, draw
from w2sd_video.report.plotting.contours import contour
from w2sd_video.report.plotting.sheets import Span, round_numbers, span

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["theorem-1", "theorem-2"]
RED, BLUE = "#ff0000", "#0000ff"


def program(words: list[str]) -> int:
    return importlib.import_module("scripts.theory").main(words)


def test_two_figures_end_to_end_and_again_to_the_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--figure", *reversed(QUICK), "--output", str(tmp_path / "made"), "--quiet", "--format", "json"]
    assert program(words) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    report = json.loads(captured.out)
    assert (report["status"], report["exit_code"], list(report["figures"])) == ("done", 0, QUICK)
    folder = tmp_path / "made"
    assert {file.name for file in folder.iterdir()} == {"theory.json", "index.html", *(f"{name}.png" for name in QUICK)}
    kept = json.loads((folder / "theory.json").read_text())
    assert kept["figures"] == report["figures"]
    page = (folder / "index.html").read_text()
    for name in QUICK:
        figure = kept["figures"][name]
        assert figure["claim"] == ENTRIES[name].claim and figure["seconds"] < 60
        assert figure["agrees"] in ("yes", "in part", "no")
        assert f'src="{name}.png"' in page
        with Image.open(folder / f"{name}.png") as picture:
            assert picture.width >= 900 and picture.height >= 300
    assert re.findall(r'(?:src|href)="([^"#]+)"', page) and "http" not in page
    before = {name: (folder / f"{name}.png").read_bytes() for name in QUICK}
    assert program([*words[:-2], "--format", "text"]) == 0
    assert "look at them: " in capsys.readouterr().out
    assert {name: (folder / f"{name}.png").read_bytes() for name in QUICK} == before
    again = json.loads((folder / "theory.json").read_text())["figures"]
    assert {n: f["numbers"] for n, f in again.items()} == {n: f["numbers"] for n, f in kept["figures"].items()}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--figure", "figure-99"], f"no figure 'figure-99'; choose from {', '.join(ENTRIES)}"),
        (["--figure", "theorem-1", "figure-3 "], "no figure 'figure-3 '"),
        (["--figure"], "--figure"),
        (["--format", "xml"], "--format"),
        (["--figures", "theorem-1"], "--figures"),
        (["--figure", "theorem-1", "--quiet", "--output", "file/folder"], "file"),
    ],
)
def test_what_cannot_be_used_is_refused_with_code_2(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    assert program(words) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and said in captured.err
    assert not (tmp_path / "outputs").exists()


def test_the_list_names_every_figure_and_loads_no_torch() -> None:
    code = (
        "import sys; sys.path.insert(0, 'scripts'); from scripts import theory; "
        "code = theory.main(['--list']); print(code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    *listed, last = done.stdout.splitlines()
    assert last == "0 False"
    assert [line.split()[0] for line in listed] == list(ENTRIES)
    assert all(entry.claim in line for entry, line in zip(ENTRIES.values(), listed, strict=True))


def test_the_catalogue_has_what_the_paper_shows_and_each_setting() -> None:
    figures = {f"figure-{n}" for n in (3, 4, 5, 6, 12, 14, 21, 22, 23, 25, 27, 28)}
    settings = {"zero-gap", "strength", "thinning", "fixed-point", "noise", "cap", "lag"}
    assert figures | settings <= set(ENTRIES)
    for entry in ENTRIES.values():
        module, _, function = entry.maker.partition(":")
        assert callable(getattr(importlib.import_module(f"experiments.theory.figures.{module}"), function))
    assert {name for *_, name in SLIPS} <= set(ENTRIES)
    assert list(chosen(["zero-gap", "figure-3"])) == ["figure-3", "zero-gap"], "in the catalogue's order"
    with pytest.raises(UserError, match="figure-0"):
        chosen(["figure-0"])


def small(title: str = "a title") -> Made:
    return Made(
        {"x": 1 / 3, "none": float("nan")}, Sheet(title, [[panel([Line([0, 1], [0, 1], RED)])]]), "it is", "yes"
    )


def test_an_earlier_figure_stays_in_the_report_while_its_picture_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Entry, "make", lambda self: small())
    entries = {name: Entry("source", f"claim <{name}>", "x:y") for name in ("one", "two")}
    making.make_figures({"one": entries["one"]}, tmp_path, command="c")
    report = making.make_figures({"two": entries["two"]}, tmp_path, command="c")
    assert list(report["figures"]) == ["one", "two"]
    assert report["figures"]["one"]["numbers"] == {"x": 0.333333, "none": None}
    assert "claim &lt;one&gt;" in (tmp_path / "index.html").read_text()
    (tmp_path / "one.png").unlink()
    (tmp_path / "theory.json").write_text((tmp_path / "theory.json").read_text())
    assert list(making.make_figures({"two": entries["two"]}, tmp_path, command="c")["figures"]) == ["two"]
    for damaged in ("{", "[]", '{"figures": {"two": 3}}', '{"figures": {"two": {"source": "a"}}}'):
        (tmp_path / "theory.json").write_text(damaged)
        assert list(making.make_figures({"one": entries["one"]}, tmp_path, command="c")["figures"]) == ["one"]


def test_a_verdict_is_yes_only_if_all_holds() -> None:
    assert [verdict(True, True), verdict(True, False), verdict(False)] == ["yes", "in part", "no"]


def panel(marks: list[Mark], title: str = "", x: Axis | None = None, y: Axis | None = None) -> Panel:
    return Panel(title, x or Axis("", 0, 1), y or Axis("", 0, 1), marks)


def pixels(*marks: Mark, title: str = "t", size: tuple[int, int] = (300, 240)) -> np.ndarray:
    return np.asarray(draw(Sheet(title, [[panel(list(marks))]], size))).astype(int)


def box(picture: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the axes: a panel filled to its corners."""
    red = (picture[..., 0] > 240) & (picture[..., 1] < 90)
    rows, columns = np.where(red.any(1))[0], np.where(red.any(0))[0]
    return columns[0], rows[0], columns[-1], rows[-1]


FULL = Bars([0.5], [1.0], RED, width=1.0)


def test_marks_stand_where_their_numbers_say_and_end_with_the_axes() -> None:
    left, top, right, bottom = box(pixels(FULL))
    assert box(pixels(Bars([5.0], [9.0], RED, width=99.0, base=-9.0))) == (left, top, right, bottom)
    for mark in (
        Line([-1, 2], [0.25, 0.25], BLUE, width=5),
        Fan([-1, 2], [[0.25, 0.25]], BLUE, opacity=1.0, width=5),
        Rule(BLUE, y=0.25, dashed=False, width=5),
        Arrows([[-1.0, 0.25]], [[2.0, 0.25]], BLUE, width=5),
    ):
        picture = pixels(mark)
        blue = (picture[..., 2] > 200) & (picture[..., 0] < 90)
        rows, columns = np.where(blue.any(1))[0], np.where(blue.any(0))[0]
        assert abs((rows[0] + rows[-1]) / 2 - (bottom - 0.25 * (bottom - top))) <= 2, mark
        assert abs(columns[0] - left) <= 2 and abs(columns[-1] - right) <= 2, mark
    dot = pixels(Dots([0.75], [0.5], BLUE, size=5, opacity=1.0))
    ys, xs = np.where((dot[..., 2] > 200) & (dot[..., 0] < 90))
    assert xs.mean() == pytest.approx(left + 0.75 * (right - left), abs=1.5)
    assert ys.mean() == pytest.approx((top + bottom) / 2, abs=1.5)


def test_dashes_leave_gaps_and_opacity_lets_the_ground_through() -> None:
    full = (pixels(Rule(BLUE, y=0.5, dashed=False, width=4))[..., 0] < 90).sum()
    dashed = (pixels(Rule(BLUE, y=0.5, dashed=True, width=4))[..., 0] < 90).sum()
    assert 0.4 * full < dashed < 0.8 * full
    faint = pixels(Dots([0.5], [0.5], RED, size=30, opacity=0.5))
    left, top, right, bottom = box(pixels(FULL))
    at = faint[(top + bottom) // 2 - 12, (left + right) // 2 - 12]
    assert at == pytest.approx([255, 128, 128], abs=4)


def test_a_key_stands_once_for_all_panels_and_makes_room_for_itself() -> None:
    labelled, plain = (panel([Line([0, 1], [0, 1], RED, label)]) for label in ("the same", None))
    one, two, none = (draw(Sheet("t", [row])) for row in ([labelled], [labelled, labelled], [plain]))
    assert one.height == two.height > none.height
    many = [Line([0, 1], [0, 1], RED, f"a rather long key number {k}") for k in range(6)]
    assert draw(Sheet("t", [[panel(list(many))]])).height > one.height


def test_long_titles_are_broken_and_stay_within_the_sheet() -> None:
    words = "a title of many words that no sheet of one panel can hold in a single line of its own"
    short, long = (np.asarray(draw(Sheet(title, [[panel([FULL], words)]], (300, 240)))) for title in ("t", words))
    assert long.shape[0] > short.shape[0]
    for picture in (short, long):
        assert (picture[:, :4] == 255).all() and (picture[:, -4:] == 255).all()


def test_a_note_stands_at_its_place_in_its_colour() -> None:
    left, top, right, bottom = box(pixels(FULL))
    picture = pixels(Note(0.5, 0.5, "HHHH", BLUE, size=20))
    ys, xs = np.where((picture[..., 2] > 200) & (picture[..., 0] < 90))
    assert xs.mean() == pytest.approx((left + right) / 2, abs=3)
    assert ys.mean() == pytest.approx((top + bottom) / 2, abs=3)
    assert ImageColor.getrgb(BLUE) == (0, 0, 255)


def test_contours_follow_the_height_asked_for() -> None:
    axis = np.linspace(-2, 2, 81)
    x, y = np.meshgrid(axis, axis)
    circle = contour(axis, axis, -(x**2 + y**2), -1.0)
    assert np.hypot(circle[..., 0], circle[..., 1]) == pytest.approx(1.0, abs=2e-3)
    lengths = np.hypot(*(circle[:, 0] - circle[:, 1]).T)
    assert lengths.sum() == pytest.approx(2 * np.pi, rel=2e-3)
    assert contour(axis, axis, x, 5.0).shape == (0, 2, 2)


@pytest.mark.parametrize(
    ("above", "below", "cut_off"),
    [(2.0, -1.0, [(1.0, 0.0), (0.0, 1.0)]), (1.0, -2.0, [(0.0, 0.0), (1.0, 1.0)])],
)
def test_at_a_saddle_the_middle_decides_which_corners_are_joined(
    above: float, below: float, cut_off: list[tuple[float, float]]
) -> None:
    edge = np.array([0.0, 1.0])
    pieces = contour(edge, edge, np.array([[above, below], [below, above]]), 0.0)
    assert len(pieces) == 2
    for corner in cut_off:  # one piece has both its ends on the edges that meet in that corner, a third away
        distances = np.abs(pieces - np.array(corner)).sum(-1)
        assert any(d == pytest.approx([1 / 3, 1 / 3]) for d in distances)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-8.0, 8.0, [-5.0, 0.0, 5.0]),
        (0.0, 0.42, [0.0, 0.1, 0.2, 0.3, 0.4]),
        (99.0, 101.0, [99.0, 99.5, 100.0, 100.5, 101.0]),
    ],
)
def test_ticks_are_round_and_within(low: float, high: float, expected: list[float]) -> None:
    assert round_numbers(low, high) == pytest.approx(expected)


def test_axes_settle_their_limits_by_what_is_drawn() -> None:
    free = span(Axis(), np.array([2.0, np.nan, 4.0]))
    assert free.low < 2.0 and free.high > 4.0
    assert free.share([free.low, free.high]) == pytest.approx([0.0, 1.0])
    log = span(Axis(log=True), np.array([0.0, 0.01, 10.0]))
    assert 0 < log.low < 0.01 and log.high > 10.0
    assert {words for _, words in log.ticks} >= {"0.01", "0.1", "1", "10"}
    assert log.share(np.sqrt(log.low * log.high)) == pytest.approx(0.5)
    assert Span(0.0, 1.0, False, ()).share(1e9) == 50.0
    empty = span(Axis(), np.zeros(0))
    assert empty.high > empty.low
