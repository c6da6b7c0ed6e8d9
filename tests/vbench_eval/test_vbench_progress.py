"""Bars for those who watch a terminal, one thing after the other, and for nobody else."""

import sys

import pytest

from vbench_eval.progress import Bars, bars


def test_a_bar_shows_each_name_with_what_is_done_of_how_much(capsys):
    told = Bars("picture")
    told("fid", 1, 4)
    told("fid", 4, 4)
    told("aes", 2, 2)
    ended = capsys.readouterr().err
    assert "fid: 100%" in ended and "4/4" in ended and "aes: 100%" in ended and "2/2" in ended


def test_a_name_told_less_than_before_begins_anew(capsys):
    told = Bars("picture")
    for done in (3, 1):
        told("pickscore", done, 4)
        told.close()
        assert f"{done}/4" in capsys.readouterr().err
    told("pickscore", 3, 4)
    told("pickscore", 1, 4)  # of the baseline's pictures now
    told.close()
    assert "1/4" in capsys.readouterr().err


def test_of_unknown_length_the_bytes_so_far_are_shown(capsys):
    told = Bars("B", scaled=True)
    told("raft-things.pth", 21_000_000, 0)
    told.close()
    assert "21.0MB" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("watched", "quiet", "shown"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_bars_are_for_a_terminal_that_is_not_asked_to_be_quiet(monkeypatch, watched, quiet, shown):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: watched, raising=False)
    assert (bars("B", quiet=quiet) is not None) is shown
