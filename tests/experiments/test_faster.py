"""How cached gaps are compared: strengths are chosen on some seeds and scored on others, and shares of a gain are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from experiments.demo import gaps, videos
from experiments.engine import Score
from experiments.faster import scoring
from experiments.faster.beds import Bed, beds

from w2sd_video.errors import UserError


@dataclass(frozen=True)
class Fake:
    key: str
    strength: float = 1.0


def score(right: int, of: int, rows: int = 20) -> Score:
    return Score((torch.arange(of) < right)[:, None], rows, rows, 0.1)


def bed(asked: list[tuple[str, int, int]]) -> Bed:
    """Strength 2 of "fused" is best on the seeds that are tuned on, and worst on those that are scored on."""
    shares = {"strong": 4, "fused 1": 6, "fused 2": 8, "cached 1": 7, "cached 2": 7}

    def make(method: Fake, count: int, first: int, progress: object) -> Score:
        asked.append((method.key, count, first))
        right = shares[method.key] if first == 100 else {"strong": 4, "fused 2": 8}.get(method.key, 7)
        return score(right * count // 10, count)

    methods = {
        "strong": (Fake("strong"),),
        "W2SD, fused": (Fake("fused 1"), Fake("fused 2", 2.0)),
        "cached gap, every 1": (Fake("cached 1"), Fake("cached 2", 2.0)),
    }
    return Bed("a bed", methods, make, 100, 200, ("print",))


def test_a_strength_is_chosen_on_some_seeds_and_scored_on_others(tmp_path: Path) -> None:
    asked: list[tuple[str, int, int]] = []
    found = scoring.compared(bed(asked), tmp_path, tuned=10, count=20, quiet=True)
    assert {name: method.key for name, (method, _) in found.items()} == {
        "strong": "strong",
        "W2SD, fused": "fused 2",
        "cached gap, every 1": "cached 1",  # of equals the least
    }
    assert {first for key, _, first in asked if key == "fused 1"} == {100}
    assert [(count, first) for key, count, first in asked if key == "fused 2"] == [(10, 100), (20, 200)]
    again: list[tuple[str, int, int]] = []
    scoring.compared(bed(again), tmp_path, tuned=10, count=20, quiet=True)
    assert again == [], "what is there is not made again"
    lines = scoring.table(bed([]), found).splitlines()
    assert lines[3].startswith("| W2SD, fused | 2 | 20 | 20 | 1.00 | 0.800 | +0.400 [")
    assert lines[4].split(" | ")[-1].startswith("0.75 [") and lines[2].endswith("| - |")


def test_a_share_of_a_gain_is_of_the_same_samples() -> None:
    strong, most, half = score(10, 40), score(30, 40), score(20, 40)
    assert scoring.kept_share(most, most, strong) == "1.00 [1.00, 1.00]"
    low, high = (float(end.strip("[],")) for end in scoring.kept_share(half, most, strong).split()[1:])
    assert scoring.kept_share(half, most, strong).startswith("0.50 [") and 0.2 < low < 0.5 < high < 0.8


def test_every_bed_has_its_control_and_cached_gaps_beside_what_they_replace() -> None:
    for name, make in beds().items():
        methods = make().methods
        assert len(methods[next(iter(methods))]) == 1 and "zero-gap, cached" in methods, name
        if name not in ("depth", "time", "video-time"):
            assert {"W2SD, fused", "cached gap, every 1"} <= methods.keys(), name
            for method in methods["cached gap, every 2"]:
                config = method.config if isinstance(method, videos.Method) else method
                every = config.gap_every if hasattr(config, "gap_every") else config.more["gap_every"]
                assert every == 2 and config.mode == "fused"
        keys = [method.key for group in methods.values() for method in group]
        assert len(set(keys)) == len(keys), name
    assert scoring.strength_of(gaps.Sampling(gaps.Setting(), strength=3.0)) == 3.0
    with pytest.raises(UserError, match="unknown method 'W2SD, fussed'"):
        scoring._narrowed(beds()["video"](), "W2SD, fussed")
