"""A plan made: the pictures on disk, every method from the same noise, and a sheet of pictures per method."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bridges.dit_moe.command.expert_load import write_expert_load
from bridges.dit_moe.command.making import Sampler, load_pipeline
from bridges.dit_moe.command.request import SHOWN, SamplePlan
from bridges.dit_moe.command.scores import write_scores
from bridges.dit_moe.command.sheets import write_sheets
from w2sd_video.loading.placement import choose_device, choose_dtype
from w2sd_video.runs.fellows import Worker
from w2sd_video.runs.journal import Journal
from w2sd_video.runs.picture_io import PICTURES
from w2sd_video.runs.progress import Progress
from w2sd_video.runs.runs import Make, RunPlan, Summary, library_versions, perform
from w2sd_video.runs.tasks import W2SD_METHODS, Task


@dataclass
class Outcome:
    """What a run came to; `written` are the paths of what is made of many pictures, `worker` who this process was."""

    summary: Summary
    worker: Worker
    written: dict[str, str]


def on_device(plan: SamplePlan) -> tuple[SamplePlan, str]:
    """Returns the plan with "auto" resolved, and the device's name; refuses what this machine has not."""
    import torch

    device = choose_device(plan.device)
    dtype = str(choose_dtype(plan.dtype, device)).removeprefix("torch.")
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    return replace(plan, device=device, dtype=dtype), name


def run(plan: SamplePlan, *, progress: Progress, command: str) -> Outcome:
    """Makes the pictures of a plan that are not there yet and returns what was done, in each of the processes that
    were started together.

    Writes, in the plan's folder: run.json, results.jsonl, one folder per method, grid-METHOD.png, comparisons and a
    page of the first pictures, and the expert loads and the scores where they are asked for. Raises as `runs.perform`.
    """
    worker = Worker.of_environment()
    plan, device_name = on_device(replace(plan, device=worker.device(plan.device)))
    made = run_plan(plan, command, device_name)
    samplers: list[Sampler] = []

    def sampler() -> Sampler:
        if not samplers:
            samplers.append(Sampler(plan, load_pipeline(plan, bars=progress.bars)))
        return samplers[0]

    def load(pending: Sequence[Task], journal: Journal) -> Make:
        if (before := journal.run.get("batch", plan.batch)) != plan.batch:
            progress.note(f"the batch was {before} before; pictures of {plan.batch} differ from those by rounding")
        facts: dict[str, Any] = {"batch": plan.batch, "processes": worker.count}
        if plan.num_images > SHOWN:
            facts["notes"] = [f"This page shows the first {SHOWN} of {plan.num_images} pictures of each method."]
        journal.amend(**facts)
        return sampler().make

    summary = perform(made, load, batch=plan.batch, worker=worker, progress=progress)
    written: dict[str, str] = {}
    if worker.first:
        written = {f"{method} grid": path for method, path in write_sheets(made).items()}
        if plan.expert_load:
            written["expert load"] = write_expert_load(plan, sampler)
        if plan.metrics:
            assert plan.inception is not None
            samplers.clear()  # its memory is for the Inception network now
            written["metrics"] = write_scores(made, plan.metrics, plan.inception, plan.reference, progress=progress)
    return Outcome(summary, worker, written)


def run_plan(plan: SamplePlan, command: str, device_name: str) -> RunPlan:
    """Returns the plan as a run; its record has everything needed to repeat it.

    Of several accelerators the record names the kind: which of them makes a picture is no matter.
    """
    return RunPlan(
        output=plan.output,
        record={
            "command": command,
            "preset": None,
            "pair": plan.pair_record(),
            "settings": plan.settings(),
            "methods": plan.methods,
            "prompts": plan.prompts,
            "seeds": {"first": plan.seed, "count": plan.num_images},
            "device": plan.device.partition(":")[0],
            "dtype": plan.dtype,
            "versions": library_versions(device_name),
        },
        groups=plan.groups(),
        methods=W2SD_METHODS,
        evaluations={method: plan.evaluations(method) for method in plan.methods},
        medium=PICTURES,
        shown=SHOWN,
    )
