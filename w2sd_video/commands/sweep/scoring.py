"""Scores of everything a run holds, each computed once and kept in scores.jsonl (imports no torch)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from w2sd_video.commands.sweep.scorers import Scorer
from w2sd_video.runs.runs import Summary

SCORES = "scores.jsonl"


@dataclass(frozen=True)
class Key:
    """What names one thing within a method of a run."""

    prompt: str
    index: int


Scores = Mapping[str, Mapping[Key, float]]
"""By method."""


def scored(summary: Summary, scorer: Scorer) -> Scores:
    """Returns the scores of what a run has finished, making those that its folder does not hold yet.

    A score is of a file as it is, by a scorer as it is: where either has changed, it is made again. Raises UserError
    for a file that cannot be read, and what the scorer raises.
    """
    plan, path = summary.plan, summary.folder / SCORES
    known = _read(path)
    found: dict[str, dict[Key, float]] = {}
    name = f"{scorer.name}@{scorer.source}" if scorer.source else scorer.name
    with path.open("a", encoding="utf-8") as journal:
        for task in plan.tasks():
            file = plan.output / task.path
            if not file.exists():  # failed
                continue
            stat = file.stat()
            place = (name, task.path, stat.st_mtime_ns, stat.st_size)
            if place not in known:
                known[place] = scorer(plan.medium.read(file), task.prompt)
                line = dict(zip(("scorer", "path", "mtime", "size"), place, strict=True))
                journal.write(json.dumps({**line, "score": known[place]}) + "\n")
                journal.flush()
            found.setdefault(task.method, {})[Key(task.prompt, task.index)] = known[place]
    return found


def _read(path: Path) -> dict[tuple[str, str, int, int], float]:
    known = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
            known[entry["scorer"], entry["path"], entry["mtime"], entry["size"]] = float(entry["score"])
        except (ValueError, KeyError, TypeError):  # a line cut short when a run was stopped
            continue
    return known
