"""A run made in batches, by one process or by several that share it; else as `runs.perform` (imports no torch).

Which tasks make a batch depends on the plan and the size alone. So a picture's batch, and with it the last bit of its
pixels, is the same in a run that was stopped and in one that several processes share.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from w2sd_video.runs.journal import RESULTS_FILE, Journal, Key, Record, append_lines, key_of, read_results
from w2sd_video.runs.progress import Progress
from w2sd_video.runs.runs import (
    PAGE_EVERY,
    Made,
    NotMadeError,
    Report,
    RunPlan,
    Summary,
    write_comparison,
    write_made,
    write_page,
)
from w2sd_video.runs.tasks import Task

SHARES = "results-*.jsonl"  # the lines of one process each, until they are merged into results.jsonl

Batch = tuple[Task, ...]
MakeBatch = Callable[[Batch, Report], Sequence[Made | NotMadeError]]
"""Makes the tasks of a batch, all of one method, together: one answer each, in order."""
LoadBatches = Callable[[Sequence[Batch], Journal | None], MakeBatch]
"""Loads what these batches need. Only the first process has the journal, to amend."""


@dataclass(frozen=True)
class Worker:
    """One of `count` processes that share a run; `number` 0 keeps the journal. `wait` returns when all have called
    it.
    """

    number: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None

    @property
    def first(self) -> bool:
        return self.number == 0


def batches_of(plan: RunPlan, size: int) -> Iterator[Batch]:
    """Yields the plan's tasks in batches of at most `size`, each of one method, the first pictures of all methods
    first. Every group of the plan must have the same methods in the same order.
    """
    for start in range(0, len(plan.groups), size):
        yield from zip(*plan.groups[start : start + size], strict=True)


def perform_batches(
    plan: RunPlan,
    load: LoadBatches,
    *,
    size: int,
    shown: int,
    worker: Worker | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Makes what is not there yet and returns what was done, by all processes in the first, by itself in the others.

    Writes what `runs.perform` writes, with comparisons of, and a page that shows, the first `shown` groups. With
    several processes each takes its share of the batches and writes its lines to a file of its own, which the first
    one merges when all are done; if they are stopped before, the next run, of any number of processes, merges them.

    A batch of which some is there already is made again as it was and only what is missing is written.

    Raises as `runs.perform`.
    """
    worker, progress = worker or Worker(), progress or Progress()
    begin = time.perf_counter()
    with closing(progress):
        if worker.first:
            with Journal(plan.output, plan.record, warn=progress.note, noun=plan.medium.noun) as journal:
                summary = _first(plan, load, journal, size=size, shown=shown, worker=worker, progress=progress)
        else:
            summary = _other(plan, load, size=size, worker=worker, progress=progress)
    summary.seconds = time.perf_counter() - begin
    return summary


def _first(
    plan: RunPlan,
    load: LoadBatches,
    journal: Journal,
    *,
    size: int,
    shown: int,
    worker: Worker,
    progress: Progress,
) -> Summary:
    _merge(plan, journal, size, statuses=("done",))  # what failed is tried again
    worker.wait()  # what is finished stands in results.jsonl
    groups = plan.groups[:shown]
    finished = set(journal.records)
    summary = Summary(plan, kept=sum(task.key in finished for task in plan.tasks()))
    for lines in _made(plan, load, finished, journal, size=size, worker=worker, progress=progress):
        if worker.count > 1:
            append_lines(_share(plan, worker), lines)
        else:
            journal.append(*lines)
            write_page(plan, journal, groups, every=PAGE_EVERY)
    worker.wait()  # everyone's lines are on the disk
    _merge(plan, journal, size, statuses=("done", "failed"))
    for key, record in journal.records.items():
        if key not in finished:
            (summary.made if record["status"] == "done" else summary.failed).append(record)
    for group in groups:
        write_comparison(plan, journal, group)
    write_page(plan, journal, groups)
    return summary


def _other(plan: RunPlan, load: LoadBatches, *, size: int, worker: Worker, progress: Progress) -> Summary:
    worker.wait()
    path = plan.output / RESULTS_FILE
    data = path.read_bytes() if path.exists() else b""
    # In this file the first process has just left the finished ones only.
    finished = {key_of(record) for record in read_results(data, path, plan.medium.noun)}
    summary = Summary(plan, kept=len(finished))
    for lines in _made(plan, load, finished, None, size=size, worker=worker, progress=progress):
        append_lines(_share(plan, worker), lines)
        for record in lines:
            (summary.made if record["status"] == "done" else summary.failed).append(record)
    worker.wait()
    return summary


def _made(
    plan: RunPlan,
    load: LoadBatches,
    finished: set[Key],
    journal: Journal | None,
    *,
    size: int,
    worker: Worker,
    progress: Progress,
) -> Iterator[list[Record]]:
    """The lines of each batch of this worker's share, its files being written."""
    share = _share_of([batch for batch in batches_of(plan, size) if any(t.key not in finished for t in batch)], worker)
    if not share:
        return
    make = load(share, journal)
    missing = [[task for task in batch if task.key not in finished] for batch in share]
    progress.started(sum(plan.evaluations[task.method] for tasks in missing for task in tasks), sum(map(len, missing)))
    for batch, wanted in zip(share, missing, strict=True):
        progress.making(wanted[0].path)
        counted = _Counted(progress, len(wanted))
        made = dict(zip((task.key for task in batch), make(batch, counted), strict=True))
        counted.end(plan.evaluations[batch[0].method])
        lines = [write_made(task, plan, made[task.key]) for task in wanted]
        yield lines
        for record in lines:
            progress.finished(record)


class _Counted:
    """Reports a batch's evaluations to the progress, once for each thing that is made in it."""

    def __init__(self, progress: Progress, count: int) -> None:
        self._progress, self._count, self._behind = progress, count, 0

    def __call__(self, behind: int, total: int) -> None:
        self._progress.evaluated((behind - self._behind) * self._count)
        self._behind = behind

    def end(self, expected: int) -> None:
        self(expected, expected)


def _share_of(pending: Sequence[Batch], worker: Worker) -> list[Batch]:
    """Each method's batches in turn, as methods differ in cost, and each method from another worker on."""
    methods = list(dict.fromkeys(batch[0].method for batch in pending))
    share = []
    turn = dict(zip(methods, range(len(methods)), strict=True))
    for batch in pending:
        method = batch[0].method
        if turn[method] % worker.count == worker.number:
            share.append(batch)
        turn[method] += 1
    return share


def _share(plan: RunPlan, worker: Worker) -> Path:
    return plan.output / f"results-{worker.number}.jsonl"


def _merge(plan: RunPlan, journal: Journal, size: int, *, statuses: Sequence[str]) -> None:
    """The lines of all shares with these statuses into results.jsonl, in the order in which one process makes them."""
    paths = sorted(plan.output.glob(SHARES))
    lines: dict[Key, Record] = {}
    for path in paths:
        for record in read_results(path.read_bytes(), path, plan.medium.noun):
            there = record["status"] != "done" or (plan.output / record["path"]).exists()
            if record["status"] in statuses and there and not journal.finished(key_of(record)):
                lines[key_of(record)] = record
    if lines:
        order = [task.key for batch in batches_of(plan, size) for task in batch]
        journal.append(*(lines[key] for key in order if key in lines))
    for path in paths:
        path.unlink()
