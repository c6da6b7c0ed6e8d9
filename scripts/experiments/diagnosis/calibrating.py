"""Thresholds of the failure modes from measured families of pairs, their error rates, and the rule for the strength."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from experiments.diagnosis.analytic import FAMILIES, pair_of
from experiments.engine import check_counts, make_folders, set_threads
from vbench_eval.statistics import wilson
from w2sd_video.diagnosis.asking import STEPS
from w2sd_video.diagnosis.judging import CALIBRATION, Thresholds, failures
from w2sd_video.diagnosis.measuring import measure, together
from w2sd_video.diagnosis.reporting import table as lines_of

SCHEDULES = ("ddpm", "sdxl", "flow")
KEPT = ("clean_gap", "gap", "move", "error", "cosine", "displacement", "drift", "growth")
GROUP = 4  # samples of a diagnosis
TAIL = 2.5  # percent of healthy diagnoses beyond each of the two limits of conflict


def calibration(families: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns thresholds and rates, as JSON data.

    Every other diagnosis (group of 4 samples) is for the thresholds, the others for the rates. Too similar is a gap
    under the geometric middle between the largest of the similar (95th percentile) and the smallest of the healthy
    (5th); conflict is a gap or a growth beyond the healthy's 97.5th percentile, of the testbed (analytic, bundled)
    where that is larger.

    Args:
        families: by name, "kind" ("healthy", "similar", "conflict", "opposed"), "bed" and the arrays of `Measured`.
    """
    groups = {name: _diagnoses(family) for name, family in families.items()}
    kinds = {name: (str(family["kind"]), str(family["bed"])) for name, family in families.items()}

    def of(kind: str, bed: str, column: int) -> list[float]:
        return [group[column] for name, found in groups.items() for group in found[::2] if kinds[name] == (kind, bed)]

    beds = sorted({bed for _, bed in kinds.values()})
    largest = max(float(np.percentile(of("similar", bed, 0), 95)) for bed in beds)
    smallest = min(float(np.percentile(of("healthy", bed, 0), 5)) for bed in beds)
    limits = [max(float(np.percentile(of("healthy", bed, column), 100 - TAIL)) for bed in beds) for column in (0, 1)]
    found = Thresholds(*(float(f"{value:.3g}") for value in (math.sqrt(largest * smallest), *limits)))
    rows = []
    for name, diagnoses in groups.items():
        held = diagnoses[1::2]
        alarms = [failures(gap, growth, found) for gap, growth in held]
        rows.append(
            {
                "family": name,
                "kind": kinds[name][0],
                "bed": kinds[name][1],
                "diagnoses": len(held),
                "gap": [round(float(np.percentile([gap for gap, _ in held], q)), 4) for q in (5, 50, 95)],
                "similar": sum("over-similarity" in alarm for alarm in alarms),
                "conflict": sum("conflict" in alarm for alarm in alarms),
                "harmful": families[name].get("harmful"),
            }
        )
    return {
        "thresholds": {
            "similar_below": found.similar_below,
            "gap_above": found.gap_above,
            "growth_above": found.growth_above,
        },
        "samples": GROUP,
        "rates": {bed: _rates([row for row in rows if row["bed"] == bed]) for bed in beds},
        "families": rows,
    }


def table(found: Mapping[str, Any]) -> str:
    """Returns thresholds, rates and families as text."""
    limits = found["thresholds"]
    text = [
        f"too similar: gap under {limits['similar_below']:g}; conflict: gap over {limits['gap_above']:g} "
        f"or growth over {limits['growth_above']:g}",
        "",
    ]
    rows = [("family", "kind", "bed", "diagnoses", "gap 5 / 50 / 95 %", "too similar", "conflict", "harmful")]
    for row in found["families"]:
        gaps = " / ".join(f"{gap:.3f}" for gap in row["gap"])
        counts = [f"{row[alarm] / row['diagnoses']:.2f}" for alarm in ("similar", "conflict")]
        harm = "" if row["harmful"] is None else f"{row['harmful']:.2f}"
        rows.append((row["family"], row["kind"], row["bed"], str(row["diagnoses"]), gaps, *counts, harm))
    text += lines_of(rows, right=(3, 5, 6, 7))
    for bed, rates in found["rates"].items():
        for name, rate in rates.items():
            text.append(f"{bed}: {name} {rate['share']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}] of {rate['total']}")
    return "\n".join(text)


def _diagnoses(family: Mapping[str, Any]) -> list[tuple[float, float]]:
    """(gap, growth) of each group of samples."""
    gaps, growth = np.array(family["clean_gap"], float), np.array(family["growth"], float)
    count = len(growth) // GROUP
    return [
        (float(gaps[GROUP * i : GROUP * (i + 1)].mean()), float(growth[GROUP * i : GROUP * (i + 1)].mean()))
        for i in range(count)
    ]


def _rates(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    found = {}
    for name, kind, alarms in (
        ("false alarms of over-similarity", "healthy", ("similar",)),
        ("false alarms of conflict", "healthy", ("conflict",)),
        ("over-similarity detected", "similar", ("similar",)),
        ("conflict detected", "conflict", ("conflict",)),
        ("opposed biases detected", "opposed", ("conflict",)),
    ):
        total = sum(row["diagnoses"] for row in rows if row["kind"] == kind)
        if total:
            count = sum(row[alarm] for row in rows if row["kind"] == kind for alarm in alarms)
            share = wilson(count, total)
            found[name] = {"share": share.value, "low": share.low, "high": share.high, "total": total}
    return found


# --- the strength ----------------------------------------------------------------------------------------------------

STRENGTHS = (0.5, 1.0, 1.5, 2.0)
TARGETS = (0.1, 0.15, 0.2, 0.25, 0.3)
Row = tuple[float, float, dict[float, float]]
"""The gap of a pair, the strong side's distance to the ideal, and W2SD's by strength."""


def measured_pair(family: str, seed: int, schedule: str, num_steps: int) -> Row:
    """Returns one pair's row; half of the steps are reflected, in mode "fused"."""
    pair = pair_of(family, seed, schedule, num_steps)
    distances = [pair.distances(num_steps // 2, strength) for strength in STRENGTHS]
    moved = {strength: after for strength, (_, after) in zip(STRENGTHS, distances, strict=True)}
    return float(measure(pair).clean_gap.mean()), distances[0][0], moved


def strength_rule(rows: Sequence[Row]) -> dict[str, Any]:
    """Returns the target of the rule "strength = target / gap, from 1 to 2" that serves every other pair best, and what
    it comes to on the others: the mean distance to the ideal over the strong side's, beside strength 1 throughout.
    """
    targets = {target: _left(rows[::2], target) for target in TARGETS}
    best = min(targets, key=lambda target: targets[target])
    held = rows[1::2]
    return {
        "target": best,
        "pairs": len(held),
        "left_at_strength_1": round(_left(held, 0.0), 4),
        "left_by_the_rule": round(_left(held, best), 4),
    }


def healthy() -> tuple[str, ...]:
    """The families that the rule is measured on."""
    return tuple(name for name, family in FAMILIES.items() if family.kind == "healthy")


def _left(rows: Sequence[Row], target: float) -> float:
    """The mean share of the strong side's distance that is left by the rule; strength 1 throughout for target 0."""
    shares = []
    for gap, alone, moved in rows:
        strength = min(max(target / gap, 1.0), 2.0)
        shares.append(float(np.interp(strength, STRENGTHS, [moved[known] for known in STRENGTHS])) / alone)
    return float(np.mean(shares))


# --- scripts/calibrate_diagnosis.py ----------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> int:
    from experiments.diagnosis import bundled

    check_counts(options, pairs=8, pictures=8, videos=8)
    set_threads(1)
    make_folders(options.output)
    chosen = None if options.only is None else options.only.split(",")
    families: dict[str, dict[str, Any]] = {}
    pictures, videos = bundled.Pictures(options.pictures), bundled.Videos(options.videos)
    makers: dict[str, tuple[str, str, Callable[[], dict[str, Any]]]] = {}
    for name, family in FAMILIES.items():
        for at in SCHEDULES:
            makers[f"{name}-{at}"] = (family.kind, "analytic", partial(_analytic, name, at, options.pairs))
    for name, (kind, *_) in bundled.GAPS.items():
        makers[name] = (kind, "bundled", partial(_bundled, pictures, name))
    for name, (kind, share) in bundled.VIDEOS.items():
        makers[name] = (kind, "bundled", partial(_bundled, videos, share))
    for name, (kind, bed, make) in makers.items():
        if chosen is not None and name not in chosen:
            continue
        path = options.output / f"{name}.json"
        if not path.is_file():
            path.with_suffix(".part").write_text(json.dumps(make()))
            os.replace(path.with_suffix(".part"), path)
            print(f"{name}: measured", file=sys.stderr, flush=True)
        families[name] = {**json.loads(path.read_text()), "kind": kind, "bed": bed}
    if chosen is None:
        found = {**calibration(families), "strength": _strength(options), "steps": STEPS}
        target = options.write or CALIBRATION
        target.write_text(json.dumps(found, indent=1) + "\n")
        print(table(found))
        print(f"\nwritten to {target}")
    return 0


def _strength(options: argparse.Namespace) -> dict[str, Any]:
    """The rule for the strength; its pairs' rows are kept like the families."""
    path = options.output / "strengths.json"
    if not path.is_file():
        count = max(8, options.pairs // 4)
        rows = [measured_pair(name, seed, at, STEPS) for at in SCHEDULES for name in healthy() for seed in range(count)]
        path.write_text(json.dumps([(gap, alone, list(moved.items())) for gap, alone, moved in rows]))
    return strength_rule([(gap, alone, dict(moved)) for gap, alone, moved in json.loads(path.read_text())])


def _analytic(name: str, schedule: str, count: int) -> dict[str, Any]:
    pairs = [pair_of(name, seed, schedule, STEPS) for seed in range(count)]
    harms = [moved > alone for alone, moved in (pair.distances(STEPS - 1, 1.0) for pair in pairs)]
    return {**numbers(together([measure(pair) for pair in pairs])), "harmful": sum(harms) / count}


def _bundled(pairs: Any, which: Any) -> dict[str, Any]:
    return numbers(pairs.measured(which))


def numbers(measured: Any) -> dict[str, Any]:
    """Rounded to what means something; NaN as null."""
    return {
        name: json.loads(json.dumps(np.round(getattr(measured, name), 6).tolist()).replace("NaN", "null"))
        for name in KEPT
    }
