"""Settings of equal cost: the paper's formula, what the methods then cost, and what contradicts it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.family_programs import costs, planned, video_request
from tests.support.family_programs import image as pictures
from tests.support.family_programs import video as main
from w2sd_video.commands.matching import match_evaluations
from w2sd_video.errors import UserError


@pytest.mark.parametrize("count", range(4, 200))
def test_half_the_steps_and_a_quarter_reflected_never_cost_more(count: int) -> None:
    chosen = match_evaluations(count)
    assert chosen.steps == int(count / 2) and chosen.reflections == int(int(count / 2) / 2)
    assert chosen.evaluations == chosen.steps + 2 * chosen.reflections
    assert 0 <= count - chosen.evaluations <= 2, "each halving loses less than one"
    assert 0 < chosen.reflections < chosen.steps


def test_the_formula_at_50_gives_one_step_more_than_the_papers_example() -> None:
    assert (match_evaluations(50).steps, match_evaluations(50).reflections) == (25, 12)
    assert match_evaluations(48).evaluations == 48, "the example's 24 + 2 * 12"


@pytest.mark.parametrize("count", [3, 0, -50, True, 12.0])
def test_too_few_to_reflect_a_step_are_refused(count: object) -> None:
    with pytest.raises(UserError, match="a whole number from 4 on"):
        match_evaluations(count)  # type: ignore[arg-type]


def test_a_plan_matches_every_method_to_the_same_cost() -> None:
    done = planned(video_request(match_evaluations=20, methods=("weak", "strong", "w2sd", "zero-gap", "swapped")))
    assert [costs(done)[method].evaluations for method in done.methods] == [20, 20, 20, 20, 20]
    assert (done.steps, done.num_reflections, done.settings()["plain_steps"]) == (10, 5, 20)


def test_settings_that_matching_chooses_cannot_be_given_too() -> None:
    givens: tuple[dict[str, Any], ...] = ({"steps": 20}, {"reflections": 5})
    for given in givens:
        with pytest.raises(UserError, match=rf"chooses --{next(iter(given))} itself.*leave one out"):
            planned(video_request(match_evaluations=20, **given))


def test_the_command_says_what_it_chose_and_makes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--match-evaluations", "7", "--prompt", "a red ring moving up", "--methods", "strong,w2sd"]
    assert main([*words, "--num-frames", "1", "--device", "cpu", "--output", str(tmp_path / "out")]) == 0
    assert "matched to 7 evaluations: T 3 and lambda 1, 5 evaluations" in capsys.readouterr().err
    records = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert {record["method"]: record["num_evaluations"] for record in records} == {"strong": 7, "w2sd": 5}
    assert main([*words, "--quiet", "--dry-run"]) == 0
    assert "matched cost: 7 steps without reflections" in capsys.readouterr().out


@pytest.mark.parametrize("command", [main, pictures])
def test_a_refusal_is_one_line_without_what_was_chosen(
    command: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["--match-evaluations", "10", "--steps", "3", "--prompt", "a ring"]) == 2
    assert re.fullmatch(r"error: --match-evaluations chooses --steps itself.*\n", capsys.readouterr().err)
