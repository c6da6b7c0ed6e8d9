"""What the demo's scores say: paired differences with intervals, the table, and the bars the pair is held to."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.demo.scoring import METHODS, Score


class Interval(NamedTuple):
    """A mean and its 95 percent interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def paired_interval(a: Tensor, b: Tensor, draws: int = 10_000, seed: int = 0) -> Interval:
    """The mean of a - b over paired videos [N] with its percentile bootstrap interval (videos are resampled)."""
    difference = a.double() - b.double()
    picks = torch.randint(len(difference), (draws, len(difference)), generator=torch.Generator().manual_seed(seed))
    means = difference[picks].mean(dim=1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(difference.mean().item(), low, high)


class Bar(NamedTuple):
    """A claim about two methods: the mean difference is at least `least`, and `side` says what else must hold.

    `side` is "above" or "below" (the whole interval lies there), "mean below" (the mean does) or "equal" (all videos).
    """

    claim: str
    method: str
    against: str
    least: float
    side: str


BARS = (
    Bar("W2SD (paper mode) beats strong by 0.08", "w2sd", "strong", 0.08, "above"),
    Bar("W2SD (fused) beats strong by 0.05", "w2sd-fused", "strong", 0.05, "above"),
    Bar("W2SD beats its own zero-gap", "w2sd", "zero-gap", 0.0, "above"),
    Bar("W2SD beats strong at equal evaluations", "w2sd", "strong-equal", 0.0, "above"),
    Bar("swapped roles fall below strong", "swapped", "strong", 0.0, "below"),
    Bar("swapped roles fall below weak", "swapped", "weak", 0.0, "mean below"),
    Bar("fused zero-gap is strong, exactly", "zero-gap-fused", "strong", 0.0, "equal"),
)


def holds(bar: Bar, a: Score, b: Score) -> bool:
    """Whether `bar` holds for the scores of its method and of what it is against."""
    interval = paired_interval(a.all, b.all)
    return {
        "above": interval.mean >= bar.least and interval.low > 0,
        "below": interval.high < 0,
        "mean below": interval.mean < 0,
        "equal": torch.equal(a.correct, b.correct),
    }[bar.side]


def table(scores: Mapping[str, Score]) -> str:
    """A Markdown table, one row per finished method, in the order of METHODS."""
    lines = [
        "| method | network rows | colour | shape | motion | all three | all three, minus strong | s / video |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, score in scores.items():
        parts = " | ".join(f"{value:.3f}" for value in score.correct.double().mean(dim=0).tolist())
        difference = "" if "strong" not in scores else str(paired_interval(score.all, scores["strong"].all))
        cost = str(score.num_rows)  # a guided evaluation has two: the honest unit
        everything = f"{score.all.double().mean().item():.3f}"
        row = (METHODS[name].label, cost, parts, everything, "-" if name == "strong" else difference)
        lines.append("| " + " | ".join([*row, f"{score.seconds:.2f}"]) + " |")
    return "\n".join(lines)


def verdicts(scores: Mapping[str, Score], bars: Iterable[Bar] = BARS) -> str:
    """One line per bar: whether it holds, with the difference measured."""
    lines = []
    for bar in bars:
        if bar.method not in scores or bar.against not in scores:
            lines.append(f"not run  {bar.claim}")
            continue
        a, b = scores[bar.method], scores[bar.against]
        met = "met   " if holds(bar, a, b) else "MISSED"
        lines.append(f"{met}   {bar.claim}: {paired_interval(a.all, b.all)}")
    return "\n".join(lines)


def to_json(score: Score) -> dict:
    """A score as plain data."""
    return {
        "correct": score.correct.int().tolist(),
        "num_evaluations": score.num_evaluations,
        "num_rows": score.num_rows,
        "seconds": score.seconds,
    }


def from_json(record: dict) -> Score:
    """The inverse of `to_json`."""
    correct = torch.tensor(record["correct"]).bool()
    return Score(correct, record["num_evaluations"], record["num_rows"], record["seconds"])


def finished(path: Path, settings: Mapping[str, object]) -> dict | None:
    """The record of a method scored with these settings; None where there is none, or a damaged one."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record if record["settings"] == settings else None
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
