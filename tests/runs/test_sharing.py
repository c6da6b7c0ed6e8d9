"""Runs in batches and by several processes: the same files whoever made them, and nothing lost by a kill."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runs.test_runs import ROOT, lines, pictures, run_plan
from w2sd_video.errors import UserError
from w2sd_video.runs import fellows, journal
from w2sd_video.runs.fellows import SHARED, Worker
from w2sd_video.runs.journal import Journal
from w2sd_video.runs.progress import Progress
from w2sd_video.runs.runs import Batch, Made, Make, NotMadeError, Report, RunPlan, Summary
from w2sd_video.runs.runs import perform as perform_run
from w2sd_video.runs.tasks import Task, task_groups

METHODS = ("strong", "w2sd")


class Drawing:
    """Draws a batch, each picture of a shade that its neighbours have a part in, as rounding has."""

    def __init__(self, *, failing: int | None = None, stop_after: int | None = None, seconds: float = 0.0) -> None:
        self.batches: list[list[str]] = []
        self._failing, self._stop_after, self._seconds = failing, stop_after, seconds

    def load(self, pending: Sequence[Task], journal: Journal) -> Make:
        journal.amend(batch=2)
        journal.note("Squares are grey.")
        return self.make

    def make(self, tasks: Batch, report: Report) -> list[Made | NotMadeError]:
        if len(self.batches) == self._stop_after:
            raise KeyboardInterrupt
        self.batches.append([f"{task.method} {task.name}" for task in tasks])
        report(2, 4)
        time.sleep(self._seconds)
        shade = sum(len(task.method) + 7 * task.seed + len(task.prompt) for task in tasks)

        def made(i: int, seed: int) -> Made | NotMadeError:
            if seed == self._failing:
                return NotMadeError("not finite")
            return Made(np.full((1, 6, 9, 3), shade + i, np.uint8), 4, 4, 4, 0.5, 1.0)

        return [made(i, task.seed) for i, task in enumerate(tasks)]


def plan(output: Path, *, count: int = 2, shown: int | None = 3, shared: bool = False) -> RunPlan:
    made = run_plan(output, METHODS)
    prompts, stems = made.record["prompts"], ("a ring", "up_down")
    groups = task_groups(METHODS, prompts, stems, seed=5, count=count, suffix=".png")
    return RunPlan(output, made.record, groups, made.methods, made.evaluations, made.medium, shown=shown, shared=shared)


def perform(output: Path, drawing: Drawing, worker: Worker | None = None, **given: Any) -> Summary:
    return perform_run(plan(output), drawing.load, batch=2, worker=worker, **given)


def together(output: Path, drawings: Sequence[Drawing]) -> list[Summary]:
    with ThreadPoolExecutor(len(drawings)) as pool:
        workers = [Worker(number, len(drawings)) for number in range(len(drawings))]
        return list(pool.map(lambda pair: perform(output, *pair), zip(drawings, workers, strict=True)))


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# -- batches --------------------------------------------------------------------------------------------------------


def test_batches_are_of_one_method_and_all_methods_begin_early(tmp_path: Path) -> None:
    blocks = list(plan(tmp_path).blocks(3))
    found = [[f"{task.method} {task.name}" for task in batch] for _, batches in blocks for batch in batches]
    first = ["a ring-0", "a ring-1", "up_down-0"]
    assert found == [[f"{method} {name}" for name in names] for names in (first, ["up_down-1"]) for method in METHODS]


def test_a_run_makes_every_batch_once_and_shows_the_first_groups(tmp_path: Path) -> None:
    class Counting(Progress):
        expected = evaluations = finishes = 0

        def started(self, evaluations: int, videos: int) -> None:
            self.expected += evaluations

        def evaluated(self, count: int) -> None:
            self.evaluations += count

        def finished(self, record: Any) -> None:
            self.finishes += 1

    drawing, progress = Drawing(), Counting()
    summary = perform(tmp_path, drawing, progress=progress)
    assert summary.complete and (summary.kept, len(summary.made)) == (0, 8)
    assert len(drawing.batches) == 4
    assert progress.evaluations == progress.expected == 4 * 4 + 4 * 8 and progress.finishes == 8
    assert len(list((tmp_path / "comparison").iterdir())) == 3
    assert "up_down-1" not in (tmp_path / "index.html").read_text()
    again = perform(tmp_path, drawing)
    assert again.complete and again.kept == 8 and len(drawing.batches) == 4


def test_what_is_lost_of_a_batch_is_made_again_within_its_batch(tmp_path: Path) -> None:
    perform(tmp_path, Drawing())
    before = files(tmp_path)
    (tmp_path / "w2sd" / "a ring-1.png").unlink()
    drawing = Drawing()
    perform(tmp_path, drawing)
    assert drawing.batches == [["w2sd a ring-0", "w2sd a ring-1"]]
    assert files(tmp_path) == before


@pytest.mark.parametrize("count", [1, 2])
def test_a_failure_is_one_pictures_and_is_tried_again(count: int, tmp_path: Path) -> None:
    for summary in together(tmp_path, [Drawing(failing=6) for _ in range(count)]):
        assert not summary.complete and summary.kept + len(summary.made) == len(summary.failed) == 4
    assert {line["index"] for line in lines(tmp_path) if line["status"] == "failed"} == {1} and len(
        lines(tmp_path)
    ) == 8
    summary = together(tmp_path, [Drawing() for _ in range(count)])[0]
    assert summary.complete
    assert all(line["status"] == "done" for line in lines(tmp_path)) and len(lines(tmp_path)) == 8


# -- several that share a folder, here threads ------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3])
def test_workers_make_together_what_one_makes_alone(count: int, tmp_path: Path) -> None:
    perform(tmp_path / "one", Drawing())
    drawings = [Drawing(seconds=0.2) for _ in range(count)]
    summaries = together(tmp_path / "many", drawings)
    one = files(tmp_path / "one")
    assert files(tmp_path / "many") == one and len(one) == 3 + 8 + 3, "to the byte, and nothing else"
    made = [name for drawing in drawings for batch in drawing.batches for name in batch]
    assert len(made) == len(set(made)) == 8, "nothing twice"
    assert all(drawing.batches for drawing in drawings), "each has a share"
    assert all(summary.complete and len(summary.made) == 8 for summary in summaries)


@pytest.mark.parametrize(("count", "at_once"), [(2, True), (3, False), (5, False)])
def test_shards_make_together_what_one_process_makes(count: int, at_once: bool, tmp_path: Path) -> None:
    alone = Drawing()
    perform(tmp_path / "alone", alone)
    drawings = [Drawing(seconds=0.01) for _ in range(count)]

    def part(number: int) -> Summary:
        own = replace(plan(tmp_path / "parts"), shard=(number, count))
        return perform_run(own, drawings[number].load, batch=2)

    if at_once:
        with ThreadPoolExecutor(count) as pool:
            summaries = list(pool.map(part, range(count)))
    else:
        summaries = [part(number) for number in reversed(range(count))]
        assert not drawings[0].batches or not summaries[0].all_there
        assert summaries[-1].all_there
    assert all(summary.complete and summary.left == 0 for summary in summaries)
    made = [batch for drawing in drawings for batch in drawing.batches]
    assert sorted(made) == sorted(alone.batches)  # the very batches, each once
    assert drawings[0].batches and (count > 2 or drawings[1].batches)
    one, other = files(tmp_path / "alone"), files(tmp_path / "parts")
    assert one.keys() == other.keys() and all(one[name] == other[name] for name in one)
    assert part(0).made == [] and not Drawing().batches


def test_a_shard_that_fails_at_something_is_not_complete_and_leaves_others_theirs(tmp_path: Path) -> None:
    first = replace(plan(tmp_path), shard=(0, 2))
    summary = perform_run(first, Drawing(failing=5).load, batch=2)
    assert not summary.complete and summary.left and not (tmp_path / "comparison" / "up_down-0.png").exists()
    again = Drawing()
    assert perform_run(first, again.load, batch=2).complete and again.batches
    with pytest.raises(ValueError, match="shard 2 of 2 is none"):
        replace(first, shard=(2, 2))


def test_what_a_stopped_worker_left_is_kept_and_its_claims_are_taken_over(tmp_path: Path) -> None:
    perform(tmp_path / "one", Drawing())
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        perform(out, Drawing(stop_after=1), worker=Worker(0, 2))
    assert len(lines(out)) == 2 and not (out / SHARED).exists(), "the last one to leave tidies up"
    with Journal(out, plan(out).record, noun="picture", shared=True) as killed:
        assert killed.claim("what is never made")
        own = killed._fellows.own  # type: ignore[union-attr]
        own.write_bytes(b'{"method": "strong", "pro')  # torn by a kill
        drawing = Drawing()
        summary = perform(out, drawing, worker=Worker(1, 2))
        assert (summary.kept, len(summary.made)) == (2, 6) and len(drawing.batches) == 3
    assert files(out) == files(tmp_path / "one")


def test_one_that_does_not_share_is_refused_while_others_do_and_the_other_way_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "PATIENCE", 0.2)
    record = plan(tmp_path).record
    for shared in (True, False):
        with Journal(tmp_path, record, shared=shared), pytest.raises(UserError, match="another process"):
            perform_run(plan(tmp_path, shared=not shared), Drawing().load, batch=2)


def test_other_settings_are_refused_while_others_make_the_first_videos(tmp_path: Path) -> None:
    record = plan(tmp_path).record
    other = {**record, "settings": {**record["settings"], "steps": 7}}
    with Journal(tmp_path, record, shared=True), pytest.raises(UserError, match="steps: 4 -> 7"):
        Journal(tmp_path, other, shared=True).__enter__()


def test_a_process_of_another_host_is_alive_while_it_touches_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = fellows.Fellows(tmp_path)
    monkeypatch.setattr(fellows.socket, "gethostname", lambda: "another")
    there = fellows.Fellows(tmp_path)
    assert there.claim("a batch")
    there.leave()  # its locks do not reach this host
    assert not here.claim("a batch")
    os.utime(there.own, (0, time.time() - fellows.LEASE - 1))
    assert here.claim("a batch")
    here.leave()


def test_without_locks_sharing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fellows, "locked", lambda descriptor, **how: True)
    with pytest.raises(UserError, match="has no locks"):
        fellows.Fellows(tmp_path)


# -- real processes, killed at any moment -----------------------------------------------------------------------------

PROCESS = """
import signal, sys, time
from pathlib import Path
from tests.runs.test_sharing import Drawing, plan, perform_run
from w2sd_video.errors import exit_code
from w2sd_video.runs.fellows import Worker

signal.signal(signal.SIGINT, signal.default_int_handler)  # also where these tests run in the background of a script

def run():
    made = plan(Path(sys.argv[1]), count=8, shared=sys.argv[2] == "shared")
    return int(not perform_run(made, Drawing(seconds=float(sys.argv[3])).load, batch=2).complete)

sys.exit(exit_code(run))
"""


def start(output: Path, shared: str, seconds: float = 0.05) -> subprocess.Popen[bytes]:
    """A process that takes 16 times `seconds`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROCESS, str(output), shared, str(seconds)]
    return subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE)


def until_something_is_made(output: Path) -> None:
    deadline = time.monotonic() + 30
    while not (output / "index.html").exists() and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.parametrize("shared", ["alone", "shared"])
def test_processes_killed_at_any_moment_leave_what_others_finish_to_the_byte(shared: str, tmp_path: Path) -> None:
    perform_run(plan(tmp_path / "whole", count=8), Drawing().load, batch=2)
    out, chance = tmp_path / "out", random.Random(0)
    for _ in range(2):
        running = [start(out, shared) for _ in range(2 if shared == "shared" else 1)]
        until_something_is_made(out)
        time.sleep(chance.uniform(0.0, 0.4))
        running[0].send_signal(signal.SIGKILL)
        assert running[0].wait() in (-signal.SIGKILL, 0)
        assert all(process.wait(60) == 0 for process in running[1:]), "the other one makes the rest"
    for process in [start(out, shared) for _ in range(2 if shared == "shared" else 1)]:
        assert process.wait(60) == 0
    assert pictures(out) == pictures(tmp_path / "whole")
    assert (out / "results.jsonl").read_bytes() == (tmp_path / "whole" / "results.jsonl").read_bytes()
    assert not (out / SHARED).exists()


@pytest.mark.parametrize(("how", "code", "said"), [(signal.SIGTERM, 143, b"terminated"), (signal.SIGINT, 130, b"")])
def test_a_process_told_to_end_says_so_and_leaves_nothing_half_written(
    how: signal.Signals, code: int, said: bytes, tmp_path: Path
) -> None:
    process = start(tmp_path, "shared", seconds=0.4)  # far from done when it is told, on a busy machine too
    until_something_is_made(tmp_path)
    process.send_signal(how)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == code and said in errors and b"Traceback" not in errors
    assert not list(tmp_path.rglob(".*")) and len(lines(tmp_path)) < 32
    assert {line["path"] for line in lines(tmp_path)} == {p for p in pictures(tmp_path) if "comparison" not in p}
