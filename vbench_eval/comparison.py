"""The result of a comparison: per dimension the means, the paired differences with their tests, and the warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from vbench_eval.sides import Key, Side
from vbench_eval.statistics import Interval, Tested, WinRate

ALPHA = 0.05


@dataclass(frozen=True)
class Difference:
    """A method minus the baseline, over the same videos.

    `p_holm` is the test's p corrected (Holm) for the number of dimensions that this method is tested in, official
    dimensions and proxies each for themselves. `wins` is None where neither direction is better.
    """

    interval: Interval
    test: Tested
    p_holm: float
    wins: WinRate | None


@dataclass(frozen=True)
class Row:
    """One dimension of all methods that have it.

    Attributes:
        official: one of VBench's dimensions; a proxy otherwise.
        better: +1 where higher is better, -1 where lower is, 0 where neither is.
        keys: the (prompt, index) of the videos that all of them have a score for, in the baseline's order.
        values: per method its scores of those videos.
        means: per method the mean over those videos.
        own: per method the mean over all its videos, and their number (what its report says).
        left_out: per method the videos that are not among `keys` because another method has no score for them.
        differences: per method but the baseline; empty if the baseline has no such dimension.
    """

    name: str
    official: bool
    better: int
    yes_or_no: bool
    keys: tuple[Key, ...]
    values: Mapping[str, Sequence[float]]
    means: Mapping[str, Interval]
    own: Mapping[str, tuple[float, int]]
    left_out: Mapping[str, tuple[Key, ...]]
    differences: Mapping[str, Difference]

    @property
    def num_prompts(self) -> int:
        return len({prompt for prompt, _ in self.keys})


@dataclass(frozen=True)
class Caution:
    """Something a reader should know before believing the numbers; `kind` names it for programs."""

    kind: str
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Comparison:
    """Everything that was found; the first label is the baseline."""

    labels: tuple[str, ...]
    rows: tuple[Row, ...]
    sides: Mapping[str, Side]
    level: float
    draws: int
    seed: int
    warnings: tuple[Caution, ...] = field(default=())

    @property
    def baseline(self) -> str:
        return self.labels[0]

    @property
    def official(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.official)

    @property
    def proxies(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if not row.official)

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain JSON data, without the single videos' scores (the reports hold them)."""
        return {
            "schema": 1,
            "labels": list(self.labels),
            "baseline": self.baseline,
            "settings": {"level": self.level, "draws": self.draws, "seed": self.seed},
            "sources": {
                label: {
                    "source": side.source,
                    "profile": side.profile,
                    "measured_by": {
                        name: None if one is None else asdict(one) for name, one in side.measured_by.items()
                    },
                }
                for label, side in self.sides.items()
            },
            "warnings": [asdict(one) for one in self.warnings],
            "dimensions": {row.name: _row_json(row) for row in self.official},
            "proxies": {row.name: _row_json(row) for row in self.proxies},
            "notes": list(NOTES),
        }


NOTES = (
    "Videos are paired by prompt and index; a dimension is compared over the videos that every method has a score for.",
    "Videos of one prompt are not independent: intervals resample whole prompts, and tests take one number per prompt.",
    "Intervals of means and of their differences are bootstrapped, with the same resamples for every method; those of "
    "shares are Wilson's, those of differences of shares Newcombe's.",
    "p is two-sided. Holm's correction, over the dimensions of one method, is applied in the column that says so; "
    "official dimensions and proxies are corrected apart.",
    "A win rate counts a tie as half a win; its interval is on the cautious side where ties are many.",
    "Bold marks the best mean, whether or not the difference is significant.",
)


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "better": {1: "higher", -1: "lower", 0: None}[row.better],
        "yes_or_no": row.yes_or_no,
        "videos": len(row.keys),
        "prompts": row.num_prompts,
        "means": {label: asdict(mean) for label, mean in row.means.items()},
        "own": {label: {"mean": mean, "videos": count} for label, (mean, count) in row.own.items()},
        "left_out": {
            label: [{"prompt": prompt, "index": index} for prompt, index in keys]
            for label, keys in row.left_out.items()
        },
        "differences": {label: asdict(found) for label, found in row.differences.items()},
    }
