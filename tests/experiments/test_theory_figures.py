"""The theory's program and page."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from experiments.theory import report as making
from experiments.theory.catalogue import ENTRIES, SLIPS, Entry, chosen
from experiments.theory.drawing import Made, subplots, verdict
from PIL import Image

from w2sd_video.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["theorem-1", "theorem-2"]


def program(words: list[str]) -> int:
    return importlib.import_module("scripts.theory").main(words)


@pytest.mark.slow
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
        assert callable(getattr(importlib.import_module(f"experiments.theory.{module}"), function))
    assert {name for *_, name in SLIPS} <= set(ENTRIES)
    assert list(chosen(["zero-gap", "figure-3"])) == ["figure-3", "zero-gap"], "in the catalogue's order"
    with pytest.raises(UserError, match="figure-0"):
        chosen(["figure-0"])


def small(title: str = "a title") -> Made:
    figure, ((axes,),) = subplots(title=title)
    axes.plot([0, 1], [0, 1])
    return Made({"x": 1 / 3, "none": float("nan")}, figure, "it is", "yes")


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
