"""A plan made: the pictures on disk, every method from the same noise; or a noise map fitted and saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bridges.pixel.command.latent_spaces import NOISE_MAP, ChosenMap, fitted_map, spaces_of, warn_of_noise
from bridges.pixel.command.loading import load_bridge, load_spaces, load_strong
from bridges.pixel.command.request import BRIDGE_METHODS, BridgePlan
from bridges.pixel.pictures import load_pictures
from w2sd_video.commands.engine import on_device
from w2sd_video.errors import UserError
from w2sd_video.runs.fellows import Worker
from w2sd_video.runs.journal import Journal
from w2sd_video.runs.picture_io import PICTURES
from w2sd_video.runs.progress import Progress
from w2sd_video.runs.runs import Make, RunPlan, Summary, library_versions, one_by_one, perform
from w2sd_video.runs.tasks import Task
from w2sd_video.runs.video_io import video_medium


def run(plan: BridgePlan, *, progress: Progress, command: str) -> Summary:
    """Makes the pictures of a plan that are not there yet and returns what was done.

    Writes, in the plan's folder: run.json (with the codecs and the noise map), results.jsonl, one folder per method,
    comparison/, index.html, and noise_map.safetensors where a map was fitted. Raises as `runs.perform`.
    """
    worker = Worker.of_environment()
    plan, device_name = on_device(replace(plan, device=worker.device(plan.device)))

    def load(pending: Sequence[Task], journal: Journal) -> Make:
        note = journal.note
        warn_of_noise(plan, note)
        if (plan.height, plan.width) != (plan.weak_height, plan.weak_width):
            note(
                f"pictures are resized between the sides, antialiased: {plan.width}x{plan.height} strong, "
                f"{plan.weak_width}x{plan.weak_height} weak"
            )
        bridge = load_bridge(
            plan,
            (task.method for task in pending),
            (task.prompt for task in pending),
            note=note,
            tell=progress.note,
            map_file=journal.folder / NOISE_MAP,
            quiet=not progress.bars,
        )
        if bridge.chosen is not None and "noise_map" not in journal.run:
            note(bridge.chosen.sentence())
            spaces = spaces_of(plan, bridge.tiny[0] or bridge.strong.vae, bridge.tiny[1] or bridge.weak.vae)
            journal.amend(noise_map=bridge.chosen.description(), codecs=spaces.description())
        return one_by_one(bridge.make)

    return perform(run_plan(plan, command, device_name), load, worker=worker, progress=progress)


def run_plan(plan: BridgePlan, command: str, device_name: str) -> RunPlan:
    """Returns the plan as a run; its record has everything needed to repeat it."""
    return RunPlan(
        output=plan.output,
        record=_record(plan, command, device_name),
        groups=plan.groups(),
        methods=BRIDGE_METHODS,
        evaluations={method: plan.evaluations(method) for method in plan.methods},
        medium=video_medium(plan.fps) if plan.fps is not None else PICTURES,
    )


def fit(plan: BridgePlan, pictures: str | None, target: Path, *, progress: Progress) -> ChosenMap:
    """Fits the noise map of a plan's pair, to the pictures of a folder or to some that the strong model makes, and
    saves it at `target`.

    Raises:
        UserError: pictures that cannot be read, too few of them, or sides that cannot be used.
    """
    plan, _ = on_device(plan)
    batches = None if pictures is None else load_pictures(pictures, plan.height, plan.width)  # refused before loading
    spaces = load_spaces(plan)
    if spaces.one:
        raise UserError("both sides share one latent space, so no noise map is needed: they use identity")
    if batches is not None:
        return fitted_map(spaces, batches, target, f"fitted to {{count}} pictures of {pictures}")
    count = max(spaces.pictures_to_fit, plan.num_pictures)
    bridge = load_strong(plan, count, progress.note, quiet=not progress.bars)
    return fitted_map(spaces, bridge.pictures(count), target, "fitted to {count} pictures that the strong model made")


def _record(plan: BridgePlan, command: str, device_name: str) -> dict[str, Any]:
    return {
        "command": command,
        "preset": plan.preset,
        "pair": plan.pair_record(),
        "settings": plan.settings(),
        "methods": plan.methods,
        "prompts": plan.prompts,
        "seeds": list(range(plan.seed, plan.seed + plan.num_pictures)),
        "device": plan.device.partition(":")[0],
        "dtype": plan.dtype,
        "versions": library_versions(device_name),
    }
