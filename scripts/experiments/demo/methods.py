"""Every algorithm, mode and setting of a reflection on the bundled pair, each beside its controls."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.demo import one_network
from experiments.demo.videos import Method, fused, load, paper, score, zero_gap
from experiments.engine import (
    Curve,
    Progress,
    Score,
    Scores,
    check_counts,
    chosen,
    fingerprint,
    make_folders,
    markdown,
    set_threads,
)
from experiments.faster.scoring import compared
from w2sd_video.demo import WEIGHTS
from w2sd_video.errors import UserError


def _auto(reward: str) -> Method:
    return Method(partner="weak", algorithm="w2sd-auto", reward=reward)


EQUAL = {f"strong, equal evaluations (T {steps})": Method(steps=steps) for steps in (30, 40, 50)}

ALGORITHMS: Mapping[str, Method] = {
    "weak": Method(sampled="weak"),
    "strong": Method(),
    **EQUAL,
    "W2SD, paper mode (Alg. 1)": paper(),
    "W2SD, fused (Theorem 1)": fused(),
    "W2SD, release coefficients": paper(mode="release"),
    "zero-gap, paper mode": zero_gap(),
    "zero-gap, fused": zero_gap(mode="fused"),
    "zero-gap, release coefficients": zero_gap(mode="release"),
    "swapped roles (the weak side samples), paper mode": Method(sampled="weak", partner="strong"),
    "swapped roles (the weak side samples), fused": Method(
        sampled="weak", partner="strong", settings={"mode": "fused"}
    ),
    "auto-guidance, weight 1 (Eq. 38)": Method(partner="weak", algorithm="autoguided"),
    "auto-selection, reward oracle, paper mode (Alg. 2)": _auto("oracle"),
    "auto-selection, reward colour, paper mode": _auto("colour"),
    "auto-selection, reward random, paper mode (control)": _auto("random"),
    "Re-Sampling (Alg. 3)": Method(algorithm="resample"),
    "Re-Sampling, aligned (Alg. 4)": Method(partner="weak", algorithm="resample-aligned"),
    "Re-Sampling, opposed (Table 15's control)": Method(partner="weak", algorithm="resample-opposed"),
}

SETTINGS: Mapping[str, Method] = {
    "strong": Method(),
    **EQUAL,
    "W2SD, paper mode": paper(),
    "W2SD, fused": fused(),
    "zero-gap, paper mode": zero_gap(),
    "paper, fixed point 1": paper(fixed_point=1),
    "zero-gap, fixed point 1": zero_gap(fixed_point=1),
    "paper, every 2nd step": paper(every=2),
    "fused, every 2nd step": fused(every=2),
    "paper, window 0 to 0.25": paper(window=(0.0, 0.25)),
    "paper, window 0.25 to 0.5": paper(window=(0.25, 0.5)),
    "paper, lag": paper(lag=True),
    "zero-gap, lag": zero_gap(lag=True),
    "fused, lag": fused(lag=True),
    "fused, strength 2, cap 0.05": fused(strength=2.0, cap=0.05),
    "paper, noise 0.1": paper(noise=0.1),
    "paper, noise 0.4": paper(noise=0.4),
}

ONE_NETWORK = "one-network"
LAMBDAS = (0, 2, 5, 10, 15, 19)
STRENGTHS = (-1.0, 0.0, 0.5, 1.0, 2.0, 4.0)


def _over(method: Method, name: str, values: tuple[float, ...]) -> tuple[Method, ...]:
    """The method with each value of a setting, where it is not what it has anyway; the strong side alone for 0."""
    settings = [{} if value == getattr(method.config, name) else {name: value} for value in values]
    found = [dataclasses.replace(method, settings={**method.settings, **own}) for own in settings]
    return tuple(one if value else Method() for value, one in zip(values, found, strict=True))


CURVES: Mapping[str, Curve] = {
    "lambda": Curve(
        "lambda: reflected steps of 20, from the noisiest",
        LAMBDAS,
        {
            name: _over(method, "num_reflections", LAMBDAS)
            for name, method in (("w2sd", paper()), ("w2sd, fused", fused()), ("zero-gap", zero_gap()))
        },
    ),
    "strength": Curve(
        "strength: multiplies the move of each reflection",
        STRENGTHS,
        {name: _over(method, "strength", STRENGTHS) for name, method in (("w2sd", paper()), ("w2sd, fused", fused()))},
    ),
}


def groups() -> dict[str, list[Method]]:
    """The methods of each table and curve, by its name."""
    tables = {
        "algorithms": list(ALGORITHMS.values()),
        "settings": list(SETTINGS.values()),
    }
    return {**tables, **{name: [m for line in curve.lines.values() for m in line] for name, curve in CURVES.items()}}


# --- tables ---------------------------------------------------------------------------------------------------------


def zero_gap_of(method: Method) -> Method | None:
    """The same reflections with the strong side on both sides; None where a method reflects otherwise."""
    apart = method.partner not in (None, "strong", "zero-gap") and method.sampled == "strong"
    if method.algorithm not in ("w2sd", "w2sd-auto") or not apart:
        return None
    return dataclasses.replace(method, partner="zero-gap", algorithm="w2sd", reward=None)


def equal_of(method: Method, scores: Mapping[str, Score]) -> Score | None:
    """Plain sampling by the strong side with the most steps that cost no more than the method does, if it has more."""
    if method.partner is None and method.algorithm == "w2sd":
        return None
    costs = range(scores[method.key].num_evaluations, 20, -1)
    return next((scores[key] for steps in costs if (key := Method(steps=steps).key) in scores), None)


def table(methods: Mapping[str, Method], scores: Mapping[str, Score]) -> str:
    """A Markdown table, a row per finished method, all differences paired and in all three attributes."""
    head = ["way", "evaluations", "colour", "shape", "motion", "all three", "minus strong"]
    head += ["minus strong at equal evaluations", "minus its zero-gap"]
    rows = []
    for label, method in methods.items():
        if (mine := scores.get(method.key)) is not None:
            control = zero_gap_of(method)
            controls = (
                None if method == Method() else scores.get(Method().key),
                equal_of(method, scores),
                None if control is None else scores.get(control.key),
            )
            rows.append([label, mine.num_evaluations, *mine.shares(), *(mine.minus(other) for other in controls)])
    return markdown(head, rows)


# --- scripts/score_methods.py ---------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> int:
    check_counts(options)
    part, parts = _part(options.part)
    found = groups()
    names = chosen(options.only, ["algorithms", "settings", ONE_NETWORK, *CURVES], "table")
    set_threads(options.threads)
    weights = options.weights or WEIGHTS
    make_folders(options.output)
    if ONE_NETWORK in names and part == 1:  # by one process: what is chosen decides what is scored
        _one_network(options, weights)
        if names == [ONE_NETWORK]:
            return 0
    prints = fingerprint(weights)
    kept = Scores(options.output, Score, lambda method: (options.count, prints, method))
    sides: dict[str, Any] = {}

    def make(key: str, method: Method, progress: Progress) -> Score:
        sides.update(sides or load(weights))
        return score(sides, method, options.count, progress)[0]

    wanted = {method.key: method for name in names for method in found.get(name, [])}
    mine = dict(list(wanted.items())[part - 1 :: parts])
    kept.fill(mine, make, count=options.count, quiet=options.quiet)
    scores = kept.finished({method.key: method for methods in found.values() for method in methods})
    print(table(ALGORITHMS, scores), table(SETTINGS, scores), sep="\n\n")
    for name, curve in CURVES.items():
        print("", curve.table(scores), sep="\n")
        if curve.draw(scores, "share right in colour, shape and motion", options.output / f"{name}.png"):
            print(f"drawn: {options.output / name}.png")
    for label, method in ALGORITHMS.items():
        share = scores[method.key].notes.get("second") if method.key in scores else None
        if share is not None:
            print(f"{label}: the weak side was taken as strong in {share:.1%} of selections")
    return 0


def _one_network(options: argparse.Namespace, weights: Path) -> None:
    bed = one_network.bed(weights)
    folder = options.output / ONE_NETWORK
    found = compared(bed, folder, tuned=min(one_network.TUNED, options.count), count=options.count, quiet=options.quiet)
    print(one_network.table(found), "", one_network.exact(found), "", sep="\n")


def _part(text: str) -> tuple[int, int]:
    try:
        part, parts = (int(number) for number in text.split("/"))
    except ValueError:
        part, parts = 0, 0
    if not 1 <= part <= parts:
        raise UserError(f"--part is {text!r}; give K/N with K from 1 to N, such as 1/2")
    return part, parts
