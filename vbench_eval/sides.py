"""What is compared: the scores of one method's videos, by dimension and by (prompt, index), read from its report."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vbench_eval.aggregation import PER_PAIR
from vbench_eval.errors import UserError
from vbench_eval.naming import nfc, parse_name
from vbench_eval.proxies import PROXIES
from vbench_eval.results import EVAL_SUFFIX, INFO_SUFFIX, find_results, read_report
from vbench_eval.strict_json import read_json
from vbench_eval.suite import ALL_DIMENSIONS

Key = tuple[str, int]  # prompt and index: what pairs the videos of two methods
PROXY = "proxy:"
PAIRS = "mean over pairs of frames"


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


def read_side(label: str, source: str | os.PathLike[str] | Mapping[str, Any]) -> Side:
    """Returns the side of a report, given as a dict or as a path to its file, to VBench's eval_results file or to the
    folder that holds one of them.

    A proxy that was written under an official name comes back under its own. Raises UserError for a source without
    per-video scores, and if two videos are the same prompt and index.
    """
    if isinstance(source, Mapping):
        report, place, said = source, Path(), f"{source.get('name', 'report')}"
        prompts: Mapping[str, str] = {}
    else:
        if not (given := Path(source)).exists():
            raise UserError(f"{label}: {given} does not exist; give a report, or the folder with one")
        found = find_results(given)
        report, place, said = read_report(found), found.parent, str(source)
        prompts = _prompts_beside(found)
    videos = _by_key(label, report.get("videos", ()), prompts)
    dimensions: Mapping[str, Mapping[str, Any]] = report.get("dimensions") or {}
    scores, proxies = _scores(videos, dimensions)
    if not scores:
        raise UserError(f"{label}: {said} holds no scores of single videos, without which nothing can be paired")
    profile = report.get("profile")
    return Side(
        label,
        said,
        profile.get("name") if isinstance(profile, Mapping) else profile,
        scores,
        frozenset(scores) - proxies,
        {name: _measured_by(dimensions.get(name) or {}) for name in scores},
        {key: _shown(video, str(report.get("folder", "")), place) for key, video in videos.items()},
        {str(one["path"]): str(one["reason"]) for one in report.get("skipped", ())},
        {name: str(one["reason"]) for name, one in dimensions.items() if one.get("reason") and name not in scores},
    )


def _by_key(
    label: str, videos: Iterable[Mapping[str, Any]], prompts: Mapping[str, str]
) -> dict[Key, Mapping[str, Any]]:
    found: dict[Key, Mapping[str, Any]] = {}
    for video in videos:
        key = _key(video, prompts)
        if key in found:
            raise UserError(
                f"{label}: {found[key]['path']} and {video['path']} are both {key[0]!r}, index {key[1]}; "
                "keep one of them and score again, since pairs need one video each"
            )
        found[key] = video
    return found


def _scores(
    videos: Mapping[Key, Mapping[str, Any]], dimensions: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, dict[Key, Score]], set[str]]:
    """The scores by dimension, and which of the dimensions are proxies."""
    scores: dict[str, dict[Key, Score]] = {}
    proxies: set[str] = set()
    for key, video in videos.items():
        for name, measured in (video.get("measured") or {}).items():
            if measured.get("score") is None:
                continue
            own = _own_name(name, measured, dimensions.get(name) or {})
            if own != name or own not in ALL_DIMENSIONS:
                proxies.add(own)
            weight = float(measured.get("weight", 1.0)) if _weighs(dimensions, name) else 1.0
            yes_or_no = isinstance(measured.get("value"), bool)
            scores.setdefault(own, {})[key] = Score(float(measured["score"]), yes_or_no, weight)
    return scores, proxies


def _prompts_beside(results: Path) -> dict[str, str]:
    """Video path -> prompt of the full_info file beside VBench's eval_results; names cannot hold every prompt."""
    info = results.with_name(results.name.removesuffix(EVAL_SUFFIX) + INFO_SUFFIX)
    if not results.name.endswith(EVAL_SUFFIX) or not info.is_file():
        return {}
    entries = read_json(info, "prompts")
    entries = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return {
        path: entry["prompt_en"]
        for entry in entries
        if isinstance(entry.get("prompt_en"), str)
        for path in entry.get("video_list") or ()
    }


def _key(video: Mapping[str, Any], prompts: Mapping[str, str]) -> Key:
    parsed = parse_name(Path(video["path"]).name)
    prompt, index = video.get("prompt"), video.get("index")
    if prompt is None:
        prompt, index = parsed.prompt, parsed.index
    return nfc(prompts.get(video["path"], prompt)), index or 0


def _own_name(name: str, measured: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The dimension's name; a proxy's own if one was measured in an official dimension's place."""
    if name not in ALL_DIMENSIONS:
        return name
    for backbone in ((measured.get("extras") or {}).get("backbone"), facts.get("backbone")):
        named = _id(backbone)
        if named is not None and named.startswith(PROXY):
            proxy = named.removeprefix(PROXY).strip()
            return proxy if proxy in PROXIES else f"{proxy or 'proxy'}_for_{name}"
    return name


def _id(backbone: Any) -> str | None:
    found = backbone.get("id") if isinstance(backbone, Mapping) else backbone
    return None if found is None else str(found)


def _weighs(dimensions: Mapping[str, Mapping[str, Any]], name: str) -> bool:
    rule = (dimensions.get(name) or {}).get("rule", PAIRS)  # VBench's own files follow it without saying so
    return rule == PAIRS and name in PER_PAIR


def _measured_by(facts: Mapping[str, Any]) -> Instrument | None:
    backbone = facts.get("backbone")
    if (name := _id(backbone)) is None:
        return None
    if not isinstance(backbone, Mapping):
        return Instrument(name)
    encoder = backbone.get("encoder") or {}
    mode = backbone.get("mode")
    return Instrument(
        name if mode in (None, "longer") else f"{name} (mode {mode})",
        "+".join(str(one["sha256"])[:12] for one in (backbone, encoder) if one.get("sha256")),
    )


def _shown(video: Mapping[str, Any], folder: str, place: Path) -> Shown:
    """The video where it lies: the report's folder is as it was typed when scoring, and may have been moved since."""
    path, seed = video["path"], (video.get("generation") or {}).get("seed")
    tries = [Path(folder, path), place / folder / path, place / path, place / Path(folder).name / path]
    tries += [parent / Path(folder).name / path for parent in place.absolute().parents[:2]]
    found = next((one.absolute() for one in tries if one.exists()), None)
    return Shown(found, str(path), video.get("info") or {}, seed if isinstance(seed, int) else None)
