"""Every algorithm, mode and setting of a reflection as a way to make videos of the bundled pair."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from w2sd_video.pair import ReflectionConfig

STEPS, REFLECTIONS = 20, 10


@dataclass(frozen=True)
class Way:
    """One way of making videos, by what it computes and nothing else: equal ones are made once.

    Attributes:
        sampled: "strong" or "weak", the side whose steps make the sample.
        partner: the side that inverts: "weak", "strong" (swapped roles) or "zero-gap"; None without reflections.
        algorithm: the `method` of `reflected`.
        settings: of `ReflectionConfig`, where not the paper's with lambda 10.
        steps: T.
        reward: of "w2sd-auto", a name in `method_scoring.REWARDS`.
    """

    sampled: str = "strong"
    partner: str | None = None
    algorithm: str = "w2sd"
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: int = STEPS
    reward: str | None = None

    @property
    def config(self) -> ReflectionConfig:
        own = 0 if self.partner is None and self.algorithm == "w2sd" else REFLECTIONS
        lam = None if self.algorithm == "autoguided" else own
        return ReflectionConfig(**{"num_reflections": lam, **self.settings})

    @property
    def key(self) -> str:
        """A name for files, of these settings and no others."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:12]


def _paper(**settings: Any) -> Way:
    return Way(partner="weak", settings=settings)


def _fused(**settings: Any) -> Way:
    return Way(partner="weak", settings={"mode": "fused", **settings})


def _zero(**settings: Any) -> Way:
    return Way(partner="zero-gap", settings=settings)


def _auto(reward: str, **settings: Any) -> Way:
    return Way(partner="weak", algorithm="w2sd-auto", reward=reward, settings=settings)


def _equal(evaluations: int) -> dict[str, Way]:
    return {f"strong, equal evaluations (T {evaluations})": Way(steps=evaluations)}


ALGORITHMS: Mapping[str, Way] = {
    "weak": Way(sampled="weak"),
    "strong": Way(),
    **_equal(30),
    **_equal(40),
    **_equal(50),
    "W2SD, paper mode (Alg. 1)": _paper(),
    "W2SD, fused (Theorem 1)": _fused(),
    "W2SD, release coefficients": _paper(mode="release"),
    "zero-gap, paper mode": _zero(),
    "zero-gap, fused": _zero(mode="fused"),
    "zero-gap, release coefficients": _zero(mode="release"),
    "swapped roles (the weak side samples), paper mode": Way(sampled="weak", partner="strong"),
    "swapped roles (the weak side samples), fused": Way(sampled="weak", partner="strong", settings={"mode": "fused"}),
    "auto-guidance, weight 1 (Eq. 38)": Way(partner="weak", algorithm="autoguided"),
    "auto-selection, reward oracle, paper mode (Alg. 2)": _auto("oracle"),
    "auto-selection, reward colour, paper mode": _auto("colour"),
    "auto-selection, reward random, paper mode (control)": _auto("random"),
    "Re-Sampling (Alg. 3)": Way(algorithm="resample"),
    "Re-Sampling, aligned (Alg. 4)": Way(partner="weak", algorithm="resample-aligned"),
    "Re-Sampling, opposed (Table 15's control)": Way(partner="weak", algorithm="resample-opposed"),
}

SETTINGS: Mapping[str, Way] = {
    "strong": Way(),
    **_equal(30),
    **_equal(40),
    **_equal(50),
    "W2SD, paper mode": _paper(),
    "W2SD, fused": _fused(),
    "zero-gap, paper mode": _zero(),
    "paper, fixed point 1": _paper(fixed_point=1),
    "zero-gap, fixed point 1": _zero(fixed_point=1),
    "paper, every 2nd step": _paper(every=2),
    "fused, every 2nd step": _fused(every=2),
    "paper, window 0 to 0.25": _paper(window=(0.0, 0.25)),
    "paper, window 0.25 to 0.5": _paper(window=(0.25, 0.5)),
    "paper, lag": _paper(lag=True),
    "zero-gap, lag": _zero(lag=True),
    "fused, lag": _fused(lag=True),
    "fused, strength 2, cap 0.05": _fused(strength=2.0, cap=0.05),
    "paper, noise 0.1": _paper(noise=0.1),
    "paper, noise 0.4": _paper(noise=0.4),
}

LAMBDAS = (0, 2, 5, 10, 15, 19)
STRENGTHS = (-1.0, 0.0, 0.5, 1.0, 2.0, 4.0)


def _lambdas(way: Way) -> tuple[Way, ...]:
    return tuple(_with(way, num_reflections=lam) if lam else Way() for lam in LAMBDAS)


def _strengths(way: Way) -> tuple[Way, ...]:
    return tuple(_with(way, strength=strength) if strength else Way() for strength in STRENGTHS)


def _with(way: Way, **settings: Any) -> Way:
    """The way with these settings, where they are not what it has without them."""
    own = {name: value for name, value in settings.items() if value != getattr(way.config, name)}
    return dataclasses.replace(way, settings={**way.settings, **own})


# By curve: the axis's label, its values, and by line the way at each value.
Curve = tuple[str, tuple[float, ...], Mapping[str, tuple[Way, ...]]]
CURVES: Mapping[str, Curve] = {
    "lambda": (
        "lambda: reflected steps of 20, from the noisiest",
        LAMBDAS,
        {"w2sd": _lambdas(_paper()), "w2sd, fused": _lambdas(_fused()), "zero-gap": _lambdas(_zero())},
    ),
    "strength": (
        "strength: multiplies the move of each reflection",
        STRENGTHS,
        {"w2sd": _strengths(_paper()), "w2sd, fused": _strengths(_fused())},
    ),
}


def groups() -> dict[str, list[Way]]:
    """Returns the ways of each table and curve, by its name."""
    tables = {"algorithms": list(ALGORITHMS.values()), "settings": list(SETTINGS.values())}
    return {**tables, **{name: [way for line in curve[2].values() for way in line] for name, curve in CURVES.items()}}
