"""What is compared: the scores of one method's videos, by dimension and by (prompt, index), read from its report."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vbench_eval.aggregation import PER_PAIR
from vbench_eval.errors import UserError
from vbench_eval.naming import nfc, parse_name
from vbench_eval.results import find_results, read_report
from vbench_eval.suite import ALL_DIMENSIONS

Key = tuple[str, int]  # prompt and index: what pairs the videos of two methods
PROXY = "proxy:"


@dataclass(frozen=True)
class Score:
    """One video in one dimension: a number (0..1 if official), whether it stands for yes or no, and its weight."""

    value: float
    yes_or_no: bool = False
    weight: float = 1.0


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
        measured_by: per dimension what its numbers depend on; they compare only if it is equal.
        profile: None if the report does not say (VBench's own files do not).
        skipped: why videos without any score have none, by path.
    """

    label: str
    source: str
    profile: str | None
    scores: Mapping[str, Mapping[Key, Score]]
    official: frozenset[str]
    measured_by: Mapping[str, str | None]
    videos: Mapping[Key, Shown]
    skipped: Mapping[str, str]
    reasons: Mapping[str, str]
    """Why a dimension that was asked for has no scores."""


def read_side(label: str, source: str | os.PathLike[str] | Mapping[str, Any]) -> Side:
    """Returns the side of a report, given as a dict or as a path to its file, to VBench's eval_results file or to the
    folder that holds one of them.

    A proxy that was written under an official name comes back under its own. Raises UserError for a source without
    per-video scores, and if two videos are the same prompt and index.
    """
    if isinstance(source, Mapping):
        report, place, said = source, Path(), f"{source.get('name', 'report')}"
    else:
        if not (given := Path(source)).exists():
            raise UserError(f"{label}: {given} does not exist; give a report, or the folder with one")
        found = find_results(given)
        report, place, said = read_report(found), found.parent, str(source)
    profile = report.get("profile")
    scores: dict[str, dict[Key, Score]] = {}
    proxies: set[str] = set()
    videos: dict[Key, Shown] = {}
    paths: dict[Key, str] = {}
    for video in report.get("videos", ()):
        key = _key(video)
        if key in paths:
            raise UserError(
                f"{label}: {paths[key]} and {video['path']} are both {key[0]!r}, index {key[1]}; "
                "keep one of them and score again, since pairs need one video each"
            )
        paths[key] = video["path"]
        videos[key] = _shown(video, str(report.get("folder", "")), place)
        for name, measured in (video.get("measured") or {}).items():
            if measured.get("score") is None:
                continue
            stand_in = _stand_in(measured) or _stand_in(report.get("dimensions", {}).get(name) or {})
            own = stand_in or name
            if stand_in or own not in ALL_DIMENSIONS:
                proxies.add(own)
            weight = float(measured.get("weight", 1.0)) if _weighs(report, name) else 1.0
            scores.setdefault(own, {})[key] = Score(
                float(measured["score"]), isinstance(measured.get("value"), bool), weight
            )
    if not scores:
        raise UserError(f"{label}: {said} holds no scores of single videos, without which nothing can be paired")
    dimensions: Mapping[str, Mapping[str, Any]] = report.get("dimensions") or {}
    return Side(
        label,
        said,
        profile.get("name") if isinstance(profile, Mapping) else profile,
        scores,
        frozenset(scores) - proxies,
        {name: _measured_by(dimensions.get(name) or {}) for name in scores},
        videos,
        {str(one["path"]): str(one["reason"]) for one in report.get("skipped", ())},
        {
            name: str(facts["reason"])
            for name, facts in dimensions.items()
            if facts.get("reason") and name not in scores
        },
    )


def _key(video: Mapping[str, Any]) -> Key:
    parsed = parse_name(Path(video["path"]).name)
    prompt, index = video.get("prompt"), video.get("index")
    if prompt is None:
        prompt, index = parsed.prompt, parsed.index
    return nfc(prompt), index or 0


def _stand_in(facts: Mapping[str, Any]) -> str | None:
    """The proxy's own name, "flow_dynamic" of "proxy:flow_dynamic", if one was measured in a dimension's place."""
    backbone = (facts.get("extras") or {}).get("backbone", facts.get("backbone"))
    backbone = backbone.get("id") if isinstance(backbone, Mapping) else backbone
    if isinstance(backbone, str) and backbone.startswith(PROXY):
        return backbone.removeprefix(PROXY).strip() or "unnamed proxy"
    return None


def _weighs(report: Mapping[str, Any], name: str) -> bool:
    facts = (report.get("dimensions") or {}).get(name) or {}
    return facts.get("rule", "mean over pairs of frames") == "mean over pairs of frames" and name in PER_PAIR


def _measured_by(facts: Mapping[str, Any]) -> str | None:
    """What a dimension's numbers depend on beside the videos: the backbone and its file. Not the device."""
    provenance = facts.get("provenance") or {}
    backbone = facts.get("backbone")
    if isinstance(backbone, Mapping):
        provenance, backbone = {**provenance, **backbone}, backbone.get("id") or backbone.get("name")
    parts = [str(backbone)] if backbone else []
    parts += [str(provenance[key])[:12] for key in ("sha256", "imaging_mode") if provenance.get(key)]
    return ", ".join(parts) or None


def _shown(video: Mapping[str, Any], folder: str, place: Path) -> Shown:
    """The video where it lies: the report's folder is as it was typed when scoring, and may have been moved since."""
    path, seed = video["path"], (video.get("generation") or {}).get("seed")
    tries = [Path(folder, path), place / folder / path, place / path, place / Path(folder).name / path]
    tries += [parent / Path(folder).name / path for parent in place.absolute().parents[:2]]
    found = next((one.absolute() for one in tries if one.exists()), None)
    return Shown(found, str(path), video.get("info") or {}, seed if isinstance(seed, int) else None)
