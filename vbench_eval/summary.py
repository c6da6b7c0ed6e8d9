"""A finished run in a few lines: a table for people, a short object for programs, and whether anything is lacking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vbench_eval.dimensions import OFFICIAL
from vbench_eval.preflight import format_line
from vbench_eval.proxies import PROXIES
from vbench_eval.results import Written

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
        if without and name in OFFICIAL:
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
    official = [name for name in dimensions if name in OFFICIAL or dimensions[name].get("official")]
    lines += ["", *(_line(name, dimensions[name]) for name in official)]
    proxies = [name for name in dimensions if name not in official]
    if proxies:
        lines += ["", "proxies, which need no weights and are not VBench's numbers:"]
        lines += [_line(name, dimensions[name]) for name in proxies]
    quality = report["scores"]["quality"]
    if quality["value"] is not None:
        lines += ["", f"  {quality['label']}: {100 * quality['value']:.2f}"]
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
