"""A run: everything a plan names made once, on disk, journalled, resumable, with comparisons and a page to look at it.

One code path for one thing at a time and for batches, for one process and for several that share the folder (started
together by `accelerate launch` or torchrun, or one after the other). Which tasks make a batch depends on the plan and
the batch size alone, so every file is the same whatever number of processes made it and however often it was stopped.

Knows neither models nor what is made (videos, pictures): both come with the plan. Imports no torch.
"""

from __future__ import annotations

import itertools
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbench_eval.files import write_bytes
from w2sd_video import __version__
from w2sd_video.errors import UserError
from w2sd_video.report.page import Row, render_pages
from w2sd_video.runs.comparison import Panel, of_one_size, panel_note, side_by_side
from w2sd_video.runs.fellows import Worker
from w2sd_video.runs.journal import COMPARED, JOINED, Journal, Record, fingerprint
from w2sd_video.runs.progress import Progress
from w2sd_video.runs.tasks import SELECTING, Groups, Medium, Method, Sound, Task

CHOICES = "choices.png"
PAGE_EVERY = 20.0  # seconds between rewritings of index.html during a run
WAIT = 0.3  # seconds between looks at what other processes made
_LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "numpy", "av", "pillow")
_NO_FACT = {*COMPARED, *JOINED, "notes", "verdict"}  # entries of run.json that its page shows elsewhere or not at all
_OF_THE_RUN = ("seed", "num_videos", "num_pictures")  # settings that say nothing about a single file

Report = Callable[[int, int], None]
"""Called after each evaluation with how many are behind and how many there are in all."""
Batch = Sequence[Task]
"""Tasks of one method that are made together."""


class NotMadeError(Exception):
    """One thing cannot be made, for the reason that the message gives; the others can."""


@dataclass(frozen=True)
class Made:
    """What a maker returns: frames `[F, H, W, 3]` uint8 RGB (one frame is a picture), their sound, what they cost.

    `counts` holds more numbers of the same kind by name ("num_decodes"): they go into results.jsonl and the page.
    `choices` is a letter per selection of a method that selects (`tasks.as_text`).
    """

    frames: NDArray[np.uint8]
    num_evaluations: int
    num_forwards: int
    num_rows: int
    seconds: float
    peak_memory_mb: float
    counts: Mapping[str, float] = field(default_factory=dict)
    choices: str | None = None
    sound: Sound | None = None


Make = Callable[[Batch, Report], Sequence[Made | NotMadeError]]
"""Makes a batch: one answer for each task, in order; what it reports are evaluations of the whole batch together."""
Load = Callable[[Sequence[Task], Journal], Make]
"""Loads what the tasks still to be made need. May call `journal.amend` and `journal.note`, now or while making."""


@dataclass(frozen=True)
class RunPlan:
    """What to make, where, and what to say about it.

    `record` is run.json's content as JSON data, everything needed to repeat the run: "command", "preset", "pair" (with
    its "name"), "settings" (with "height", "width", "steps"), "methods", "prompts", "seeds", "device", "dtype" and
    "versions". `methods` explains each name in record["methods"], `evaluations` says what one thing costs by it (for
    the progress bar: an estimate will do). `reflected_steps`, counted from 0, are those that a choice is made for.
    Comparisons and the page are of the first `shown` groups. With `shared` other processes may make the same run at the
    same time. `shard` (i, n) leaves to this one every n-th batch of groups, from the i-th on, counted from 0.
    """

    output: Path
    record: Mapping[str, Any]
    groups: Groups
    methods: Mapping[str, Method]
    evaluations: Mapping[str, int]
    medium: Medium
    reflected_steps: Sequence[int] = ()
    shown: int | None = None
    shared: bool = False
    shard: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.shard is not None and not 0 <= self.shard[0] < self.shard[1]:
            raise ValueError(f"shard {self.shard[0]} of {self.shard[1]} is none")
        if missing := [name for name in (*COMPARED, "command", "methods", "versions") if name not in self.record]:
            raise ValueError(f"the run's record lacks {', '.join(missing)}")
        if unknown := set(self.record["methods"]) - (self.methods.keys() & self.evaluations.keys()):
            raise ValueError(f"nothing says what the methods {sorted(unknown)} are, or what they cost")

    @property
    def total(self) -> int:
        """How many things there are to make."""
        return len(self.groups) * len(self.record["methods"])

    def tasks(self) -> Iterator[Task]:
        """Yields everything to make, in order."""
        return (task for group in self.groups for task in group)

    def blocks(self, size: int) -> Iterator[tuple[Sequence[tuple[Task, ...]], list[Batch]]]:
        """Yields `size` groups at a time with their batches, one for each method, in the order they are made."""
        for _, groups, batches in self.share(size, None):
            yield groups, batches

    def share(
        self, size: int, shard: tuple[int, int] | None
    ) -> Iterator[tuple[int, Sequence[tuple[Task, ...]], list[Batch]]]:
        """Yields the blocks of a shard (None: all), with the number of the first group of each."""
        first, count = shard or (0, 1)
        for start in range(first * size, len(self.groups), count * size):
            groups = list(self.groups[start : start + size])
            yield start, groups, list(zip(*groups, strict=True))


@dataclass
class Summary:
    """What a run came to. `made` and `failed` are the lines it added to results.jsonl, by whatever process, `kept`
    counts what was there already, `notes` are the run's.
    """

    plan: RunPlan
    kept: int = 0
    made: list[Record] = field(default_factory=list)
    failed: list[Record] = field(default_factory=list)
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    left: int | None = None  # of a shard: how many of its share are not there

    @property
    def folder(self) -> Path:
        return self.plan.output

    @property
    def total(self) -> int:
        return self.plan.total

    @property
    def complete(self) -> bool:
        """Whether all that was to be made is there: of a shard, its share."""
        return self.all_there if self.left is None else self.left == 0

    @property
    def all_there(self) -> bool:
        """Whether the whole run is there, by whatever process."""
        return self.kept + len(self.made) == self.total


def perform(
    plan: RunPlan,
    load: Load,
    *,
    batch: int = 1,
    worker: Worker | None = None,
    progress: Progress | None = None,
    between: Callable[[], None] | None = None,
) -> Summary:
    """Makes what is not there yet, `batch` things of one method at a time, and returns what was done.

    Writes, in the plan's folder: run.json, results.jsonl, one folder per method with its files, comparison/ (with two
    methods or more) and index.html. `load` is called with the tasks of the batches that are still to be made, and not
    at all if there are none. A batch of which some is there already is made again as it was, and only what is missing
    is written. Where the maker answers NotMadeError the task is recorded with status "failed" and the reason, and the
    others go on. Stopped at any moment, the same call finishes the set.

    With a `worker` of several, or a plan that is `shared`, any number of processes do this at the same time: each
    claims what it makes, takes over what a killed one claimed, and returns when everything is there; one with a `shard`
    when its share is. `between` is called after each `batch` of groups, with the folder as it is then.

    Raises UserError for a folder that holds another run, OSError if the disk refuses (nothing finished is lost), and
    what `load` and the maker raise.
    """
    progress = progress or Progress()
    shared = plan.shared or plan.shard is not None or (worker is not None and worker.count > 1)
    begin = time.perf_counter()
    with (
        closing(progress),
        Journal(plan.output, plan.record, warn=progress.note, noun=plan.medium.noun, shared=shared) as journal,
    ):
        making = _Making(plan, journal, progress, between)
        making.all(load, batch)
        with journal.alone():
            making.learn()  # of other shards, which nobody waits for
            journal.settle(task.key for _, batches in plan.blocks(batch) for tasks in batches for task in tasks)
            for group in plan.groups[: plan.shown]:
                if plan.shard is None or not making.missing(group):  # else another shard has it
                    _write_comparison(plan, journal, group)
            _write_choices(plan, journal)
            _write_page(plan, journal)
        making.summary.notes = list(journal.run.get("notes", ()))
    making.summary.seconds = time.perf_counter() - begin
    return making.summary


class _Making:
    """Making what a plan names, with what was done so far."""

    def __init__(
        self, plan: RunPlan, journal: Journal, progress: Progress, between: Callable[[], None] | None = None
    ) -> None:
        self._between = between
        self.plan, self.journal, self.progress = plan, journal, progress
        self.summary = Summary(plan, kept=sum(journal.finished(task.key) for task in plan.tasks()))
        for record in journal.news():  # of others that began a moment ago
            self._sort(record)

    def all(self, load: Load, size: int) -> None:
        """Makes every batch that is not there; returns when all are, by whatever process."""
        shard = self.plan.shard
        pending = [tasks for _, _, batches in self.plan.share(size, shard) for tasks in batches if self.missing(tasks)]
        if pending:
            self._all(load, size, pending)
        if shard is not None:
            own = (task for _, groups, _ in self.plan.share(size, shard) for group in groups for task in group)
            self.summary.left = sum(not self.journal.finished(task.key) for task in own)

    def _all(self, load: Load, size: int, pending: Sequence[Batch]) -> None:
        make = load([task for tasks in pending for task in tasks], self.journal)
        missing = [task for tasks in pending for task in self.missing(tasks)]
        self.progress.started(sum(self.plan.evaluations[task.method] for task in missing), len(missing))
        del missing
        claimed_by_others = []
        for start, groups, batches in self.plan.share(size, self.plan.shard):
            for tasks in batches:
                if self.missing(tasks) and not self._make(tasks, make):
                    claimed_by_others.append(tasks)
            self._show(groups, start)
            if self._between is not None:
                self._between()
        while claimed_by_others:
            self.learn()
            claimed_by_others = [
                tasks for tasks in claimed_by_others if self.missing(tasks) and not self._make(tasks, make)
            ]
            if claimed_by_others:
                time.sleep(WAIT)

    def _make(self, tasks: Batch, make: Make) -> bool:
        """Makes a batch unless another process does; returns whether it is there now."""
        if not self.journal.claim(json.dumps([task.key for task in tasks])):
            return False
        self.learn()  # whoever claimed it before may have finished it
        missing = self.missing(tasks)
        if not missing:
            return True
        self.progress.making(missing[0].path)
        cost, behind = self.plan.evaluations[tasks[0].method], 0

        def report(count: int, total: int) -> None:
            nonlocal behind
            self.progress.evaluated((count - behind) * len(missing))
            behind = count

        made = dict(zip((task.key for task in tasks), make(tasks, report), strict=True))
        report(cost, cost)  # what failed, or cost other than expected, ends here
        records = [_write_made(task, self.plan, made[task.key]) for task in missing]
        self.journal.append(*records)
        for record in records:
            self._count(record)
        return True

    def missing(self, tasks: Batch) -> list[Task]:
        """Those that nobody finished, nor failed at in this run."""
        return [task for task in tasks if task.key not in self.journal.records]

    def learn(self) -> None:
        for record in self.journal.news():
            self.progress.evaluated(self.plan.evaluations.get(record["method"], 0))
            self._count(record)

    def _count(self, record: Record) -> None:
        self._sort(record)
        self.progress.finished(record)

    def _sort(self, record: Record) -> None:
        (self.summary.made if record["status"] == "done" else self.summary.failed).append(record)

    def _show(self, groups: Sequence[tuple[Task, ...]], start: int) -> None:
        """Writes the comparisons of groups that are complete, and the page from time to time."""
        shown = len(self.plan.groups) if self.plan.shown is None else self.plan.shown
        with self.journal.alone():
            for group in groups[: max(0, shown - start)]:
                if not self.missing(group):
                    _write_comparison(self.plan, self.journal, group)
            _write_page(self.plan, self.journal, every=PAGE_EVERY)


def _write_made(task: Task, plan: RunPlan, made: Made | NotMadeError) -> Record:
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
    sound = {} if made.sound is None else {"sound": made.sound}
    plan.medium.write(path, made.frames, _file_settings(plan.record, task), **sound)
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
        **fingerprint(path),
        "status": "done",
    }


def _file_settings(record: Mapping[str, Any], task: Task) -> dict[str, Any]:
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


def _write_comparison(plan: RunPlan, journal: Journal, group: Sequence[Task]) -> None:
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


def write_choices(path: Path, rows: Mapping[str, str], steps: Sequence[int], *, noun: str = "picture") -> bool:
    """Draws the choices as a PNG (`figures.choices`); returns False, and writes nothing, without matplotlib."""
    from w2sd_video.report import figures

    if figures.available():
        figures.save(figures.choices(rows, steps, noun=noun), path)
    return figures.available()


def _read_back(plan: RunPlan, path: Path) -> NDArray[np.uint8]:
    try:
        return plan.medium.read(path)
    except UserError as error:
        raise UserError(f"{error}; delete it and the same command makes it again") from None


def _write_page(plan: RunPlan, journal: Journal, every: float = 0.0) -> None:
    """Writes index.html, and the pages after it; with `every` the former only, if it is older than so many seconds."""
    page = plan.output / "index.html"
    if every and page.exists() and time.time() - page.stat().st_mtime < every:
        return
    rows = []
    for group in plan.groups[: plan.shown]:
        records = {task.method: journal.records[task.key] for task in group if task.key in journal.records}
        comparison = _comparison_path(plan, group[0])
        there = (plan.output / comparison).exists()
        rows.append(Row(group[0].prompt, group[0].index, records, comparison if there else None))
    pages = render_pages(
        journal.run,
        rows,
        methods=plan.methods,
        noun=plan.medium.noun,
        facts={name: value for name, value in journal.run.items() if name not in _NO_FACT},
        choices=CHOICES if (plan.output / CHOICES).exists() else None,
    )
    for name, text in itertools.islice(pages, 1 if every else None):
        write_bytes(plan.output / name, text.encode("utf-8"))


def _comparison_path(plan: RunPlan, task: Task) -> str:
    return f"comparison/{task.name}{plan.medium.suffix}"
