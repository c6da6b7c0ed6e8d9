"""The engine of a run alone, with a maker that draws flat pictures: what lands on disk, how it is taken up again."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from tests.report.test_page import Tags
from w2sd_video.commands.engine import describe_summary, summary_text
from w2sd_video.errors import UserError
from w2sd_video.runs.journal import Journal
from w2sd_video.runs.picture_io import PICTURES, read_picture
from w2sd_video.runs.progress import Progress, TerminalProgress
from w2sd_video.runs.runs import Load, Made, Make, NotMadeError, Report, RunPlan, perform
from w2sd_video.runs.tasks import METHODS, Method, Task, as_text, task_groups

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ("a ring", "up/down")
SHADES = {"weak": 60, "strong": 120, "w2sd": 180, "zero-gap": 240}


def run_plan(output: Path, methods: Sequence[str] = ("weak", "strong", "w2sd"), **settings: Any) -> RunPlan:
    return RunPlan(
        output=output,
        record={
            "command": "draw",
            "preset": None,
            "pair": {"name": "squares", "strong": "a", "weak": "b"},
            "settings": {"height": 6, "width": 9, "steps": 4, "reflections": 2, "seed": 5, **settings},
            "methods": tuple(methods),
            "prompts": PROMPTS,
            "seeds": [5, 6],
            "device": "cpu",
            "dtype": "float32",
            "versions": {"torch": "2"},
        },
        groups=task_groups(methods, PROMPTS, ("a ring", "up_down"), seed=5, count=2, suffix=".png"),
        methods=METHODS,
        evaluations={method: 4 + 4 * METHODS[method].reflects for method in methods},
        medium=PICTURES,
    )


def one_by_one(make: Any) -> Make:
    """Returns a maker of batches from one of single things, which raises NotMadeError for what cannot be made."""

    def batch(tasks: Sequence[Task], report: Report) -> list[Made | NotMadeError]:
        made: list[Made | NotMadeError] = []
        for task in tasks:
            try:
                made.append(make(task, report))
            except NotMadeError as error:
                made.append(error)
        return made

    return batch


class Drawing:
    """A maker: a picture of one shade for a method and a seed. Remembers what it was asked for."""

    def __init__(self, *, failing: str | None = None, before: Callable[[Task], None] = lambda task: None) -> None:
        self.loads: list[int] = []
        self.asked: list[str] = []
        self._failing = failing
        self._before = before

    def load(self, pending: Sequence[Task], journal: Journal) -> Make:
        self.loads.append(len(pending))
        journal.amend(notes=["The map was fitted from 3 <pictures>."], noise_map={"pictures": 3, "kind": "mapped"})
        return one_by_one(self.make)

    def make(self, task: Task, report: Report) -> Made:
        self._before(task)
        self.asked.append(task.path)
        evaluations = 4 + 4 * METHODS[task.method].reflects
        report(1, evaluations)
        if task.method == self._failing:
            raise NotMadeError("not finite at step 1 of 4")
        report(evaluations, evaluations)
        frames = np.full((1, 6, 9, 3), SHADES[task.method] + task.seed, np.uint8)
        counts = {"num_decodes": 3 * METHODS[task.method].reflects, "num_skipped": 1}
        return Made(frames, evaluations, evaluations, evaluations, 0.25, 100.0, counts)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text("utf-8").splitlines()]


def pictures(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.png"))}


def no_load(pending: Sequence[Task], journal: Journal) -> Make:
    pytest.fail("something was loaded")


# -- what is written ------------------------------------------------------------------------------------------------


def test_a_run_of_pictures_keeps_the_contract_with_png_for_mp4(tmp_path: Path) -> None:
    summary = perform(run_plan(tmp_path), Drawing().load)
    assert summary.complete and (summary.total, summary.kept, len(summary.made)) == (12, 0, 12)
    folders = {"weak", "strong", "w2sd", "comparison"}
    assert {entry.name for entry in tmp_path.iterdir()} == {"run.json", "results.jsonl", "index.html", *folders}
    for folder in folders:
        names = {entry.name for entry in (tmp_path / folder).iterdir()}
        assert names == {"a ring-0.png", "a ring-1.png", "up_down-0.png", "up_down-1.png"}
    assert len(lines(tmp_path)) == 12
    written = (tmp_path / "w2sd" / "a ring-0.png").read_bytes()
    assert lines(tmp_path)[2] == {
        "method": "w2sd",
        "prompt": "a ring",
        "index": 0,
        "seed": 5,
        "path": "w2sd/a ring-0.png",
        "frames": 1,
        "fps": None,
        "num_evaluations": 8,
        "num_forwards": 8,
        "num_rows": 8,
        "num_decodes": 3,
        "num_skipped": 1,
        "seconds": 0.25,
        "peak_memory_mb": 100.0,
        "bytes": len(written),
        "sha256": hashlib.sha256(written).hexdigest(),
        "status": "done",
    }


def test_a_picture_is_its_makers_pixels_with_the_settings_that_made_it(tmp_path: Path) -> None:
    perform(run_plan(tmp_path), Drawing().load)
    picture = read_picture(tmp_path / "w2sd" / "up_down-1.png")
    assert picture.pixels.shape == (6, 9, 3) and (picture.pixels == SHADES["w2sd"] + 6).all()
    told = {name: picture.metadata[name] for name in ("method", "prompt", "index", "seed", "steps", "device", "pair")}
    assert told == {
        "method": "w2sd",
        "prompt": "up/down",
        "index": 1,
        "seed": 6,
        "steps": 4,
        "device": "cpu",
        "pair": {"name": "squares", "strong": "a", "weak": "b"},
    }


def test_what_only_the_run_finds_out_is_in_run_json_beside_what_it_was_asked(tmp_path: Path) -> None:
    plan = run_plan(tmp_path)
    perform(plan, Drawing().load)
    run = json.loads((tmp_path / "run.json").read_text("utf-8"))
    assert run.pop("notes") == ["The map was fitted from 3 <pictures>."]
    assert run.pop("noise_map") == {"pictures": 3, "kind": "mapped"}
    assert run == json.loads(json.dumps(plan.record))


def test_pictures_of_two_sizes_stand_side_by_side(tmp_path: Path) -> None:
    drawing = Drawing()

    def make(task: Task, report: Report) -> Made:
        made = drawing.make(task, report)
        frames = made.frames[:, ::2] if task.method == "weak" else made.frames
        return Made(frames, 4, 4, 4, 0.1, 1.0)

    perform(run_plan(tmp_path), lambda pending, journal: one_by_one(make))
    wide = read_picture(tmp_path / "comparison" / "a ring-0.png").pixels
    assert wide.shape[1] > 3 * 9 * 20, "three panels, enlarged"
    assert all((wide == SHADES[method] + 5).all(axis=-1).any() for method in ("weak", "strong", "w2sd"))


# -- the page ---------------------------------------------------------------------------------------------------------


def opened(folder: Path) -> Tags:
    return Tags((folder / "index.html").read_text("utf-8"))


def words(page: Tags) -> str:
    return "\n".join(text.strip() for text in page.text if text.strip() and "--page:" not in text)


def test_the_page_shows_every_picture_and_a_click_opens_its_file(tmp_path: Path) -> None:
    perform(run_plan(tmp_path), Drawing().load)
    page = opened(tmp_path)
    assert not page.open, "every tag is closed"
    shown = [unquote(image["src"] or "") for image in page.named("img")]
    made = [record["path"] for record in lines(tmp_path)]
    compared = [f"comparison/{name}-{n}.png" for name in ("a ring", "up_down") for n in (0, 1)]
    assert shown == [path for n in range(4) for path in (compared[n], *made[3 * n : 3 * n + 3])]
    links = {unquote(link["href"] or "") for link in page.named("a")}
    assert links == {*shown} and all((tmp_path / link).is_file() for link in links)
    assert page.named("video") == page.named("script") == []


def test_the_page_speaks_of_pictures_and_shows_the_notes_and_the_makers_own_counts(tmp_path: Path) -> None:
    perform(run_plan(tmp_path), Drawing().load)
    page = opened(tmp_path)
    assert "12 of 12 pictures, 9×6, 4 steps, 2 reflections." in words(page)
    assert "The map was fitted from 3 <pictures>." in words(page)
    for needle in ("picture 0, seed 5", "\nrows\ndecodes\nskipped\nseconds\n", "noise_map.kind", "mapped"):
        assert needle in words(page)
    assert "video" not in words(page).lower()


def test_reports_speak_of_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = TerminalProgress(noun="picture")
    summary = perform(run_plan(tmp_path), Drawing(failing="weak").load, progress=progress)
    said = capsys.readouterr().err + summary_text(summary)
    for needle in ("making 12 pictures, 64 evaluations", "FAILED weak, 'a ring', picture 0: not finite", "8 pictures"):
        assert needle in said
    assert "per picture" in said and "video" not in said
    report = describe_summary(summary)
    assert (report["pictures"], report["status"], "videos" in report) == (12, "failed", False)


# -- what fails, and taking a run up again ----------------------------------------------------------------------------


def test_what_cannot_be_made_is_recorded_with_its_reason_and_tried_again_by_the_next_run(tmp_path: Path) -> None:
    summary = perform(run_plan(tmp_path), Drawing(failing="weak").load)
    assert not summary.complete and (len(summary.made), len(summary.failed)) == (8, 4)
    failed = [record for record in lines(tmp_path) if record["method"] == "weak"]
    assert all((r["status"], r["path"], r["reason"]) == ("failed", None, "not finite at step 1 of 4") for r in failed)
    assert not (tmp_path / "weak").exists()
    page = opened(tmp_path)
    assert "8 of 12 pictures so far" in words(page) and words(page).count("not finite at step 1 of 4") == 4
    again = Drawing()
    assert perform(run_plan(tmp_path), again.load).complete
    assert len(again.asked) == 4 and all(path.startswith("weak/") for path in again.asked)


def test_an_error_that_is_no_refusal_ends_the_run_and_what_is_finished_is_kept(tmp_path: Path) -> None:
    def stop(task: Task) -> None:
        if task.path == "weak/a ring-1.png":
            raise RuntimeError("a bug")

    drawing = Drawing(before=stop)
    with pytest.raises(RuntimeError, match="a bug"):
        perform(run_plan(tmp_path), drawing.load)
    assert [record["path"] for record in lines(tmp_path)] == drawing.asked and len(drawing.asked) == 3
    again = Drawing()
    summary = perform(run_plan(tmp_path), again.load)
    assert summary.complete and (summary.kept, again.loads) == (3, [9])
    assert not set(again.asked) & set(drawing.asked)


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.runs.test_runs import Drawing, run_plan
from w2sd_video.runs.runs import perform

def kill(task):
    if task.path == "strong/a ring-1.png":
        os.kill(os.getpid(), signal.SIGKILL)

perform(run_plan(Path(sys.argv[1])), Drawing(before=kill).load)
"""


def test_a_killed_run_is_finished_by_the_same_call_without_making_anything_twice(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    perform(run_plan(whole), Drawing().load)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(broken)], env=environment, cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    with open(broken / "results.jsonl", "ab") as file:
        file.write(b'{"method": "strong", "prom')  # the least convenient moment
    there = {path: (broken / path).stat().st_mtime_ns for path in pictures(broken)}
    assert len([path for path in there if not path.startswith("comparison")]) == 4
    drawing = Drawing()
    summary = perform(run_plan(broken), drawing.load)
    assert summary.complete and (summary.kept, len(drawing.asked)) == (4, 8)
    assert there.items() <= {path: (broken / path).stat().st_mtime_ns for path in pictures(broken)}.items()
    assert pictures(broken) == pictures(whole)
    assert sorted(map(str, lines(broken))) == sorted(map(str, lines(whole)))


def test_a_finished_run_loads_nothing_and_keeps_its_facts(tmp_path: Path) -> None:
    perform(run_plan(tmp_path), Drawing().load)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert perform(run_plan(tmp_path), no_load).kept == 12
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_method_added_later_makes_only_its_own_pictures_and_new_comparisons(tmp_path: Path) -> None:
    perform(run_plan(tmp_path), Drawing().load)
    before = pictures(tmp_path)
    drawing = Drawing()
    perform(run_plan(tmp_path, ("weak", "strong", "w2sd", "zero-gap")), drawing.load)
    assert len(drawing.asked) == 4 and all(path.startswith("zero-gap/") for path in drawing.asked)
    after = pictures(tmp_path)
    changed = {path for path in before if before[path] != after[path]}
    assert changed == {path for path in before if path.startswith("comparison/")}


def test_other_settings_are_refused(tmp_path: Path) -> None:
    perform(run_plan(tmp_path), Drawing().load)
    with pytest.raises(UserError, match=r"settings\.noise_map: null -> \"fresh\""):
        perform(run_plan(tmp_path, noise_map="fresh"), no_load)


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:50], lambda data: data[:-1] + b"x"])
def test_a_damaged_picture_is_made_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    perform(run_plan(tmp_path), Drawing().load)
    before = pictures(tmp_path)
    damaged = tmp_path / "w2sd" / "a ring-0.png"
    damaged.write_bytes(damage(damaged.read_bytes()))
    drawing = Drawing()
    perform(run_plan(tmp_path), drawing.load)
    assert drawing.asked == ["w2sd/a ring-0.png"] and pictures(tmp_path) == before


# -- what a caller may get wrong, and what the bar shows --------------------------------------------------------------


def test_a_record_without_what_makes_the_run_repeatable_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    plan = run_plan(tmp_path)
    with pytest.raises(ValueError, match="lacks dtype"):
        RunPlan(
            plan.output,
            {name: value for name, value in plan.record.items() if name != "dtype"},
            plan.groups,
            plan.methods,
            plan.evaluations,
            plan.medium,
        )


def test_a_method_that_nothing_explains_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    plan = run_plan(tmp_path)
    with pytest.raises(ValueError, match=r"\['w2sd'\]"):
        RunPlan(plan.output, plan.record, plan.groups, plan.methods, {"weak": 4, "strong": 4}, plan.medium)


def test_the_engine_needs_no_torch() -> None:
    code = "import sys, w2sd_video.runs.runs, w2sd_video.runs.picture_io; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_letter_per_selection_says_which_side_it_took() -> None:
    assert as_text([[False], [True], [True]]) == "sww" and as_text([]) == ""


def test_methods_may_be_a_commands_own(tmp_path: Path) -> None:
    plan = run_plan(tmp_path, ("strong",))
    own = {"strong": Method("strong, 40 steps", "the strong model at W2SD's cost", False)}
    perform(RunPlan(plan.output, plan.record, plan.groups, own, plan.evaluations, plan.medium), Drawing().load)
    page = (tmp_path / "index.html").read_text("utf-8")
    assert "strong, 40 steps" in page and "at W2SD&#39;s cost" in page


@pytest.mark.parametrize("load", [Drawing().load, Drawing(failing="w2sd").load])
def test_the_bar_ends_at_what_it_announced_also_where_something_failed(tmp_path: Path, load: Load) -> None:
    class Counting(Progress):
        announced = behind = 0

        def started(self, evaluations: int, videos: int) -> None:
            self.announced = evaluations

        def evaluated(self, count: int) -> None:
            self.behind += count

    progress = Counting()
    perform(run_plan(tmp_path), load, progress=progress)
    assert progress.behind == progress.announced == 4 * (4 + 4 + 8)
