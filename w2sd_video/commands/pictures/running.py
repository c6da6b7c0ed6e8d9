"""A plan of pictures made: on disk, every method from the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from w2sd_video.commands.generate import video_medium
from w2sd_video.commands.method_settings import reflected_steps
from w2sd_video.commands.pictures.request import ImagePlan
from w2sd_video.commands.planned_runs import on_device, run_record
from w2sd_video.runs.fellows import Worker
from w2sd_video.runs.journal import Journal
from w2sd_video.runs.picture_io import PICTURES
from w2sd_video.runs.progress import Progress
from w2sd_video.runs.runs import Make, RunPlan, Summary, one_by_one, perform
from w2sd_video.runs.tasks import METHODS, Task


def run_images(plan: ImagePlan, *, progress: Progress, command: str = "") -> Summary:
    """Makes the pictures of a plan that are not there yet and returns what was done; raises as `runs.perform`."""
    worker = Worker.of_environment()
    plan, device_name = on_device(replace(plan, device=worker.device(plan.device)))

    def load(pending: Sequence[Task], journal: Journal) -> Make:
        from w2sd_video.commands.pictures.loading import load_images

        loaded = load_images(
            plan,
            (task.method for task in pending),
            (task.prompt for task in pending),
            note=journal.note,
            quiet=not progress.bars,
        )
        return one_by_one(loaded.make)

    return perform(image_run_plan(plan, command, device_name), load, worker=worker, progress=progress)


def image_run_plan(plan: ImagePlan, command: str, device_name: str) -> RunPlan:
    """Returns the plan as a run; its record has everything needed to repeat it."""
    return RunPlan(
        output=plan.output,
        record=run_record(plan, command, device_name),
        groups=plan.groups(),
        methods=METHODS,
        evaluations={method: plan.evaluations(method) for method in plan.methods},
        medium=PICTURES if plan.fps is None else video_medium(plan.fps),
        reflected_steps=reflected_steps(plan.reflection, plan.steps),
    )
