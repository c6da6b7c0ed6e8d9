"""The result of a comparison: the methods' scores, means, paired differences with tests, and what to beware of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vbench_eval.dimensions import MEASURED
from vbench_eval.judges import PREFIX
from vbench_eval.proxies import PROXIES
from vbench_eval.statistics import Interval, Tested, WinRate

Key = tuple[str, int]  # prompt and index: what pairs the videos of two methods
ALPHA = 0.05
HINT = 0.3
"""A fall of motion with p below this, beside a significant rise of consistency, is pointed out as unproven. If three
videos stop moving and none starts, p is 0.25.
"""
FEW = 10
"""Prompts; with fewer, intervals lean on the assumption that the differences are roughly normal."""
MANY = 0.05
"""The share of its videos that the others' gaps may cost a method before that is pointed out."""


# +1: rises with motion, -1: falls with it. Only what speaks of the amount of motion, not of its smoothness.
MOTION = {"dynamic_degree": 1, "flow_dynamic": 1, "frozen_frames": -1}
# Consistency, +1 where it rises with the number, -1 where it falls: a video that stands still scores best.
CONSISTENCY = {
    "subject_consistency": 1,
    "background_consistency": 1,
    "motion_smoothness": 1,
    "temporal_flickering": 1,
    "pixel_consistency": 1,
    "interp_smoothness_linear": 1,
    "interp_smoothness_flow": 1,
    "warp_error": -1,
}
PICTURE = ("imaging_quality", "aesthetic_quality")
"""The quality that is shown against motion: how every frame looks, whatever happens between frames."""
_ORDER = {name: place for place, name in enumerate((*MEASURED, *PROXIES))}
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


@dataclass(frozen=True)
class Score:
    """One video in one dimension: a number (0..1 if official), whether it stands for yes or no, and its weight."""

    value: float
    yes_or_no: bool = False
    weight: float = 1.0


@dataclass(frozen=True)
class Instrument:
    """What measured a dimension: the backbone's name with its mode, and the start of its files' SHA-256, if known."""

    name: str
    files: str = ""


@dataclass(frozen=True)
class Shown:
    """One video: where it lies (None if nothing is there), as the report calls it, its facts and its seed."""

    path: Path | None
    name: str
    info: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None


@dataclass(frozen=True)
class Side:
    """One method: its scores by dimension, its videos, and what measured them.

    Attributes:
        official: which of the dimensions in `scores` are VBench's; the others are proxies.
        measured_by: per dimension the backbone, None if it needs none or the report does not say.
        profile: None if the report does not say (VBench's own files do not).
        skipped: why videos without any score have none, by path.
        reasons: why a dimension that was asked for has no scores.
    """

    label: str
    source: str
    profile: str | None
    scores: Mapping[str, Mapping[Key, Score]]
    official: frozenset[str]
    measured_by: Mapping[str, Instrument | None]
    videos: Mapping[Key, Shown]
    skipped: Mapping[str, str]
    reasons: Mapping[str, str]


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
            "verdicts": list(verdicts(self)),
            "warnings": [asdict(one) for one in self.warnings],
            "dimensions": {row.name: _row_json(row) for row in self.official},
            "proxies": {row.name: _row_json(row) for row in self.proxies},
            "notes": list(NOTES),
        }


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


# words and numbers


def words(name: str) -> str:
    """The dimension's name as a heading: "subject consistency"."""
    return name.replace("_", " ")


def better(name: str, official: bool) -> int:
    """+1 where higher is better, -1 where lower is, 0 where neither is: more contrast is no better picture as such."""
    if official:
        return 1
    return PROXIES[name].better if name in PROXIES else int(name.startswith(PREFIX))


def about(name: str) -> str:
    """What a proxy measures, in one line; nothing for other names."""
    proxy = PROXIES.get(name)
    return "" if proxy is None else f"{proxy.description} ({proxy.unit}; {proxy.reading})"


def in_order(names: Iterable[str]) -> list[str]:
    """The names as a reader expects them: the paper's columns, other official ones, then the proxies in their order."""
    return sorted(names, key=lambda name: (_ORDER.get(name, len(_ORDER)), name))


def number(row: Row, value: float, digits: int = 2, *, signed: bool = False) -> str:
    """A mean or difference of the row as text: times 100 if official, else with four significant digits."""
    text = f"{100 * value:+.{digits}f}" if row.official else f"{value:+.4g}"
    return text if signed and float(text) else text[1:] if text[0] == "+" or not float(text) else text


def interval_text(row: Row, found: Interval, *, signed: bool = False) -> str:
    """ "+1.06 [+0.91, +1.20]", without brackets where there are no limits."""
    text = number(row, found.value, signed=signed)
    if found.low is None or found.high is None:
        return text
    return f"{text} [{number(row, found.low, signed=signed)}, {number(row, found.high, signed=signed)}]"


def p_text(p: float) -> str:
    """ "0.038", or "< 0.0001": no test of some hundred videos means more than that."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def rate_text(rate: Interval) -> str:
    """A win rate in percent with its limits."""
    limits = "" if rate.low is None or rate.high is None else f" [{100 * rate.low:.0f}, {100 * rate.high:.0f}]"
    return f"{100 * rate.value:.1f} %{limits}"


# motion beside quality


def motion_row(comparison: Comparison) -> Row | None:
    """The dimension that says how much moves: dynamic degree, else its proxy; None if neither was measured."""
    rows = {row.name: row for row in comparison.rows if row.differences}
    return next((rows[name] for name, way in MOTION.items() if way > 0 and name in rows), None)


def picture_rows(comparison: Comparison) -> tuple[Row, ...]:
    """The dimensions of the pictures' quality that are shown against motion."""
    rows = {row.name: row for row in comparison.rows if row.differences}
    return tuple(rows[name] for name in PICTURE if name in rows)


def verdicts(comparison: Comparison) -> tuple[str, ...]:
    """One sentence per method: what it gains in the pictures' quality, and what becomes of the motion.

    A direction is claimed only where the test's p is below 0.05; without that the sentence says that nothing is shown.
    """
    motion, pictures = motion_row(comparison), picture_rows(comparison)
    found = []
    for label in comparison.labels[1:]:
        parts = [f"{words(row.name)} {_against(row, label)}" for row in pictures if label in row.differences]
        if motion is None or label not in motion.differences:
            parts.append("motion was not measured, so that gains may come from videos that stand still")
        else:
            base = number(motion, motion.means[comparison.baseline].value)
            parts.append(
                f"{words(motion.name)}{_kind(motion)} {_against(motion, label)} of {base}: {_way(motion, label)}"
            )
        found.append(f"{label} against {comparison.baseline}: " + ", ".join(parts))
    return tuple(found)


def _against(row: Row, label: str) -> str:
    return interval_text(row, row.differences[label].interval, signed=True)


def _way(motion: Row, label: str) -> str:
    for direction, said in ((-1, "less motion"), (1, "more motion")):
        if _moved(motion, label, direction * MOTION[motion.name], ALPHA):
            return said
    return "no difference of motion is shown"


# warnings


def cautions(comparison: Comparison) -> Iterator[Caution]:
    """The warnings of a comparison, the gravest first."""
    for label in comparison.labels[1:]:
        yield from _still_videos(comparison, label)
    yield from _left_out(comparison)
    yield from _few_prompts(comparison)
    yield from _other_seeds(comparison)


def _still_videos(comparison: Comparison, label: str) -> Iterator[Caution]:
    """Consistency rises while motion falls: a video that stands still is perfectly consistent.

    The p used here are those before Holm's correction, as a warning had better come too often than too rarely.
    """
    motion = [row for row in comparison.rows if row.name in MOTION]
    rises = [
        row for row in comparison.rows if row.name in CONSISTENCY and _moved(row, label, CONSISTENCY[row.name], ALPHA)
    ]
    falls = [row for row in motion if _moved(row, label, -MOTION[row.name], ALPHA)]
    hints = [row for row in motion if _moved(row, label, -MOTION[row.name], HINT)]
    if rises and falls:
        yield Caution(
            "static",
            f"{label} is more consistent than {comparison.baseline} and moves less: {_listed(rises, label)}, while "
            f"{_listed(falls, label)}. A video that stands still scores best in consistency, so these gains need not "
            "be gains in quality: look at the videos side by side.",
        )
    elif rises and hints:
        yield Caution(
            "static-suspected",
            f"{label} is more consistent than {comparison.baseline} ({_listed(rises, label)}) and may move less "
            f"({_listed(hints, label)}; not significant). A video that stands still scores best in consistency: look "
            "at the videos, or score more prompts.",
        )


def _moved(row: Row, label: str, direction: int, alpha: float) -> bool:
    found: Difference | None = row.differences.get(label)
    return found is not None and found.interval.value * direction > 0 and found.test.p < alpha


def _listed(rows: list[Row], label: str) -> str:
    return ", ".join(f"{words(row.name)}{_kind(row)} {_change(row, label)}" for row in rows)


def _kind(row: Row) -> str:
    return "" if row.official else " (proxy)"


def _change(row: Row, label: str) -> str:
    found = row.differences[label]
    p = p_text(found.test.p)
    return f"{number(row, found.interval.value, signed=True)} (p {p if p.startswith('<') else '= ' + p})"


def _left_out(comparison: Comparison) -> Iterator[Caution]:
    for label in comparison.labels:
        lost = {row.name: len(row.left_out[label]) for row in comparison.rows if row.left_out.get(label)}
        totals = {row.name: row.own[label][1] for row in comparison.rows if label in row.own}
        far = {name: count for name, count in lost.items() if count > MANY * totals[name]}
        if far:
            name, count = max(far.items(), key=lambda item: item[1])
            yield Caution(
                "left-out",
                f"{count} of {totals[name]} videos of {label} are left out in {words(name)}, as another method has no "
                "score for them; compare fewer methods, or make and score the missing videos",
            )


def _few_prompts(comparison: Comparison) -> Iterator[Caution]:
    counts = [row.num_prompts for row in comparison.rows if row.keys]
    if counts and min(counts) < FEW:
        yield Caution(
            "few-prompts",
            f"only {min(counts)} prompt{'s' if min(counts) > 1 else ''} in common: the intervals are a rough guide, "
            "and no test can find small differences",
        )


def _other_seeds(comparison: Comparison) -> Iterator[Caution]:
    base = comparison.sides[comparison.baseline].videos
    for label in comparison.labels[1:]:
        pairs = [(base[key].seed, one.seed) for key, one in comparison.sides[label].videos.items() if key in base]
        known = [pair for pair in pairs if None not in pair]
        other = sum(ours != theirs for ours, theirs in known)
        if other:
            yield Caution(
                "seeds",
                f"{other} of {len(known)} pairs of {label} and {comparison.baseline} were made from different seeds: "
                "the pairing then only balances prompts, and differences are noisier",
            )
