"""What a run leaves behind: VBench's two result files key by key, and a report of our own with everything else.

`{name}_eval_results.json` and `{name}_full_info.json` hold what VBench writes and nothing more, since its tools take
every other key for a dimension. `{name}_report.json` holds profile, backbones, versions, every video, what was skipped
and why, and the scores made of the dimensions.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from vbench_eval.aggregation import aggregate, normalised, quality_score, rule, semantic_score, total_score
from vbench_eval.dimensions import MEASURED, VBENCH_EXTRAS, Measured
from vbench_eval.errors import UserError
from vbench_eval.files import cleaned, write_bytes, write_json
from vbench_eval.judges import PREFIX
from vbench_eval.manifest import SAMPLES, Manifest
from vbench_eval.naming import nfc, parse_name
from vbench_eval.preflight import format_line
from vbench_eval.proxies import PROXIES
from vbench_eval.result_reading import (
    EVAL_SUFFIX,
    INFO_SUFFIX,
    REPORT_SUFFIX,
    SCHEMA,
    find_results,
    read_report,
    read_results,
)
from vbench_eval.suite import ALL_DIMENSIONS

__all__ = [
    "REPORT_SUFFIX",
    "VideoRecord",
    "Written",
    "check_name",
    "default_name",
    "find_results",
    "read_report",
    "read_results",
    "submission",
    "write_results",
]

MODES = ("custom_input", "vbench_standard", "vbench_category")
_FORBIDDEN = frozenset('/\\<>:"|?*')


@dataclass(frozen=True)
class VideoRecord:
    """One video of a run.

    Attributes:
        path: relative to the scored folder, or absolute.
        prompt, index: what it is a video of; None if its name does not say.
        info: what the file says of itself (`VideoInfo.as_json`).
        measured: dimension -> `Measured.as_json`.
        error: why it could not be read; None if it could.
        generation: what its generator wrote down (seed, method, ...).
    """

    path: str
    prompt: str | None
    index: int | None
    info: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    error: str | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> VideoRecord:
        return cls(**{key: data[key] for key in cls.__dataclass_fields__ if key in data})


@dataclass(frozen=True)
class Written:
    """The three files of a run, and the report's content."""

    eval_results: Path
    full_info: Path
    report_file: Path
    report: Mapping[str, Any]


def default_name(now: datetime | None = None) -> str:
    """Returns VBench's name for a run, with "-" for its colons, which Windows does not take."""
    return (now or datetime.now()).strftime("results_%Y-%m-%d-%H-%M-%S")


def check_name(name: str) -> str:
    """Returns the name of a run if it can begin a file name; raises UserError otherwise."""
    if not name or name != name.strip() or name.startswith(".") or set(name) & _FORBIDDEN or not name.isprintable():
        raise UserError(f"the run's name is {name!r}; it begins file names: use letters, digits, '-', '_', '.'")
    return name


def write_results(
    folder: Path,
    name: str,
    records: Sequence[VideoRecord],
    *,
    dimensions: Mapping[str, Mapping[str, Any]],
    stamp: Mapping[str, Any],
    videos_path: str | Path,
    mode: str = "custom_input",
    manifest: Manifest | None = None,
    notes: Sequence[str] = (),
    completeness: Mapping[str, Any] | None = None,
) -> Written:
    """Writes the three files into `folder` and returns them.

    `dimensions` holds, for each that was asked for or measured, what the report says of it ("status", "backbone",
    "reason", ...). `stamp["profile"]` is the profile, by name or as data with "name"; the rest of the stamp goes into
    the report as it is. Videos stand in the order of their paths, however `records` come, so that an interrupted run
    and one of many processes give the same bytes.

    In mode "vbench_standard" the manifest says which prompts belong to which dimension; a video counts for its own
    dimensions only, and for indices 0 to 4, which are all that VBench looks up. In "custom_input" each counts for all.

    A number that is not finite becomes null with a reason; a dimension in which no video has a value stands in the
    report only. Raises UserError for an unusable name, mode or stamp, OSError if the disk refuses.
    """
    check_name(name)
    if mode not in MODES or (mode == "vbench_standard" and manifest is None):
        raise UserError(
            f"mode is {mode!r}; choose custom_input, vbench_category, or vbench_standard with a prompt suite or "
            "manifest, which says which prompts belong to which dimension"
        )
    profile = stamp.get("profile")
    profile = profile.get("name") if isinstance(profile, Mapping) else profile
    if not isinstance(profile, str):
        raise UserError("the stamp names no profile; give stamp={'profile': 'vbench'}")
    records = [_finite(record) for record in sorted(records, key=lambda record: record.path)]
    if mode == "vbench_standard" and manifest is not None:
        records = _standard(records, manifest)
    names = list(dict.fromkeys([*dimensions, *(key for record in records for key in record.measured)]))
    aggregates = {key: aggregate(key, _all_measured(records, key), profile) for key in names}
    official = [key for key in names if key in ALL_DIMENSIONS]
    eval_results = {
        key: [aggregates[key], _entries(records, key, videos_path)] for key in official if aggregates[key] is not None
    }
    report = {
        "schema": SCHEMA,
        "name": name,
        "profile": profile,
        "mode": mode,
        "folder": str(videos_path),
        "dimensions": {
            key: {
                **dimensions.get(key, {}),
                "aggregate": aggregates[key],
                "rule": rule(key, profile),
                "videos": sum(one.value is not None for one in _all_measured(records, key)),
            }
            for key in names
        },
        "scores": _scores({key: value for key, value in aggregates.items() if not _stands_in(records, key)}),
        "skipped": [{"path": record.path, "reason": record.error} for record in records if record.error is not None],
        "notes": list(notes),
        "completeness": completeness,
        "manifest": None if manifest is None else _manifest_facts(manifest),
        "stamp": stamp,
        "videos": [record.to_json() for record in records],
    }
    report, not_finite = cleaned(report)
    report["not_finite"] = not_finite
    written = Written(
        folder / f"{name}{EVAL_SUFFIX}", folder / f"{name}{INFO_SUFFIX}", folder / f"{name}{REPORT_SUFFIX}", report
    )
    if manifest is not None and mode == "vbench_standard":
        info = _standard_info(records, official, videos_path, manifest)
    else:
        info = []
        by_prompt: dict[str, dict[str, Any]] = {}
        for record in records:
            prompt = parse_name(Path(record.path).name).prompt if record.prompt is None else record.prompt
            entry = {"prompt_en": prompt, "dimension": official, "video_list": [_joined(videos_path, record)]}
            if mode == "vbench_category" and prompt in by_prompt:  # an entry per prompt there, per video otherwise
                by_prompt[prompt]["video_list"] += entry["video_list"]
                continue
            by_prompt[prompt] = entry
            info.append(entry)
    write_json(written.eval_results, cleaned(eval_results)[0])
    write_json(written.full_info, cleaned(info)[0])
    write_json(written.report_file, report, ascii_only=False)
    return written


def submission(written: Written) -> Path:
    """Writes NAME.zip beside the files of a run, and returns it: VBench's two files and nothing else.

    VBench's cal_final_score.py takes every JSON file of the archive for results: our report would stop it.
    """
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (written.eval_results, written.full_info):
            archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes())
    target = written.eval_results.with_name(written.eval_results.name.removesuffix(EVAL_SUFFIX) + ".zip")
    write_bytes(target, data.getvalue())
    return target


def _finite(record: VideoRecord) -> VideoRecord:
    """The record with every value that is not finite replaced by null and a reason."""
    measured = {}
    for key, facts in record.measured.items():
        clean, lines = cleaned(facts, key)
        if lines and any(line.startswith((f"{key}.value ", f"{key}.score ", f"{key}.weight ")) for line in lines):
            clean |= {"value": None, "score": None, "weight": 1.0, "reason": clean.get("reason") or "; ".join(lines)}
        measured[key] = clean
    return VideoRecord.from_json({**record.to_json(), "info": cleaned(record.info)[0], "measured": measured})


def _standard(records: Iterable[VideoRecord], manifest: Manifest) -> list[VideoRecord]:
    belongs = {nfc(prompt.prompt): prompt.dimensions for prompt in manifest.prompts}
    kept = []
    for record in records:
        own = belongs.get(nfc(record.prompt or ""), ()) if (record.index or 0) < SAMPLES else ()
        measured = {key: value for key, value in record.measured.items() if key in own or key not in ALL_DIMENSIONS}
        kept.append(VideoRecord.from_json({**record.to_json(), "measured": measured}))
    return kept


def _all_measured(records: Iterable[VideoRecord], name: str) -> list[Measured]:
    return [Measured.from_json(record.measured[name]) for record in records if name in record.measured]


def _entries(records: Iterable[VideoRecord], name: str, videos_path: str | Path) -> list[dict[str, Any]]:
    """The dimension's list in eval_results: one object per video, with VBench's keys only, and "backbone" for a proxy
    that the user wanted under the official name.
    """
    entries = []
    for record in records:
        if (facts := record.measured.get(name)) is None:
            continue
        extras = facts.get("extras") or {}
        allowed = (*VBENCH_EXTRAS.get(name, ()), *(["backbone"] if _is_proxy(extras) else []))
        entries.append(
            {
                "video_path": _joined(videos_path, record),
                "video_results": facts["value"],
                **{key: extras[key] for key in allowed if key in extras},
            }
        )
    return entries


def _standard_info(
    records: Sequence[VideoRecord], official: Sequence[str], videos_path: str | Path, manifest: Manifest
) -> list[dict[str, Any]]:
    videos: dict[str, list[VideoRecord]] = {}
    for record in sorted(records, key=lambda record: record.index or 0):
        if (record.index or 0) < SAMPLES:
            videos.setdefault(nfc(record.prompt or ""), []).append(record)
    return [
        {**entry, "video_list": [_joined(videos_path, record) for record in videos.get(nfc(prompt.prompt), ())]}
        for prompt in manifest.prompts
        for entry in prompt.entries
        if set(entry["dimension"]) & set(official)
    ]


def _scores(aggregates: Mapping[str, float | None]) -> dict[str, Any]:
    return {
        "normalised": normalised(aggregates),
        "quality": quality_score(aggregates).to_json(),
        "semantic": semantic_score(aggregates).to_json(),
        "total": total_score(aggregates).to_json(),
    }


def _manifest_facts(manifest: Manifest) -> dict[str, Any]:
    data = manifest.to_json()
    return {**{key: data[key] for key in data if key != "prompts"}, "ids": [prompt.id for prompt in manifest.prompts]}


def _stands_in(records: Iterable[VideoRecord], name: str) -> bool:
    return any(_is_proxy(record.measured[name].get("extras") or {}) for record in records if name in record.measured)


def _is_proxy(extras: Mapping[str, Any]) -> bool:
    return str(extras.get("backbone", "")).startswith("proxy:")


def _joined(videos_path: str | Path, record: VideoRecord) -> str:
    return os.path.join(videos_path, record.path)


EXIT_DONE, EXIT_INCOMPLETE = 0, 1


def summarised(written: Written) -> tuple[int, dict[str, Any]]:
    """Returns the exit code and the summary.

    The code is 0 if every video there should be was read and has a value in every dimension whose weights are here,
    and there is such a dimension among those of VBench that were asked for; else 1. A dimension without weights does
    not count against it beside others: the report says that it is unavailable.
    """
    report = written.report
    lacking = what_is_lacking(report)
    summary = {
        "status": "incomplete" if lacking else "done",
        "lacking": lacking,
        "videos": len(report["videos"]),
        "skipped": report["skipped"],
        "profile": report["profile"],
        "dimensions": {
            name: {key: facts.get(key) for key in ("status", "aggregate", "videos", "reason")}
            for name, facts in report["dimensions"].items()
        },
        "scores": report["scores"],
        "notes": report["notes"],
        "files": [str(written.eval_results), str(written.full_info), str(written.report_file)],
    }
    return (EXIT_INCOMPLETE if lacking else EXIT_DONE), summary


def what_is_lacking(report: Mapping[str, Any]) -> list[str]:
    """Returns what keeps the report from being whole, a sentence each; empty if nothing does."""
    lacking = []
    if skipped := report["skipped"]:
        lacking.append(f"{len(skipped)} of {len(report['videos'])} videos could not be read")
    if (check := report["completeness"]) and check["missing"]:
        lacking.append(f"{len(check['missing'])} of {check['expected']} videos are not there")
    for name in report["dimensions"]:
        tried = [video["measured"][name] for video in report["videos"] if name in video["measured"]]
        without = [measured["reason"] for measured in tried if measured["value"] is None]
        if without and name in MEASURED:
            lacking.append(f"{name} has no value for {len(without)} of {len(tried)} videos: {without[0]}")
    counts = {name: facts["videos"] for name, facts in report["dimensions"].items() if name != "frozen_frames"}
    asked = [name for name in counts if name not in PROXIES]  # proxies may stand there without having been asked for
    if not any(counts.values()):
        lacking.append("no dimension could be measured on any video")
    elif asked and not any(counts[name] for name in asked):
        lacking.append(f"VBench's dimensions that were asked for could not be measured: {', '.join(asked)}")
    return lacking


def report_text(written: Written) -> str:
    """Returns the report as people read it on a terminal."""
    report = written.report
    count = len(report["videos"])
    lines = [f"{report['name']}: {count} video{'s' * (count != 1)} of {report['folder']}, profile {report['profile']}"]
    lines += [f"  {format_line(row)}" for row in report["stamp"].get("formats", [])[:5]]
    dimensions = report["dimensions"]
    official = [name for name in dimensions if name in MEASURED or dimensions[name].get("official")]
    lines += ["", *(_line(name, dimensions[name]) for name in official)]
    judges = [name for name in dimensions if name.startswith(PREFIX)]
    proxies = [name for name in dimensions if name not in (*official, *judges)]
    if proxies:
        lines += ["", "proxies, which need no weights and are not VBench's numbers:"]
        lines += [_line(name, dimensions[name]) for name in proxies]
    if judges:
        lines += ["", "judges, in units of their own; not VBench's numbers:"]
        lines += [_line(name, dimensions[name]) for name in judges]
    scores = [one for key in ("quality", "semantic", "total") if (one := report["scores"][key])["value"] is not None]
    lines += [""] * bool(scores) + [f"  {score['label']}: {100 * score['value']:.2f}" for score in scores]
    if skipped := report["skipped"]:
        lines += ["", f"{len(skipped)} skipped:"]
        lines += [f"  {video['path']}: {video['reason']}" for video in skipped[:10]]
        lines += [f"  and {len(skipped) - 10} more"] if len(skipped) > 10 else []
    if lacking := what_is_lacking(report):
        lines += ["", *(f"incomplete: {sentence}" for sentence in lacking)]
    lines += ["", f"  {written.eval_results}", f"  {written.full_info}", f"  {written.report_file}"]
    return "\n".join(lines)


def _line(name: str, facts: Mapping[str, Any]) -> str:
    aggregate = facts["aggregate"]
    backbone = facts.get("backbone") or {}
    if facts.get("status") == "unavailable" and aggregate is not None:
        said = f"NOT VBench's number: {backbone.get('id', 'a proxy')}, which was allowed to stand in"
    elif facts.get("status") == "unavailable":
        said = "unavailable" + (f"; see {facts['stand_in']} below" if facts.get("stand_in") else "")
    elif aggregate is None:
        said = "no video has a value"
    elif name in PROXIES:
        said = PROXIES[name].reading
    else:
        videos = "1 video" if facts["videos"] == 1 else f"{facts['videos']} videos"
        said = f"{facts['rule']} ({videos})" + (f", {backbone['id']}" if backbone.get("id") else "")
    number = "-" if aggregate is None else f"{aggregate:.4f}"
    return f"  {name:<25}{number:>9}  {said}"
