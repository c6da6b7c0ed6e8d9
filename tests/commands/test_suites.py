"""A suite's prompts as one run, whose videos are scored as they are made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from w2sd_video.commands.app import main
from w2sd_video.commands.request import Request
from w2sd_video.commands.suites import SuiteScores, with_suite
from w2sd_video.errors import UserError

METHODS = ("strong", "w2sd")


def suite_file(folder: Path, *prompts: str) -> Path:
    path = folder / "suite.json"
    entries = [{"prompt_en": prompt, "dimension": ["dynamic_degree", "imaging_quality"]} for prompt in prompts]
    path.write_text(json.dumps(entries))
    return path


def test_a_suite_brings_its_prompts_and_as_many_videos_of_each_as_vbench_asks_for(tmp_path: Path) -> None:
    path = suite_file(tmp_path, "a red ring", "a blue disc", "a red ring")
    request, manifest = with_suite(Request("video"), str(path))
    assert (request.prompts, request.num) == (("a red ring", "a blue disc"), 5)
    assert manifest.num_videos == 10 and manifest.seed is None
    request, manifest = with_suite(Request("video", num=2), str(path))
    assert request.num == 2 and {prompt.samples for prompt in manifest.prompts} == {2}
    assert len(with_suite(Request("video"), "sample")[0].prompts) == 12
    with pytest.raises(UserError, match="--suite has the prompts; leave --prompt or --prompts out"):
        with_suite(Request("video", prompts=("a dog",)), str(path))
    with pytest.raises(UserError, match="nowhere"):
        with_suite(Request("video"), str(tmp_path / "nowhere.json"))


class Verbs:
    """Stands in for the programs that score and compare."""

    def __init__(self, codes: Sequence[int] = ()) -> None:
        self.called: list[list[str]] = []
        self.codes = list(codes)

    def __call__(self, words: list[str]) -> int:
        self.called.append(words)
        if words[0] == "score":
            target = Path(words[words.index("--output") + 1])
            (target / f"{words[words.index('--name') + 1]}_report.json").write_text("{}")
        return self.codes.pop(0) if self.codes else 0


def scores(folder: Path, notes: list[str], *, alone: bool = True, every: float = 0.0) -> SuiteScores:
    _, manifest = with_suite(Request("video"), "sample")
    return SuiteScores(folder, manifest, METHODS, device="cpu", note=notes.append, alone=alone, every=every)


def test_what_is_there_is_scored_now_and_then_and_all_of_it_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verbs, notes = Verbs(), list[str]()
    monkeypatch.setattr("vbench_eval.commands.main", verbs)
    scores(tmp_path, notes, every=60.0).between()
    scores(tmp_path, notes, alone=False).between()
    assert verbs.called == []  # too early, and with others one waits for the end
    (tmp_path / "strong").mkdir()
    scores(tmp_path, notes).between()
    assert [words[:2] for words in verbs.called] == [["score", str(tmp_path / "strong")]]
    assert (tmp_path / "scores" / "manifest.json").is_file()
    (tmp_path / "w2sd").mkdir()
    written = scores(tmp_path, notes).finish()
    assert [words[0] for words in verbs.called[1:]] == ["score", "score", "compare"]
    assert set(written) == {"scores of strong", "scores of w2sd", "comparison of scores"} and not notes


def test_a_refused_score_is_told_and_an_interrupt_goes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "strong").mkdir()
    notes = list[str]()
    monkeypatch.setattr("vbench_eval.commands.main", Verbs([2]))
    scores(tmp_path, notes).finish()
    assert notes == ["score refused: another process may be at it; the same command makes the scores later"]
    monkeypatch.setattr("vbench_eval.commands.main", Verbs([130]))
    with pytest.raises(KeyboardInterrupt):
        scores(tmp_path, notes).finish()


@pytest.mark.slow
def test_one_command_makes_a_suite_and_scores_it(tmp_path: Path) -> None:
    words = [
        "video",
        "--suite",
        str(suite_file(tmp_path, "a red ring moving up", "a blue square moving left")),
        "--samples",
        "1",
    ]
    words += ["--steps", "3", "--methods", ",".join(METHODS), "--device", "cpu", "--output", str(tmp_path / "run")]
    for _ in range(2):  # the second time there is nothing left to do
        assert main([*words, "--quiet"]) == 0
        for method in METHODS:
            report = json.loads((tmp_path / "run" / "scores" / f"{method}_report.json").read_text())
            assert len(report["videos"]) == 2
        assert list((tmp_path / "run" / "scores" / "comparison").iterdir())
