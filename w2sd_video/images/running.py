"""A plan of pictures made: on disk, every method from the same noise."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import replace

from w2sd_video.generate import video_medium
from w2sd_video.images.request import ImagePlan
from w2sd_video.journal import Journal
from w2sd_video.picture_io import PICTURES
from w2sd_video.progress import Progress
from w2sd_video.runs import Make, RunPlan, Summary, library_versions, perform
from w2sd_video.tasks import METHODS, Task


def on_device(plan: ImagePlan) -> tuple[ImagePlan, str]:
    """Returns the plan with "auto" resolved, and the device's name; refuses what this machine has not."""
    import torch

    from w2sd_video.adapters.loading import choose_device, choose_dtype
    from w2sd_video.adapters.placement import check_memory_plan
    from w2sd_video.errors import UserError

    device = choose_device(plan.device)
    dtype = str(choose_dtype(plan.dtype, device)).removeprefix("torch.")
    try:
        check_memory_plan(plan.memory, device)
    except UserError as error:  # it speaks of offloading, which no flag here is called
        raise UserError(
            f"--memory {plan.memory} keeps networks off an accelerator, but the device is {device}; "
            "use --memory resident"
        ) from error
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    return replace(plan, device=device, dtype=dtype), name


def run_images(plan: ImagePlan, *, progress: Progress, command: str = "") -> Summary:
    """Makes the pictures of a plan that are not there yet and returns what was done; raises as `runs.perform`."""
    plan, device_name = on_device(plan)

    def load(pending: Sequence[Task], journal: Journal) -> Make:
        from w2sd_video.images.loading import load_images

        notes = list(journal.run.get("notes", ()))

        def note(message: str) -> None:
            if message not in notes:
                notes.append(message)
                progress.note(message)
                journal.amend(notes=notes)

        loaded = load_images(
            plan,
            (task.method for task in pending),
            (task.prompt for task in pending),
            note=note,
            quiet=not progress.bars,
        )
        return loaded.make

    return perform(image_run_plan(plan, command, device_name), load, progress=progress)


def image_run_plan(plan: ImagePlan, command: str, device_name: str) -> RunPlan:
    """Returns the plan as a run; its record has everything needed to repeat it."""
    return RunPlan(
        output=plan.output,
        record={
            "command": command,
            "preset": plan.preset,
            "pair": plan.pair_record(),
            "settings": plan.settings(),
            "methods": plan.methods,
            "prompts": plan.prompts,
            "seeds": [plan.seed + index for index in range(plan.num_pictures)],
            "device": plan.device,
            "dtype": plan.dtype,
            "versions": library_versions(device_name),
        },
        groups=plan.groups(),
        methods=METHODS,
        evaluations={method: plan.evaluations(method) for method in plan.methods},
        medium=PICTURES if plan.fps is None else video_medium(plan.fps),
    )
