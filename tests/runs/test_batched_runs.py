"""Runs in batches and by several workers, here threads, with a maker that draws what depends on its batch."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runs.test_runs import lines, pictures, run_plan
from w2sd_video.runs.batched_runs import Batch, MakeBatch, Worker, batches_of, perform_batches
from w2sd_video.runs.journal import Journal
from w2sd_video.runs.progress import Progress
from w2sd_video.runs.runs import Made, NotMadeError, Report, RunPlan, Summary

METHODS = ("strong", "w2sd")


class Drawing:
    """Draws a batch, each picture of a shade that its neighbours have a part in, as rounding has."""

    def __init__(self, *, failing: int | None = None, stop_after: int | None = None) -> None:
        self.batches: list[list[str]] = []
        self.journals: list[bool] = []
        self._failing, self._stop_after = failing, stop_after

    def load(self, pending: Sequence[Batch], journal: Journal | None) -> MakeBatch:
        self.journals.append(journal is not None)
        if journal is not None:
            journal.amend(batch=2)
        return self.make

    def make(self, tasks: Batch, report: Report) -> list[Made | NotMadeError]:
        if len(self.batches) == self._stop_after:
            raise KeyboardInterrupt
        self.batches.append([f"{task.method} {task.name}" for task in tasks])
        report(2, 4)
        shade = sum(len(task.method) + 7 * task.seed + len(task.prompt) for task in tasks)

        def made(i: int, seed: int) -> Made | NotMadeError:
            if seed == self._failing:
                return NotMadeError("not finite")
            return Made(np.full((1, 6, 9, 3), shade + i, np.uint8), 4, 4, 4, 0.5, 1.0)

        return [made(i, task.seed) for i, task in enumerate(tasks)]


def perform(output: Path, drawing: Drawing, size: int = 2, worker: Worker | None = None, **given: Any) -> Summary:
    return perform_batches(plan(output), drawing.load, size=size, shown=3, worker=worker, **given)


def plan(output: Path) -> RunPlan:
    return run_plan(output, METHODS)


def together(output: Path, drawings: Sequence[Drawing]) -> list[Summary]:
    barrier = threading.Barrier(len(drawings), timeout=60)

    def one(number: int) -> Summary:
        return perform(output, drawings[number], worker=Worker(number, len(drawings), barrier.wait))

    with ThreadPoolExecutor(len(drawings)) as pool:
        return list(pool.map(one, range(len(drawings))))


def test_batches_are_of_one_method_and_all_methods_begin_early(tmp_path: Path) -> None:
    found = [[f"{task.method} {task.name}" for task in batch] for batch in batches_of(plan(tmp_path), 3)]
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
    assert len(drawing.batches) == 4 and drawing.journals == [True]
    assert progress.evaluations == progress.expected == 4 * 4 + 4 * 8 and progress.finishes == 8
    assert len(list((tmp_path / "comparison").iterdir())) == 3
    assert "up_down-1" not in (tmp_path / "index.html").read_text()
    again = perform(tmp_path, drawing)
    assert again.complete and again.kept == 8 and len(drawing.batches) == 4


@pytest.mark.parametrize("count", [2, 3])
def test_workers_make_together_what_one_makes_alone(count: int, tmp_path: Path) -> None:
    perform(tmp_path / "one", Drawing())
    drawings = [Drawing() for _ in range(count)]
    summaries = together(tmp_path / "many", drawings)
    assert pictures(tmp_path / "many") == pictures(tmp_path / "one")
    assert (tmp_path / "many" / "results.jsonl").read_bytes() == (tmp_path / "one" / "results.jsonl").read_bytes()
    made = [name for drawing in drawings for batch in drawing.batches for name in batch]
    assert len(made) == len(set(made)) == 8, "nothing twice"
    assert max(len(drawing.batches) for drawing in drawings) <= 2, "fairly shared"
    assert [drawing.journals for drawing in drawings if drawing.journals][1:] == [[False]] * (
        sum(bool(drawing.journals) for drawing in drawings) - 1
    )
    assert summaries[0].complete and len(summaries[0].made) == 8
    assert not list((tmp_path / "many").glob("results-*"))


def test_what_stopped_workers_left_is_kept_by_any_number_of_others(tmp_path: Path) -> None:
    perform(tmp_path / "one", Drawing())
    out = tmp_path / "stopped"
    worker = Worker(0, 2)  # whose fellow never comes, and which is stopped itself
    with pytest.raises(KeyboardInterrupt):
        perform(out, Drawing(stop_after=1), worker=worker)
    assert not (out / "results.jsonl").exists()
    share = out / "results-0.jsonl"
    share.write_bytes(share.read_bytes() + b'{"method": "strong", "pro')  # and torn by a kill
    drawing = Drawing()
    summary = perform(out, drawing)
    assert (summary.kept, len(summary.made)) == (2, 6) and len(drawing.batches) == 3
    assert pictures(out) == pictures(tmp_path / "one") and not share.exists()
    assert sorted(map(str, lines(out))) == sorted(map(str, lines(tmp_path / "one")))


def test_what_is_lost_of_a_batch_is_made_again_within_its_batch(tmp_path: Path) -> None:
    perform(tmp_path, Drawing())
    before = pictures(tmp_path)
    (tmp_path / "w2sd" / "a ring-1.png").unlink()
    drawing = Drawing()
    perform(tmp_path, drawing)
    assert drawing.batches == [["w2sd a ring-0", "w2sd a ring-1"]]
    assert pictures(tmp_path) == before and len(lines(tmp_path)) == 8


@pytest.mark.parametrize("count", [1, 2])
def test_a_failure_is_one_pictures_and_is_tried_again(count: int, tmp_path: Path) -> None:
    summary = together(tmp_path, [Drawing(failing=6) for _ in range(count)])[0]
    assert not summary.complete and (len(summary.made), len(summary.failed)) == (4, 4)
    assert {line["index"] for line in lines(tmp_path) if line["status"] == "failed"} == {1}
    summary = together(tmp_path, [Drawing() for _ in range(count)])[0]
    assert summary.complete and (summary.kept, len(summary.made)) == (4, 4)
    assert all(line["status"] == "done" for line in lines(tmp_path)) and len(lines(tmp_path)) == 8
