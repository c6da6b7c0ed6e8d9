"""The arena: what fits a budget, the seeds of choosing and of scoring, the front, and what the sentence says."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from w2sd_video.commands.app import family_named
from w2sd_video.commands.arena import results, trials
from w2sd_video.commands.arena.entrants import ASKING, ENTRANTS, GUIDANCE, REFLECTED, Entrant, chosen
from w2sd_video.commands.arena.program import main as arena
from w2sd_video.commands.arena.results import Row, compared, front, sentence, sentences
from w2sd_video.commands.arena.trials import OTHER_SEEDS, Arena, Runner, Trial, entered
from w2sd_video.commands.request import Request
from w2sd_video.commands.sweep.scoring import Key, find_scorer
from w2sd_video.errors import UserError
from w2sd_video.runs.progress import Progress

VIDEO = family_named("video")


@pytest.fixture(scope="module")
def videos() -> Arena:
    return entered(VIDEO, Request("video", device="cpu"), ENTRANTS, None)


def test_every_method_has_as_many_steps_as_a_budget_has_room_for(videos: Arena) -> None:
    kornia = {"FDG"} if importlib.util.find_spec("kornia") is None else set()
    assert videos.budgets == (20, 40) and set(videos.missing) == kornia
    assert {trial.entrant.name for trial in videos.trials} == {e.name for e in ENTRANTS} - kornia
    assert all("needs the package kornia" in why for why in videos.missing.values())
    for trial in videos.trials:
        longer = trial.request.changed(steps=trial.steps + 1)
        cost = VIDEO.cost(VIDEO.complete(longer, VIDEO.describe(longer)))[trial.method]
        assert trial.rows <= trial.budget < (cost.rows or 0), f"{trial.entrant.name} {trial.settings}"
        share = trial.plan.reflection.num_reflections / trial.plan.steps
        assert share == pytest.approx(0.5, abs=0.13), "the pair's own share of the steps is reflected"
    assert [t.steps for t in videos.trials if t.entrant.name == "plain"] == [20, 40]


def test_methods_of_one_network_have_the_strong_one_on_both_sides(videos: Arena) -> None:
    alone = [trial for trial in videos.trials if trial.entrant.one_network]
    assert alone
    for trial in alone:
        assert trial.plan.pair.weak.checkpoint == trial.plan.pair.strong.checkpoint
        left_out = {"SLG": "", "PAG": ":pag", "SEG": ":seg"}.get(trial.entrant.name)
        skipped = None if left_out is None else (f"mid_block.attentions.0.transformer_blocks.0{left_out}",)
        assert trial.plan.pair.weak.skip_layers == skipped
        assert trial.plan.weak_guidance == (0 if skipped is None else 1)


def test_unguided_are_those_that_never_ask_without_the_prompt(videos: Arena) -> None:
    found = {trial.entrant.name for trial in videos.trials if trial.unguided}
    assert found == {
        *("weak", "plain", "auto-guidance", "limited auto-guidance", "SLG", "PAG", "SEG", "Re-Sampling"),
        *("W2SD paper", "W2SD fused", "W2SD cached", "W2SD auto"),
    }


class Fake(Runner):
    """A runner whose scores are the strength, twice as high on the seeds that are scored."""

    asked: list[tuple[str, str, int, int]] = []  # noqa: RUF012

    def scores(self, trial: Trial, part: str, count: int) -> list[Any]:
        self.asked.append((trial.method, part, self.plan(trial, part, count).seed, self.plan(trial, part, count).total))
        value = trial.settings.get("strength", 0.0) if trial.method == "w2sd" else 0.0
        found = {Key("a", index): value * (1 + (part == "scored")) for index in range(count)}
        return [found, found] if part == "scored" else [found]


def test_settings_are_chosen_on_some_seeds_and_scored_on_others(tmp_path: Path) -> None:
    entrants = chosen(["W2SD fused"])
    runner = Fake(entered(VIDEO, Request("video", device="cpu", seed=7), entrants, ("40",)), tmp_path, (), Progress)
    plain, fused = compared(runner, tuned=3, count=5)
    assert (fused.trial.settings["strength"], fused.tries, fused.tuned) == (3.0, 3, 3.0)
    assert fused.mean.value == 6.0 and plain.mean.value == 0.0
    seeds = {(part, count): seed for _, part, seed, count in runner.asked}
    assert seeds == {("tuned", 3): 7, ("scored", 5): 7 + OTHER_SEEDS}
    assert [method for method, part, *_ in runner.asked if part == "scored"] == ["strong", "w2sd", "zero-gap"]


def test_a_method_that_cannot_be_made_is_missing_and_plain_sampling_is_an_error(tmp_path: Path) -> None:
    class Broken(Fake):
        broken = "CFG"

        def scores(self, trial: Trial, part: str, count: int) -> list[Any]:
            if trial.entrant.name == self.broken:
                raise UserError("no room")
            return super().scores(trial, part, count)

    there = entered(VIDEO, Request("video", device="cpu"), chosen(["CFG", "W2SD fused"]), ("40",))
    runner = Broken(there, tmp_path, (), Progress)
    assert [row.name for row in compared(runner, tuned=2, count=2)] == ["plain", "W2SD fused"]
    assert runner.failed == {"CFG": "no room"}
    runner.broken = "plain"
    with pytest.raises(UserError, match="no room"):
        compared(runner, tuned=2, count=2)


def test_what_is_scored_is_not_made_again_and_a_torn_line_is_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def fake(family: Any, plan: Any, **_: Any) -> tuple[Any, dict[str, str]]:
        made.append(plan)
        return SimpleNamespace(failed=[], plan=plan), {}

    monkeypatch.setattr(trials, "make", fake)
    found = {"strong": {Key("a", 0): 0.5, Key("b", 1): 1.0}}
    monkeypatch.setattr(trials, "scored", lambda summary, scorer: found)
    there = entered(VIDEO, Request("video", device="cpu"), chosen(["CFG"]), ("20",))
    runner = Runner(there, tmp_path, (find_scorer("oracle"), find_scorer("motion")), Progress)
    first, *others = (trial for trial in there.trials if trial.method == "strong")
    assert runner.scores(first, "tuned", 2) == runner.scores(first, "tuned", 2) == [found["strong"]] * 2
    assert len(made) == 1
    journal = tmp_path / trials.SCORES
    journal.write_text(journal.read_text()[:40])
    runner.scores(first, "tuned", 2)
    runner.scores(first, "scored", 2)
    runner.scores(others[0], "tuned", 2)
    assert len(made) == 4, "other seeds and other settings are other runs"


def row(name: str, kind: str, scores: Sequence[float], videos: Arena, *, rows: int = 40) -> Row:
    found = {Key(f"prompt {index}", index): score for index, score in enumerate(scores)}
    like = next(trial for trial in videos.trials if trial.entrant.name == "plain")
    trial = Trial(Entrant(name, kind, "strong"), {}, 40, like.request, like.plan, rows, rows, "strong")
    return Row(trial, 2, sum(scores) / len(scores), found, found)


WORSE, BETTER = [0.0, 1.0] * 10, [1.0, 1.0] * 10


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (BETTER, WORSE, "use W2SD:"),
        (WORSE, BETTER, "use CFG, not W2SD"),
        ([0.0, *BETTER[1:]], BETTER, "W2SD and CFG are not told apart"),
    ],
)
def test_the_sentence_says_who_is_ahead_where_the_interval_does(
    ours: list[float], theirs: list[float], said: str, videos: Arena
) -> None:
    rows = [
        row("plain", "plain", [0.0] * 20, videos),
        row("CFG", GUIDANCE, theirs, videos),
        row("W2SD", REFLECTED, ours, videos),
        row("auto", ASKING, [1.0] * 20, videos),
    ]
    assert said in sentence(rows, 40, "video") and "auto" not in sentence(rows, 40, "video")


def test_the_sentence_tells_of_another_method_that_scores_higher_than_the_one_that_was_picked(videos: Arena) -> None:
    picked = replace(row("CFG", GUIDANCE, WORSE, videos), tuned=1.0)
    lucky = replace(row("APG", GUIDANCE, BETTER, videos), tuned=0.5)
    rows = [row("plain", "plain", [0.0] * 20, videos), picked, lucky, row("W2SD", REFLECTED, WORSE, videos)]
    said = sentence(rows, 40, "video")
    assert "W2SD and CFG are not told apart" in said
    assert "the highest of the others on these seeds: APG (T 20; 1.000" in said and "W2SD minus it -0.500" in said
    assert "the highest" not in sentence([each for each in rows if each is not lucky], 40, "video")


def test_a_second_sentence_is_of_those_that_are_not_guided_by_the_prompt(videos: Arena) -> None:
    rows = [
        row("plain", "plain", [0.0] * 20, videos),
        guided(row("CFG", GUIDANCE, BETTER, videos)),
        row("auto-guidance", GUIDANCE, [0.0] * 20, videos),
        row("W2SD", REFLECTED, WORSE, videos),
    ]
    first, second = sentences(rows, 40, "video")
    assert "use CFG, not W2SD" in first
    assert second.startswith("Without guidance by the prompt") and "use W2SD" in second and "CFG" not in second
    assert len(sentences([rows[0], *rows[2:]], 40, "video")) == 1


def guided(one: Row) -> Row:
    return replace(one, trial=replace(one.trial, plan=replace(one.trial.plan, guidance=3.0)))


def test_the_front_has_what_none_of_no_more_rows_scores_above(videos: Arena) -> None:
    rows = [
        row("plain", "plain", [0.5] * 4, videos, rows=20),
        row("CFG", GUIDANCE, [0.7] * 4, videos),
        row("dear", REFLECTED, [0.6] * 4, videos, rows=39),
        row("worse", REFLECTED, [0.5] * 4, videos, rows=30),
        row("auto", ASKING, [1.0] * 4, videos, rows=10),
    ]
    assert [one.name for one in front(rows)] == ["plain", "dear", "CFG"]


def test_a_report_names_what_is_not_compared_and_is_drawn(videos: Arena, tmp_path: Path) -> None:
    rows = [row("plain", "plain", WORSE, videos), row("W2SD", REFLECTED, BETTER, videos)]
    missing = {"missing one": "why"}
    runner = Runner(
        Arena(VIDEO, videos.base, (40,), (), missing), tmp_path, (find_scorer("oracle"),), Progress, "w2sd arena"
    )
    found = results.report(runner, rows, tuned=2, count=20)
    results.write(found, tmp_path)
    kept = json.loads((tmp_path / "arena.json").read_text())
    assert kept["rows"][1]["minus_plain"]["value"] == 0.5 and kept["missing"]["missing one"] == "why"
    page = (tmp_path / "index.html").read_text()
    assert "without missing one: why" in page and "4 settings tried" in page and (tmp_path / "arena.png").is_file()


def test_motion_is_what_neighbouring_frames_differ_by() -> None:
    import numpy as np

    frames = np.zeros((3, 4, 4, 3), np.uint8)
    frames[1:] = 10
    assert find_scorer("motion")(frames, "") == pytest.approx(np.sqrt((10**2 + 0) / 2))
    assert find_scorer("motion")(frames[:1], "") == 0.0


def test_a_plan_costs_nothing_and_says_what_all_costs(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--videos", "--dry-run", "--format", "json", "--budgets", "40", "--entrants", "W2SD fused", "--tuned", "2"]
    assert arena([*words, "--count", "3"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [entry["method"] for entry in told["entrants"]] == ["plain", "W2SD fused"]
    assert told["rows_at_most"] == 40 * 3 + 3 * 40 * 2 + 2 * 40 * 3, (
        "plain, three strengths, and its zero-gap beside it"
    )


@pytest.mark.slow
def test_an_arena_of_the_bundled_videos_is_finished_by_the_same_command(tmp_path: Path) -> None:
    words = ["--videos", "--budgets", "8", "--entrants", "CFG,Z-Sampling", "--tuned", "2", "--count", "2", "--quiet"]
    assert arena([*words, "--output", str(tmp_path)]) == 0
    first = (tmp_path / "arena.json").read_text()
    (tmp_path / "arena.json").unlink()
    assert arena([*words, "--output", str(tmp_path)]) == 0 and (tmp_path / "arena.json").read_text() == first
