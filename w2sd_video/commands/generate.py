"""From a request to videos on disk: every method from the same noise, journalled, resumable, with a page to look at it
all.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from w2sd_video.commands.method_settings import reflected_steps
from w2sd_video.commands.planning import plan
from w2sd_video.commands.request import GenerationRequest, Plan
from w2sd_video.commands.rewards import Reward, RewardFailedError, load_reward, reward_record
from w2sd_video.runs.fellows import Worker
from w2sd_video.runs.journal import Journal
from w2sd_video.runs.progress import Progress
from w2sd_video.runs.runs import (
    Made,
    Make,
    NotMadeError,
    Report,
    RunPlan,
    Summary,
    library_versions,
    one_by_one,
    perform,
)
from w2sd_video.runs.tasks import METHODS, SELECTING, Medium, Task
from w2sd_video.runs.video_io import read_video, write_video

if TYPE_CHECKING:
    from w2sd_video.loading.pairs import LoadedPair, PromptInputs

__all__ = ["GenerationRequest", "Summary", "generate", "plan"]


def generate(request: GenerationRequest | Plan, *, progress: Progress | None = None, command: str = "") -> Summary:
    """Makes the videos asked for and returns what was done; videos that the folder already holds are kept.

    Writes, in the folder of the request: run.json, results.jsonl, one folder per method with "<prompt>-<index>.mp4",
    comparison/ (with two methods or more) and index.html. A video's initial noise comes from a CPU generator of its
    own seeded `seed + index`, `index` being its number within its prompt: the same for every method, whatever else is
    made. A video whose latent becomes non-finite is recorded with status "failed" and the reason, and the others go
    on. Stopped at any moment, the same call finishes the set.

    Raises UserError for what cannot be used or a folder that holds another run, OSError if the disk refuses (nothing
    finished is lost).
    """
    done = request if isinstance(request, Plan) else plan(request)
    progress = progress or Progress()
    worker = Worker.of_environment()
    done, device_name = on_device(replace(done, device=worker.device(done.device)))

    def load(pending: Sequence[Task], journal: Journal) -> Make:
        reward = None
        if done.reward is not None and any(task.method == SELECTING for task in pending):
            reward = load_reward(done.reward, device=done.device, allow_pickle=done.allow_pickle)
        pair = load_planned(done, pending, progress)
        return one_by_one(lambda task, report: _make(task, done, pair, report, reward))

    return perform(run_plan(done, command, device_name), load, worker=worker, progress=progress)


def run_plan(done: Plan, command: str, device_name: str) -> RunPlan:
    """Returns the plan as a run; its record has everything needed to repeat it."""
    return RunPlan(
        output=done.output,
        record={
            "command": command,
            "preset": done.preset,
            "pair": done.pair_record(),
            "settings": done.settings(),
            "methods": done.methods,
            "prompts": done.prompts,
            "seeds": [done.seed + index for index in range(done.num_videos)],
            "device": done.device.partition(":")[0],  # which of several accelerators is no matter
            "dtype": done.dtype,
            **reward_record(done.reward),
            "versions": library_versions(device_name),
        },
        groups=done.groups(),
        methods=METHODS,
        evaluations={method: done.evaluations(method) for method in done.methods},
        medium=video_medium(done.fps),
        reflected_steps=reflected_steps(done.reflection, done.steps),
    )


def video_medium(fps: float) -> Medium:
    """Returns how videos of this rate become files: each in the format its path says, comparisons as mp4."""
    return Medium(
        "video",
        ".mp4",
        write=lambda path, frames, settings: write_video(path, frames, fps, settings),
        read=lambda path: read_video(path).frames,
        fps=fps,
    )


def on_device(done: Plan) -> tuple[Plan, str]:
    """Returns the plan with "auto" resolved, and the device's name; refuses what this machine has not."""
    import torch

    from w2sd_video.loading.memory import memory_plan
    from w2sd_video.loading.placement import choose_device, choose_dtype

    device = choose_device(done.device)
    dtype = str(choose_dtype(done.dtype, device)).removeprefix("torch.")
    memory_plan(done.offload, device)
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    return replace(done, device=device, dtype=dtype), name


def load_planned(done: Plan, pending: Sequence[Task], progress: Progress) -> LoadedPair:
    """Returns the pair of a plan, with the prompts of `pending` encoded and the text encoders freed."""
    from w2sd_video.commands.rendering import compile_networks
    from w2sd_video.loading.pairs import load_pair

    assert done.pair.strong.checkpoint is not None and done.pair.weak.checkpoint is not None
    pair = load_pair(
        done.pair.strong.checkpoint,
        done.pair.weak.checkpoint,
        done.motion_adapter,
        config=done.config,
        dtype=done.dtype,
        device=done.device,
        memory=done.offload,
        placed=False,
        allow_pickle=done.allow_pickle,
        num_frames=done.num_frames,
        quiet=not progress.bars,
    )
    for note in pair.report.notes:
        progress.note(note)
    if done.scheduler is not None:
        from w2sd_video.loading.pipelines import chosen_scheduler

        for role, side in (("strong", pair.pipe), ("weak", pair.weak)):
            if side is not pair.weak_unet:
                side.scheduler = chosen_scheduler(side.scheduler, done.scheduler, role)
    if strong := {name: done.lora_sources[name] for name, _ in done.loras_of("strong")}:
        from w2sd_video.loading.loras import load_loras, use_loras

        loras = load_loras(pair.pipe, strong)
        if loras.with_text and pair.weak is pair.weak_unet:
            progress.note(f"LoRA {', '.join(loras.with_text)} acts on the text encoders, whose prompts both sides have")
        use_loras(pair.pipe, done.loras_of("strong"))
    for task in pending:
        encoded_prompt(pair, done, task.prompt)
    pair.free_text_encoders()
    if weak := {name: done.lora_sources[name] for name, _ in done.loras_of("weak")}:
        pair.load_weak_loras(weak, done.loras_of("weak"))
    if done.compile:
        compile_networks(pair)
    return pair


def encoded_prompt(pair: LoadedPair, done: Plan, prompt: str) -> PromptInputs:
    return pair.encode(
        prompt,
        done.negative_prompt,
        weak_prompt=done.raw_prompts.get(prompt),
        weak_negative_prompt=done.pair.weak.negative_prompt,
    )


def _make(task: Task, done: Plan, pair: LoadedPair, report: Report, reward: Reward | None) -> Made:
    """One video and its cost."""
    from w2sd_video.commands.rendering import render
    from w2sd_video.hosting.finite import NonFiniteLatentError

    inputs = encoded_prompt(pair, done, task.prompt)
    selection = done.reward.selection(reward, task.prompt) if done.reward is not None and reward is not None else None
    try:
        rendered = render(pair, done, task.method, inputs, task.seed, report, selection=selection)
    except (NonFiniteLatentError, RewardFailedError) as error:
        raise NotMadeError(str(error)) from error
    return Made(
        frames=rendered.frames,
        num_evaluations=rendered.num_evaluations,
        num_forwards=rendered.num_forwards,
        num_rows=rendered.num_rows,
        seconds=rendered.seconds,
        peak_memory_mb=rendered.peak_memory_mb,
        choices=rendered.choices,
    )
