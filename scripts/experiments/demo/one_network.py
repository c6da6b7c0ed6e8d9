"""The weak side without a second network, on the bundled video pair: what reflections by it gain, beside controls.

The weak checkpoint as a difference of low rank and the strong network at few bits, each in fused mode with its strength
chosen on other seeds, beside the weak network itself, the strong side at as many evaluations, and no gap at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.demo.videos import Method, add_difference, fused, load, score, zero_gap
from experiments.engine import Progress, Score, fingerprint, markdown
from experiments.faster.scoring import Bed, strength_of

STEPS, REFLECTIONS = 10, 5
STRENGTHS = (0.5, 1.0, 2.0)
TUNED_ON, SCORED_ON = 100_000, 200_000  # the first noise seeds
TUNED = 48  # videos by which a strength is chosen

STRONG, EQUAL, ZERO, WEAK = "strong", "strong, equal evaluations (T 20)", "zero-gap", "weak network"
SIDES = {
    WEAK: "weak",
    "difference, rank 8": "rank-8",
    "difference, rank 2": "rank-2",
    "strong at int2": "int2",
    "strong at int4": "int4",
}


def _short(method: Method, **settings: Any) -> Method:
    return Method(method.sampled, method.partner, settings={**method.settings, **settings}, steps=STEPS)


METHODS: Mapping[str, tuple[Method, ...]] = {
    STRONG: (Method(steps=STEPS),),
    EQUAL: (Method(steps=STEPS + 2 * REFLECTIONS),),
    ZERO: (_short(zero_gap(mode="fused"), num_reflections=REFLECTIONS, strength=max(STRENGTHS)),),
    **{
        label: tuple(_short(fused(side), num_reflections=REFLECTIONS, strength=strength) for strength in STRENGTHS)
        for label, side in SIDES.items()
    },
}


def bed(weights: Path) -> Bed:
    """These methods as `experiments.faster.scoring.compared` takes them."""
    sides: dict[str, Any] = {}

    def make(method: Method, count: int, first: int, progress: Progress) -> Score:
        sides.update(sides or load(weights))
        add_difference(sides, weights, method.partner)
        return score(sides, method, count, progress, first=first)[0]

    return Bed("a weak side without a second network", METHODS, make, TUNED_ON, SCORED_ON, (fingerprint(weights),))


def table(found: Mapping[str, tuple[Method, Score]]) -> str:
    """A Markdown table: a row for each weak side, its differences to the controls paired, in all three attributes."""
    scores = {label: score for label, (_, score) in found.items()}
    rows = []
    for label, (method, mine) in found.items():
        reflects = label in SIDES
        controls = (STRONG, EQUAL, WEAK) if reflects else (STRONG,)
        cells = [mine.minus(scores[name]) if name in controls else "-" for name in (STRONG, EQUAL, WEAK)]
        strength = f"{strength_of(method):g}" if reflects else "-"
        rows.append([label, strength, mine.num_evaluations, *mine.shares(), *cells])
    head = ["weak side", "strength", "evaluations", "colour", "shape", "motion", "all three"]
    return markdown([*head, "minus strong", "minus strong at equal evaluations", "minus the weak network"], rows)


def exact(found: Mapping[str, tuple[Method, Score]]) -> str:
    """A line on whether the zero-gap changed anything."""
    same = bool((found[STRONG][1].correct == found[ZERO][1].correct).all())
    return f"the zero-gap reads as the strong side does in {'every video' if same else 'NOT every video'}"
