"""A run: everything a plan names made once, on disk, journalled, resumable, with comparisons and a page to look at it.

Knows neither models nor what is made (videos, pictures): both come with the plan. Imports no torch.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2sd_video import __version__
from w2sd_video.errors import UserError
from w2sd_video.report.page import Row, render_page
from w2sd_video.runs.choices import CHOICES, write_choices
from w2sd_video.runs.comparison import Panel, of_one_size, panel_note, side_by_side
from w2sd_video.runs.journal import COMPARED, Journal, Record
from w2sd_video.runs.progress import Progress
from w2sd_video.runs.tasks import SELECTING, Groups, Medium, Method, Task
from w2sd_video.runs.video_io import write_bytes

PAGE_EVERY = 20.0  # seconds between rewritings of index.html during a run
_LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "numpy", "av", "pillow")
_OF_THE_RUN = ("seed", "num_videos", "num_pictures")  # settings that say nothing about a single file

Report = Callable[[int, int], None]
"""Called after each evaluation with how many are behind and how many there are in all."""


class NotMadeError(Exception):
    """One thing cannot be made, for the reason that the message gives; the others can."""


@dataclass(frozen=True)
class Made:
    """What a maker returns: frames `[F, H, W, 3]` uint8 RGB (one frame is a picture) and what they cost.

    `counts` holds more numbers of the same kind by name ("num_decodes"): they go into results.jsonl and the page.
    `choices` is a letter per selection of a method that selects (`choices.as_text`).
    """

    frames: NDArray[np.uint8]
    num_evaluations: int
    num_forwards: int
    num_rows: int
    seconds: float
    peak_memory_mb: float
    counts: Mapping[str, float] = field(default_factory=dict)
    choices: str | None = None


Make = Callable[[Task, Report], Made]
"""Makes one thing; raises NotMadeError if it cannot be made and the others can."""
Load = Callable[[Sequence[Task], Journal], Make]
"""Loads what the tasks still to be made need. May call `journal.amend`, now or while making."""


@dataclass(frozen=True)
class RunPlan:
    """What to make, where, and what to say about it.

    `record` is run.json's content as JSON data, everything needed to repeat the run: "command", "preset", "pair" (with
    its "name"), "settings" (with "height", "width", "steps"), "methods", "prompts", "seeds", "device", "dtype" and
    "versions". `methods` explains each name in record["methods"], `evaluations` says what one thing costs by it (for
    the progress bar: an estimate will do). `reflected_steps`, counted from 0, are those that a choice is made for.
    """

    output: Path
    record: Mapping[str, Any]
    groups: Groups
    methods: Mapping[str, Method]
    evaluations: Mapping[str, int]
    medium: Medium
    reflected_steps: Sequence[int] = ()

    def __post_init__(self) -> None:
        if missing := [name for name in (*COMPARED, "command", "methods", "versions") if name not in self.record]:
            raise ValueError(f"the run's record lacks {', '.join(missing)}")
        if unknown := {task.method for task in self.tasks()} - (self.methods.keys() & self.evaluations.keys()):
            raise ValueError(f"nothing says what the methods {sorted(unknown)} are, or what they cost")

    def tasks(self) -> tuple[Task, ...]:
        """Returns everything to make, in order."""
        return tuple(task for group in self.groups for task in group)


@dataclass
class Summary:
    """What a run came to. `made` and `failed` are the lines it added to results.jsonl, `kept` counts what was there
    already.
    """

    plan: RunPlan
    kept: int = 0
    made: list[Record] = field(default_factory=list)
    failed: list[Record] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def folder(self) -> Path:
        return self.plan.output

    @property
    def total(self) -> int:
        return len(self.plan.tasks())

    @property
    def complete(self) -> bool:
        return self.kept + len(self.made) == self.total


def perform(plan: RunPlan, load: Load, *, progress: Progress | None = None) -> Summary:
    """Makes what is not there yet and returns what was done.

    Writes, in the plan's folder: run.json, results.jsonl, one folder per method with its files, comparison/ (with two
    methods or more) and index.html. `load` is called with the tasks that are still to be made, and not at all if there
    are none; the maker it returns is called once for each. Where the maker raises NotMadeError the task is recorded
    with status "failed" and the reason, and the others go on. Stopped at any moment, the same call finishes the set.

    Raises UserError for a folder that holds another run, OSError if the disk refuses (nothing finished is lost), and
    what `load` and the maker raise.
    """
    progress = progress or Progress()
    begin = time.perf_counter()
    try:
        with Journal(plan.output, plan.record, warn=progress.note, noun=plan.medium.noun) as journal:
            pending = [task for task in plan.tasks() if not journal.finished(task.key)]
            summary = Summary(plan, kept=len(plan.tasks()) - len(pending))
            make = load(pending, journal) if pending else None
            if pending:
                progress.started(sum(plan.evaluations[task.method] for task in pending), len(pending))
            for group in plan.groups:
                for task in group:
                    if not journal.finished(task.key):
                        assert make is not None
                        progress.making(task.path)
                        record = _made(task, plan, make, progress)
                        journal.append(record)
                        (summary.made if record["status"] == "done" else summary.failed).append(record)
                        progress.finished(record)
                write_comparison(plan, journal, group)
                write_page(plan, journal, plan.groups, every=PAGE_EVERY)
            _write_choices(plan, journal)
            write_page(plan, journal, plan.groups)
    finally:
        progress.close()
    summary.seconds = time.perf_counter() - begin
    return summary


def _made(task: Task, plan: RunPlan, make: Make, progress: Progress) -> Record:
    """What was made, written, as its line of results.jsonl; or the line that says why it failed."""
    behind = 0

    def report(count: int, total: int) -> None:
        nonlocal behind
        progress.evaluated(count - behind)
        behind = count

    made: Made | NotMadeError
    try:
        made = make(task, report)
    except NotMadeError as error:
        made = error
    progress.evaluated(plan.evaluations[task.method] - behind)  # what failed, or cost other than expected, ends here
    return write_made(task, plan, made)


def write_made(task: Task, plan: RunPlan, made: Made | NotMadeError) -> Record:
    """Writes the file of what was made; returns its line of results.jsonl, or the line that says why there is none."""
    record: Record = {
        "method": task.method,
        "prompt": task.prompt,
        "index": task.index,
        "seed": task.seed,
        "path": task.path,
    }
    if isinstance(made, NotMadeError):
        return {**record, "path": None, "status": "failed", "reason": str(made)}
    path = plan.output / task.path
    path.parent.mkdir(exist_ok=True)
    plan.medium.write(path, made.frames, file_settings(plan.record, task))
    return {
        **record,
        "frames": len(made.frames),
        "fps": plan.medium.fps,
        "num_evaluations": made.num_evaluations,
        "num_forwards": made.num_forwards,
        "num_rows": made.num_rows,
        **made.counts,
        **({} if made.choices is None else {"choices": made.choices}),
        "seconds": round(made.seconds, 3),
        "peak_memory_mb": round(made.peak_memory_mb, 1),
        "status": "done",
    }


def file_settings(record: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """Returns what goes into a file: enough to make it again; no times, so that making it again gives the same
    bytes.
    """
    return {
        "generator": f"w2sd-video {__version__}",
        "method": task.method,
        "prompt": task.prompt,
        "index": task.index,
        "seed": task.seed,
        **{name: value for name, value in record["settings"].items() if name not in _OF_THE_RUN},
        **({"reward": record["reward"]} if task.method == SELECTING and "reward" in record else {}),
        "pair": record["pair"],
        "device": record["device"],
        "dtype": record["dtype"],
    }


def library_versions(device_name: str) -> dict[str, str]:
    """Returns the versions for run.json: this program, Python, the libraries, and the device's name."""
    versions = {"w2sd-video": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    return {**versions, "device": device_name}


def write_comparison(plan: RunPlan, journal: Journal, group: Sequence[Task]) -> None:
    """Writes the comparison of one prompt and index unless it is there and newer than all it shows."""
    finished = [task for task in group if journal.finished(task.key)]
    path = plan.output / _comparison_path(plan, group[0])
    if len(group) < 2 or not finished:
        return
    newest = max((plan.output / task.path).stat().st_mtime_ns for task in finished)
    if path.exists() and path.stat().st_mtime_ns >= newest:
        return
    panels = []
    for task in group:
        # Read back, so that the comparison is the same whether its parts were made now or by a run that was stopped.
        frames = _read_back(plan, plan.output / task.path) if task in finished else None
        panels.append(Panel(plan.methods[task.method].title, panel_note(journal.records.get(task.key, {})), frames))
    path.parent.mkdir(exist_ok=True)
    settings = {
        "prompt": group[0].prompt,
        "index": group[0].index,
        "seed": group[0].seed,
        "methods": plan.record["methods"],
    }
    plan.medium.write(path, side_by_side(of_one_size(panels), noun=plan.medium.noun), settings)


def _write_choices(plan: RunPlan, journal: Journal) -> None:
    rows = {
        f"{task.prompt}, {task.index}": journal.records[task.key]["choices"]
        for task in plan.tasks()
        if journal.finished(task.key) and "choices" in journal.records[task.key]
    }
    if any(rows.values()):  # without reflections nothing is chosen
        write_choices(plan.output / CHOICES, rows, plan.reflected_steps, noun=plan.medium.noun)


def _read_back(plan: RunPlan, path: Path) -> NDArray[np.uint8]:
    try:
        return plan.medium.read(path)
    except UserError as error:
        raise UserError(f"{error}; delete it and the same command makes it again") from None


def write_page(plan: RunPlan, journal: Journal, groups: Groups, every: float = 0.0) -> None:
    """Writes index.html, which shows `groups`, unless it was written within the last `every` seconds."""
    page = plan.output / "index.html"
    if every and page.exists() and time.time() - page.stat().st_mtime < every:
        return
    rows = []
    for group in groups:
        records = {task.method: journal.records[task.key] for task in group if task.key in journal.records}
        comparison = _comparison_path(plan, group[0])
        there = (plan.output / comparison).exists()
        rows.append(Row(group[0].prompt, group[0].index, records, comparison if there else None))
    expected = sum(map(len, groups))
    drawn = CHOICES if (plan.output / CHOICES).exists() else None
    text = render_page(journal.run, rows, expected, methods=plan.methods, noun=plan.medium.noun, choices=drawn)
    write_bytes(page, text.encode("utf-8"))


def _comparison_path(plan: RunPlan, task: Task) -> str:
    return f"comparison/{task.name}{plan.medium.suffix}"
