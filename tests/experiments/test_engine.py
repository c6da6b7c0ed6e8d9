"""The engine of the experiments: scores survive their files, and bars and tables say what the scores say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from experiments.engine import Bar, Score, Scores, chosen, fingerprint, markdown

from w2sd_video.errors import UserError


@dataclass(frozen=True)
class Sample:
    features: torch.Tensor
    seconds: float


def score(right: list[int], **notes: float) -> Score:
    return Score(torch.tensor(right).bool()[:, None].expand(-1, 2), 40, 80, 0.5, notes)


def test_scores_are_read_back_as_they_were_kept_and_by_their_settings_only(tmp_path: Path) -> None:
    kept = Scores(tmp_path, Score, lambda method: (4, method))
    kept.put("w2sd", "method", score([1, 0, 1, 1], skipped=2))
    found = kept.get("w2sd", "method")
    assert found is not None and found.all.tolist() == [True, False, True, True]
    assert (found.num_evaluations, found.num_rows, found.seconds, found.notes) == (40, 80, 0.5, {"skipped": 2})
    assert kept.get("w2sd", "another method") is None and kept.get("strong", "method") is None
    assert [path.name for path in tmp_path.iterdir()] == ["w2sd.json"]
    others = Scores(tmp_path, Sample)
    others.put("w2sd", "method", Sample(torch.arange(3), 0.5))
    again = others.get("w2sd", "method")
    assert again is not None and torch.equal(again.features, torch.arange(3))
    for path in tmp_path.iterdir():
        path.write_bytes(b"damaged")
    assert kept.get("w2sd", "method") is None and others.get("w2sd", "method") is None


def test_only_what_is_missing_is_made(tmp_path: Path) -> None:
    kept, made = Scores(tmp_path, Score), []

    def make(key: str, method: str, progress: object) -> Score:
        made.append(key)
        return score([1])

    for _ in range(2):
        kept.fill({"a": "one", "b": "two"}, make, count=1, quiet=True)
    kept.fill({"a": "one", "b": "changed"}, make, count=1, quiet=True)
    assert made == ["a", "b", "b"]
    assert list(kept.finished({"b": "changed", "a": "one", "c": "three"})) == ["b", "a"]


def test_a_bar_holds_where_the_whole_interval_lies_on_its_side() -> None:
    scores = {"better": score([1] * 40), "worse": score([1, 0] * 20), "same": score([1] * 40)}
    assert Bar("claim", "better", "worse", 0.4).holds(scores)
    assert not Bar("claim", "better", "worse", 0.6).holds(scores)
    assert Bar("claim", "worse", "better", side="below").holds(scores)
    assert Bar("claim", "same", "better", side="equal").holds(scores) and not Bar("c", "same", "better").holds(scores)
    assert Bar("claim", "better", "none").verdict(scores) == "not run  claim"
    assert Bar("claim", "better", "worse").verdict(scores).startswith("met      claim: +0.500 [+0.")


def test_names_are_chosen_and_weights_told_apart(tmp_path: Path) -> None:
    assert chosen(None, ["a", "b"]) == ["a", "b"] and chosen("b, a", ["a", "b"]) == ["b", "a"]
    with pytest.raises(UserError, match="unknown gap 'c'; choose from a, b"):
        chosen("c", ["a", "b"], "gap")
    (tmp_path / "one.safetensors").write_bytes(b"1")
    first = fingerprint(tmp_path)
    (tmp_path / "one.safetensors").write_bytes(b"2")
    assert fingerprint(tmp_path) != first
    assert markdown(["a", "b"], [[1, "x"]]) == "| a | b |\n|---|---|\n| 1 | x |"
