"""Compares methods video by video: means, paired differences, tests and warnings, over what all of them have.

    comparison = compare({"strong": "scores/strong", "w2sd": "scores/w2sd"})    # the first is the baseline

Videos are paired by (prompt, index). A dimension is compared over the pairs that every method has in it, so that all
its numbers speak of the same videos; how many of each method were left out is part of the result. Every interval and
test takes the prompt as the unit, since the videos of one prompt are not independent.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vbench_eval.aggregation import FRAMES, PAIRS, PER_FRAME, PER_PAIR
from vbench_eval.comparison import (
    Caution,
    Comparison,
    Difference,
    Instrument,
    Key,
    Row,
    Score,
    Shown,
    Side,
    better,
    cautions,
    in_order,
    words,
)
from vbench_eval.errors import UserError
from vbench_eval.files import read_json
from vbench_eval.naming import nfc, parse_name
from vbench_eval.proxies import PROXIES
from vbench_eval.result_reading import EVAL_SUFFIX, INFO_SUFFIX, check_report, find_results, read_report
from vbench_eval.statistics import (
    DRAWS,
    LEVEL,
    Resampled,
    check_settings,
    holm,
    share_difference_interval,
    share_interval,
    signed_rank_test,
    win_rate,
    yes_or_no_test,
)
from vbench_eval.suite import ALL_DIMENSIONS

PROXY = "proxy:"
Source = str | os.PathLike[str] | Mapping[str, Any]


def compare(reports: Mapping[str, Source], *, level: float = LEVEL, draws: int = DRAWS, seed: int = 0) -> Comparison:
    """Returns the comparison of at least two methods, given by label; the first is the baseline.

    A source is a report (a dict or a path), VBench's own eval_results file, or a folder that holds one of them. Same
    sources, same seed: same numbers.

    Raises UserError for fewer than two, for reports of different profiles (their numbers differ for that alone), and
    where no video has a partner.
    """
    check_settings(level, draws)
    if len(reports) < 2:
        raise UserError(f"{len(reports)} report to compare; give at least two, the first is the baseline")
    if any(not label.strip() for label in reports):
        raise UserError("a label is empty; name each method")
    sides = {label: read_side(label, source) for label, source in reports.items()}
    profiles = {label: side.profile for label, side in sides.items() if side.profile is not None}
    if len(set(profiles.values())) > 1:
        raise UserError(
            f"the reports were made with different profiles ({', '.join(f'{k}: {v}' for k, v in profiles.items())}); "
            "score all with one profile"
        )
    rows, mixed = [], []
    official = frozenset().union(*(side.official for side in sides.values()))
    names = {name for side in sides.values() for name in side.scores}
    for name in in_order(names):
        taking_part = {label: side for label, side in sides.items() if name in side.scores}
        known = [one for side in taking_part.values() if (one := side.measured_by.get(name)) is not None]
        if len(instruments := {one.name for one in known}) > 1:
            mixed.append(
                Caution(
                    "backbones",
                    f"{words(name)} is left out: it was measured by {' and by '.join(sorted(instruments))}, whose "
                    "numbers do not compare",
                )
            )
            continue
        if len({one.files for one in known if one.files}) > 1:
            mixed.append(
                Caution(
                    "weights",
                    f"{words(name)} was measured with different weight files of {known[0].name}; unless they hold the "
                    "same weights, differences may come from them",
                )
            )
        rows.append(_row(name, name in official, taking_part, next(iter(sides)), (level, draws, seed)))
    if not any(row.keys and row.differences for row in rows):
        raise UserError(_nothing_in_common(sides, mixed))
    found = Comparison(tuple(sides), tuple(_corrected(rows)), sides, level, draws, seed)
    return replace(found, warnings=(*cautions(found), *mixed))


def _row(name: str, official: bool, sides: Mapping[str, Side], baseline: str, settings: tuple[float, int, int]) -> Row:
    level, draws, seed = settings
    first = sides.get(baseline) or next(iter(sides.values()))
    everywhere = set.intersection(*(set(side.scores[name]) for side in sides.values()))
    keys = tuple(key for key in first.scores[name] if key in everywhere)
    scores = {label: [side.scores[name][key] for key in keys] for label, side in sides.items()}
    values = {label: [score.value for score in found] for label, found in scores.items()}
    yes_or_no = all(score.yes_or_no for side in sides.values() for score in side.scores[name].values())
    row = Row(
        name,
        official,
        better(name, official),
        yes_or_no,
        keys,
        values,
        means={},
        own={label: _own(side, name) for label, side in sides.items()},
        left_out={
            label: tuple(key for key in side.scores[name] if key not in everywhere) for label, side in sides.items()
        },
        differences={},
    )
    if not keys:
        return row
    prompts, order = [prompt for prompt, _ in keys], list(sides)
    resampled = Resampled(
        list(zip(*values.values(), strict=True)),
        prompts,
        weights=[[score.weight for score in each] for each in zip(*scores.values(), strict=True)],
        level=level,
        draws=draws,
        seed=seed,
    )
    means = {
        label: share_interval(values[label], prompts, level=level) if yes_or_no else resampled.mean(number)
        for number, label in enumerate(order)
    }
    if baseline not in sides:
        return replace(row, means=means)
    differences = {}
    for number, label in enumerate(order):
        if label == baseline:
            continue
        ours, theirs = values[label], values[baseline]
        gains = [one - other for one, other in zip(ours, theirs, strict=True)]
        tested = yes_or_no_test(gains, prompts) if yes_or_no else signed_rank_test(gains, prompts)
        differences[label] = Difference(
            share_difference_interval(ours, theirs, prompts, level=level)
            if yes_or_no
            else resampled.difference(number, order.index(baseline)),
            tested,
            tested.p,
            win_rate(ours, theirs, prompts, lower_is_better=row.better < 0, level=level) if row.better else None,
        )
    return replace(row, means=means, differences=differences)


def _own(side: Side, name: str) -> tuple[float, int]:
    scores = side.scores[name].values()
    return sum(score.value * score.weight for score in scores) / sum(score.weight for score in scores), len(scores)


def _corrected(rows: Sequence[Row]) -> list[Row]:
    """The rows with Holm's correction: per method, over the official dimensions and over the proxies."""
    families: dict[tuple[str, bool], list[int]] = {}
    for place, row in enumerate(rows):
        for label in row.differences:
            families.setdefault((label, row.official), []).append(place)
    corrected = list(rows)
    for (label, _), places in families.items():
        for place, p in zip(places, holm([rows[n].differences[label].test.p for n in places]), strict=True):
            known = corrected[place].differences
            corrected[place] = replace(corrected[place], differences={**known, label: replace(known[label], p_holm=p)})
    return corrected


def _nothing_in_common(sides: Mapping[str, Side], mixed: Sequence[Caution]) -> str:
    if any(one.kind == "backbones" for one in mixed):
        return "nothing is left to compare: " + "; ".join(one.text for one in mixed)
    examples = "; ".join(f"{label}: {next(iter(side.videos), ('-',))[0]!r}" for label, side in sides.items())
    return (
        "the reports have no video in common in any dimension that the baseline has; videos are paired by prompt and "
        f"index, as file names '<prompt>-<index>.mp4' say them (first prompts: {examples})"
    )


# reading what is compared


def read_side(label: str, source: str | os.PathLike[str] | Mapping[str, Any]) -> Side:
    """Returns the side of a report, given as a dict or as a path to its file, to VBench's eval_results file or to the
    folder that holds one of them.

    A proxy that was written under an official name comes back under its own. Raises UserError for a source without
    per-video scores, and if two videos are the same prompt and index.
    """
    if isinstance(source, Mapping):
        report, place, said = source, Path(), f"{source.get('name', 'report')}"
        check_report({"videos": [], **source}, label)
        prompts: Mapping[str, str] = {}
    else:
        if not (given := Path(source)).exists():
            raise UserError(f"{label}: {given} does not exist; give a report, or the folder with one")
        found = find_results(given)
        report, place, said = read_report(found), found.parent, str(source)
        prompts = _prompts_beside(found)
    videos = _by_key(label, report.get("videos") or (), prompts)
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
        {one["path"]: str(one.get("reason")) for one in report.get("skipped") or ()},
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
            weight = measured.get("weight") if _weighs(dimensions, name) else None
            weight = 1.0 if weight is None else float(weight)
            yes_or_no = isinstance(measured.get("value"), bool)
            scores.setdefault(own, {})[key] = Score(
                float(measured["score"]), yes_or_no, 1.0 if weight is None else float(weight)
            )
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
        for path in (entry.get("video_list") if isinstance(entry.get("video_list"), list) else ())
        if isinstance(path, str)
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
    return rule in (PAIRS, FRAMES) and name in (*PER_PAIR, *PER_FRAME)


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
    found = next((one.absolute() for one in tries if os.path.exists(one)), None)  # False for what cannot be a name
    return Shown(found, str(path), video.get("info") or {}, seed if isinstance(seed, int) else None)
