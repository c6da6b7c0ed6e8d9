"""What puts a number on one picture or video, and the scores of a run, each computed once (imports no torch)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbench_eval.errors import MALFORMED
from vbench_eval.proxies import PROXIES
from w2sd_video.commands.rewards import (
    FunctionFailedError,
    answer,
    described,
    find_function,
    is_named,
    oracle_share,
    source_of,
)
from w2sd_video.errors import UserError
from w2sd_video.runs.runs import Summary

PROXY_NAMES = tuple(PROXIES)
SCORES = "scores.jsonl"
Score = Callable[[NDArray[np.uint8], str], float]
"""The score of frames [F, H, W, 3] uint8 RGB (one frame is a picture) made for a prompt."""


@dataclass(frozen=True)
class Scorer:
    """A score by name, with the word for what it measures; `source` is a hash of the user's file, where it is one."""

    name: str
    about: str
    score: Score
    source: str = ""

    def __call__(self, frames: NDArray[np.uint8], prompt: str) -> float:
        """Returns the score.

        Raises:
            UserError: it fails, or is no finite number.
        """
        try:
            return answer(self.score, frames, prompt)
        except FunctionFailedError as error:
            raise UserError(f"the scorer {self.name} {error}; that was for {prompt!r}") from error


def find_scorer(given: str) -> Scorer:
    """Returns the scorer called `given`: the oracle, a proxy of the evaluation, or MODULE:FUNCTION (FILE.py:FUNCTION),
    a function of frames [F, H, W, 3] uint8 and the prompt.

    Raises:
        UserError: there is none.
    """
    if given == "oracle":
        return Scorer("oracle", "share that shows what its prompt says", oracle_score)
    if given == "motion":
        return Scorer("motion", "root mean square difference of neighbouring frames, of 255", motion)
    if given in PROXY_NAMES:
        return proxy(given)
    if not is_named(given):
        known = ", ".join(("oracle", "motion", *PROXY_NAMES))
        raise UserError(f"there is no scorer {given!r}; choose from {known}, or give MODULE:FUNCTION")
    found = find_function(given, "scorer")
    return Scorer(given, described(given, found), found, source_of(given))


def oracle_score(frames: NDArray[np.uint8], prompt: str) -> float:
    """Whether frames of the toy world show all that the prompt says: 1 or 0.

    Raises:
        UserError: the prompt is not a caption of the toy world, or the frames are not of its size.
    """
    return float(oracle_share(frames, prompt) == 1)


def motion(frames: NDArray[np.uint8], _: str) -> float:
    """The root mean square difference of neighbouring frames [F, H, W, 3], of 255; 0 of a picture, which is one."""
    steps = np.diff(frames.astype(np.float64), axis=0)
    return float(np.sqrt(np.square(steps).mean())) if len(steps) else 0.0


def proxy(name: str) -> Scorer:
    """Returns a proxy of the evaluation, which needs no weights, as a score of frames."""

    def score(frames: Any, prompt: str) -> float:
        from vbench_eval import evaluate_frames

        found = evaluate_frames(frames, dimensions=name, name=prompt)["measured"][name]
        if found["value"] is None:
            raise UserError(f"{name} has no value for {prompt!r}: {found.get('reason')}; choose another --scorer")
        return float(found["value"])

    return Scorer(name, f"{PROXIES[name].description} ({PROXIES[name].reading})", score)


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
    for line in path.read_bytes().split(b"\n") if path.is_file() else []:
        try:
            entry = json.loads(line.decode("utf-8"))
            known[entry["scorer"], entry["path"], entry["mtime"], entry["size"]] = float(entry["score"])
        except MALFORMED:  # a line cut short when a run was stopped, or damaged: scored again
            continue
    return known
