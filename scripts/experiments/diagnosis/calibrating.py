"""Thresholds of the failure modes from measured families of pairs, and how often they are wrong (imports no torch)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from w2sd_video.diagnosis.failure_modes import Thresholds, failures
from w2sd_video.diagnosis.reporting import table as lines_of

GROUP = 4  # samples of a diagnosis
TAIL = 2.5  # percent of healthy diagnoses beyond each of the two limits of conflict
Z = 1.96


def calibration(families: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns thresholds and rates, as JSON data.

    Every other diagnosis (group of 4 samples) is for the thresholds, the others for the rates. Too similar is a gap
    under the geometric middle between the largest of the similar (95th percentile) and the smallest of the healthy
    (5th); conflict is a gap or a growth beyond the healthy's 97.5th percentile, of the bed (analytic, bundled) where
    that is larger.

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


def wilson(count: int, total: int) -> tuple[float, float]:
    """Returns the 95 percent interval of a share."""
    share, spread = count / total, Z * Z / total
    middle = (share + spread / 2) / (1 + spread)
    reach = Z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(0.0, middle - reach), min(1.0, middle + reach)


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
            low, high = wilson(count, total)
            found[name] = {"share": count / total, "low": low, "high": high, "total": total}
    return found
