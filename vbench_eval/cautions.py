"""What a reader should know before believing a comparison: still videos, lost videos, few prompts, other seeds."""

from __future__ import annotations

from collections.abc import Iterator

from vbench_eval.comparison import ALPHA, Caution, Comparison, Difference, Row
from vbench_eval.meanings import CONSISTENCY, MOTION, words
from vbench_eval.tables import number, p_text

HINT = 0.3
"""A fall of motion with p below this, beside a significant rise of consistency, is pointed out as unproven. If three
videos stop moving and none starts, p is 0.25.
"""
FEW = 10
"""Prompts; with fewer, intervals lean on the assumption that the differences are roughly normal."""
MANY = 0.05
"""The share of its videos that the others' gaps may cost a method before that is pointed out."""


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
