"""What measured numbers mean: the paper's two failure modes, by measured thresholds, and one setting to begin with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2sd_video.core.options import ReflectionConfig
from w2sd_video.diagnosis.measuring import Measured
from w2sd_video.report.page import counted

CALIBRATION = Path(__file__).with_name("calibration.json")  # measured by scripts/calibrate_diagnosis.py
LEAST = 0.25  # of the largest gap: levels with less are not worth two evaluations
SIZEABLE = 0.25  # of the moves: more error of the inversion than this, and the fused mode is the better
MOST_STRENGTH, LEAST_STRENGTH = 2.0, 0.25
LEAST_MOTION = 0.95  # of the strong side's
GAP_EVERY, ALIGNED = (1, 2, 3, 5), 0.9  # steps between two cached gaps; the least cosine of the oldest with a new one


@cache
def calibration(path: Path = CALIBRATION) -> Mapping[str, Any]:
    """Returns thresholds and rates."""
    return json.loads(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Thresholds:
    """Of the gap between the clean estimates over the size of a sample, mean over levels (`Measured.clean_gap`), and of
    the growth of a sample by the reflections (`Measured.growth`).
    """

    similar_below: float
    gap_above: float
    growth_above: float


def thresholds() -> Thresholds:
    """Returns the measured ones."""
    return Thresholds(**calibration()["thresholds"])


def failures(gap: float, growth: float, limits: Thresholds) -> tuple[str, ...]:
    """Returns the failure modes of a pair: "over-similarity", "conflict", or none.

    Over-similarity: the clean estimates differ by so little that a reflection has nothing to follow. Conflict: they
    differ by as much as samples themselves do, or the reflections throw samples out of the range of the strong side's.
    (The cosine of successive gaps tells neither: exact models in conflict have gaps as coherent as healthy ones.)
    """
    found = []
    if gap < limits.similar_below:
        found.append("over-similarity")
    if gap > limits.gap_above or growth > limits.growth_above or gap != gap:
        found.append("conflict")
    return tuple(found)


@dataclass(frozen=True)
class Recommendation:
    """Flags of the commands, and why each."""

    steps: int
    reflections: int
    mode: str
    strength: float
    why: tuple[str, ...]

    @property
    def flags(self) -> tuple[str, ...]:
        return (
            *("--steps", str(self.steps), "--reflections", str(self.reflections)),
            *("--mode", self.mode, "--strength", f"{self.strength:g}"),
        )


def recommend(measured: Measured, failing: Sequence[str], *, steps: int) -> Recommendation:
    """Returns the setting for a run of `steps` sampling steps.

    Lambda ends where the gap between the clean estimates falls under a quarter of its largest. The mode is fused where
    the inversion's error is over a quarter of the moves, else Algorithm 1 as printed. The strength brings the gap to
    the share of a sample's size that served healthy analytic pairs best, from 1 to 2; below 1 only in conflict.
    """
    count = measured.move.shape[1] + 1
    gaps = measured.clean_gap.mean(0)
    below = np.flatnonzero(gaps < LEAST * gaps.max())
    past = below[below > int(gaps.argmax())]
    levels = int(past[0]) if len(past) else count - 1
    reflections = min(max(1, round(levels / count * steps)), max(1, steps - 1))
    moves, errors = (float(part[:, :levels].mean(0).sum()) for part in (measured.move, measured.error))
    share = errors / moves if moves > 0 else float("inf")
    fused = not share <= SIZEABLE  # also where no inversion can be made
    gap, target = float(gaps.mean()), float(calibration()["strength"]["target"])
    conflict = "conflict" in failing
    strength = target / gap if gap > 0 else MOST_STRENGTH
    strength = min(max(strength, LEAST_STRENGTH if conflict else 1.0), 1.0 if conflict else MOST_STRENGTH)
    strength = round(strength * 4) / 4
    why = [
        f"lambda {reflections} of {steps}: below that level the gap is under {LEAST:.0%} of its largest, and "
        "reflections cost evaluations without moving much"
    ]
    if not np.isfinite(share):
        why.append("fused: no inversion can be made at this schedule's pure noise")
    elif fused:
        why.append(f"fused: the error of the inversion is {share:.2g} times the gap's own moves, and fused has none")
    else:
        why.append(f"Algorithm 1 as printed: the error of the inversion is only {share:.0%} of the gap's moves")
    told = f"strength {strength:g}: the gap is {gap:.2g} of a sample's size, and {target:g} served healthy pairs best"
    if strength == MOST_STRENGTH:
        told += f" (at most {MOST_STRENGTH:g})"
    why.append(told + ("; in conflict less is safer, and another pair is better" if conflict else ""))
    motion = float(measured.motion.mean())
    if motion < LEAST_MOTION:
        why.append(
            f"motion: reflected videos keep {motion:.0%} of what the strong side's differ by from frame to frame: the "
            "gap points against motion; --motion-strength 0 leaves the gap's own motion out, which did not bring "
            "motion back where that was measured, as the mean over frames stills a video too: look at motion beside "
            "quality"
        )
    why += _cheaper(measured.cosine[:, 1:levels], reflections, steps, count)
    return Recommendation(steps, reflections, "fused" if fused else "paper", strength, tuple(why))


def _cheaper(cosine: NDArray[np.floating], reflections: int, steps: int, measured_steps: int) -> list[str]:
    """What a cached gap would cost, at the least often that still has it point as a fresh one would.

    `cosine` is of successive gaps of `measured_steps` steps; those of a run of other `steps` are longer or shorter.
    """
    mean = float(cosine.mean()) if cosine.size else float("nan")
    turned = mean ** (measured_steps / steps) if mean > 0 else 0.0
    every = max((k for k in GAP_EVERY if turned**k >= ALIGNED), default=None)
    if reflections < 2:
        return []
    schedule = gap_schedule(cosine.mean(0) if cosine.size else np.zeros(0), reflections, steps, measured_steps)
    found = []
    if every is not None:
        costs = [ReflectionConfig(reflections, "fused", gap_every=k).evaluations(steps) for k in (every, None)]
        found.append(
            f"cheaper: --mode fused --gap-every {every} makes {costs[0]} evaluations in place of {costs[1]}: "
            f"successive gaps have a cosine of {mean:.2f}, so "
            f"that one {counted(every, 'step')} old points as a new one does"
        )
    uneven = schedule != tuple(range(0, reflections - 1, every or 1))
    if uneven and 1 < len(schedule) < reflections - 1:
        named, most = ",".join(map(str, schedule)), steps + 2 * reflections
        cost = ReflectionConfig(reflections, "fused", gap_every=schedule).evaluations(steps)
        found.append(
            f"cheaper, by level: --mode fused --gap-every {named} makes {cost} evaluations in place of {most}: dense "
            f"where the gap turns, so that a cached one keeps a cosine of {ALIGNED:g} with a new one (--gap-every auto "
            "places as many as of K 2 by the moves of the run's own first prompts)"
        )
    return found


def gap_schedule(cosine: NDArray[np.floating], reflections: int, steps: int, measured_steps: int) -> tuple[int, ...]:
    """Returns the steps of a run of `steps` at which to measure the gap anew: as late as a cached one still has a
    cosine of ALIGNED with a fresh one, and no later than after the longest of GAP_EVERY.

    `cosine` [N] is of the gaps of the successive levels 1 .. N of `measured_steps` steps with those before them.
    """
    if not len(cosine):
        return ()
    level = np.arange(1, len(cosine) + 1) / measured_steps
    near = np.interp(np.arange(1, reflections) / steps, level, np.clip(cosine, 0, 1)) ** (measured_steps / steps)
    found, kept = [0], 1.0
    for step in range(1, reflections):
        kept *= near[step - 1]  # the cosine of the cached gap with the one at this step, as cosines multiply
        if step - found[-1] > 1 and (kept < ALIGNED or step - found[-1] > max(GAP_EVERY)):
            found.append(step - 1)
            kept = near[step - 1]
    return tuple(found)
