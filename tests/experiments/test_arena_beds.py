"""The arena's page: each bed is one that the arena takes, and its table and picture say what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from experiments.arena.beds import BEDS, still_pair
from experiments.arena.page import draw, tables
from experiments.arena.rewards import colour_and_shape

from w2sd_video.commands.arena.entrants import NAMES
from w2sd_video.commands.arena.program import main as arena
from w2sd_video.demo import WEIGHTS, world
from w2sd_video.demo.captions import parse_caption
from w2sd_video.errors import UserError


@pytest.mark.parametrize("name", BEDS)
def test_a_bed_is_one_that_the_arena_takes(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "still-pair").symlink_to(WEIGHTS)  # in place of the trained one
    words = BEDS[name].words(name, tmp_path, tmp_path)
    place = words.index("--entrants") + 1
    entrants = words[place].split(",")
    assert set(entrants) <= set(NAMES)
    words[place] = ",".join(entrants[-2:])  # planning all of them takes a while
    assert arena(["--dry-run", *words]) == 0
    said = capsys.readouterr().out
    assert all(f"rows  {entrant} " in said for entrant in entrants[-2:]), "each has settings that fit its budget"


def test_weights_that_are_not_there_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train_still"):
        still_pair(tmp_path / "none", tmp_path)


def test_colour_and_shape_are_right_whatever_moves() -> None:
    wanted = torch.tensor([parse_caption("a red ring moving up")])
    clip = world.render(wanted, world.random_starts(1, torch.Generator().manual_seed(0))).frames[0]
    frames = (clip.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    assert colour_and_shape(frames, "a red ring moving down") == 1.0
    assert colour_and_shape(frames, "a blue ring moving up") == 0.0


def row(method: str, value: float, unguided: bool) -> dict[str, Any]:
    ends = {"value": value, "low": value - 0.1, "high": value + 0.1}
    zero = None if method == "plain" else {**ends, "value": 0.5}
    return {
        "method": method,
        "kind": "w2sd" if zero else "plain",
        "budget": 25,
        "chosen": "T 5",
        "tries": 3,
        "evaluations": 25,
        "rows": 24,
        "score": ends,
        "minus_plain": None,
        "minus_zero_gap": zero,
        "zero_gap": zero,
        "motion": ends,
        "unguided": unguided,
        "front": not unguided,
        "front_unguided": unguided,
    }


def test_a_table_has_the_settings_tried_the_fronts_and_the_sentences() -> None:
    rows = [row("plain", 0.5, True), row("W2SD fused", 0.9, False)]
    common = {"settings_tried": 4, "tuned_on": 2, "scored_on": 3, "rows": rows, "sentences": ["Use W2SD."]}
    found = {"still": {**common, "noun": "video"}, "digits": {**common, "noun": "picture"}}
    lines = tables(found).splitlines()
    assert (
        "| W2SD fused * | T 5 (3) | 25 | 24 | 0.900 [0.800, 1.000] | - | +0.500 [+0.800, +1.000] | 0.9 [0.8, 1.0] |"
        in lines
    )
    assert "| plain + | T 5 (3) | 25 | 24 | 0.500 [0.400, 0.600] | - | - |" in lines, "pictures do not move"
    assert lines.count("- Use W2SD.") == 2 and any("4 settings were tried on 2 videos each" in line for line in lines)
    figure = draw(found)
    assert [axes.get_xlabel() for axes in figure.axes] == ["right, at 25 rows"] * 2 + ["motion, root mean square"]
