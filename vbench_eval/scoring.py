"""Scores videos: a folder, journalled and resumable, on one process or many; or frames straight from a pipeline.

report = score_folder("outputs/demo/w2sd", dimensions="all", output="scores")
values = evaluate_frames(pipe(prompt).frames[0], fps=8, dimensions=["temporal_flickering"])
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbench_eval.dimensions import asked_text
from vbench_eval.errors import UserError
from vbench_eval.inputs import Inputs, InputVideo, find_inputs
from vbench_eval.journal import Entry, Journal, VideoKey, merged, read_entries
from vbench_eval.preflight import formats, frozen, look_at, repeats, warnings
from vbench_eval.profiles import get_profile
from vbench_eval.progress import Progress
from vbench_eval.results import VideoRecord, Written, check_name, write_results
from vbench_eval.settings import ScoringSettings
from vbench_eval.video_info import About
from vbench_eval.workers import Died, Launch, in_processes, in_turn, launched, set_threads, together

if TYPE_CHECKING:
    from vbench_eval.selection import Selection

JOURNAL_SUFFIX = "_journal"


@dataclass(frozen=True)
class Task:
    """One video to decode, and the dimensions it still lacks."""

    path: str
    key: VideoKey
    dimensions: tuple[str, ...]
    about: About


class Scorer:
    """Turns tasks into journal entries; made once per process, since it holds the backbones."""

    def __init__(self, selection: Selection, chunk_bytes: int) -> None:
        self.selection, self._chunk_bytes = selection, chunk_bytes
        self._fingerprints = selection.fingerprints

    def __call__(self, task: Task) -> Entry:
        from vbench_eval.one_pass import measure
        from vbench_eval.videos import VideoError, open_video

        wanted = {name: self.selection.dimensions[name] for name in task.dimensions}
        try:
            result = measure(open_video(Path(task.path)), wanted, about=task.about, chunk_bytes=self._chunk_bytes)
        except (VideoError, OSError) as error:
            return Entry(task.key, {}, {}, {}, str(error))
        prints = {name: self._fingerprints[name] for name in result.measured}
        return Entry(task.key, prints, result.info, result.measured, result.error, result.failed)


def make_scorer(settings: ScoringSettings, number: int = 0) -> Scorer:
    """Returns a scorer for process `number` of one machine: of several equal GPUs each process takes the next."""
    from vbench_eval.selection import find_device, select

    device = find_device(settings.device)
    if device == "cuda":
        import torch

        device = f"cuda:{number % torch.cuda.device_count()}"
    return Scorer(select(settings.on(device)), settings.chunk_bytes)


def score_folder(
    folder: str | Path,
    *,
    dimensions: str | Sequence[str] = "all",
    profile: str = "vbench",
    output: str | Path = "evaluation_results",
    name: str | None = None,
    manifest: str | Path | None = None,
    prompt_file: str | Path | None = None,
    suite: str | Path | None = None,
    mode: str = "custom_input",
    category: str | None = None,
    image_folder: str | Path | None = None,
    workers: int = 1,
    require_complete: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Written | None:
    """Scores every video of a folder and writes the three result files; returns them and the report.

    `settings` are those of `ScoringSettings` (backbones, device, dtype, allow_proxy, ...). Each finished video is on
    the disk, in the folder `{name}_journal` in `output`: stopped at any moment, the same call goes on from there, and
    a call with more dimensions measures only those. Where `accelerate launch` or `torchrun` started several processes,
    they share the videos; the first writes the files and the others return None.

    Raises UserError for what cannot be used, before anything heavy is loaded where it can be told before.
    """
    asked = ScoringSettings(
        dimensions=tuple([dimensions] if isinstance(dimensions, str) else dimensions), profile=profile, **settings
    )
    inputs = find_inputs(
        folder,
        manifest=manifest,
        prompt_file=prompt_file,
        suite=suite,
        mode=mode,
        category=category,
        image_folder=image_folder,
        dimensions=asked.dimensions,
    )
    return score_inputs(
        inputs,
        asked,
        output=Path(output),
        name=name,
        workers=workers,
        require_complete=require_complete,
        progress=progress,
    )


def score_inputs(
    inputs: Inputs,
    settings: ScoringSettings,
    *,
    output: Path,
    name: str | None = None,
    workers: int = 1,
    require_complete: bool = False,
    progress: Progress | None = None,
) -> Written | None:
    """Does what `score_folder` says, for inputs that are found already."""
    name = check_name(name or inputs.default_name)
    refuse_other_folder(output, name, inputs.folder)
    if require_complete and (gap := inputs.incomplete()):
        raise UserError(f"{gap}; make the missing videos, or leave out --require-complete")
    if workers < 1:
        raise UserError(f"workers is {workers}; it must be at least 1")
    launch = launched()
    if launch is not None and workers > 1:
        raise UserError("--workers and a launcher of several processes cannot be combined; use one of them")
    progress = progress if progress is not None and (launch is None or launch.first) else Progress()
    with together(launch) as meet:
        return _score(inputs, settings, output, name, _Processes(workers, launch, meet), progress)


@dataclass(frozen=True)
class _Processes:
    workers: int
    launch: Launch | None
    meet: Callable[[], None]


def _score(
    inputs: Inputs, settings: ScoringSettings, output: Path, name: str, processes: _Processes, progress: Progress
) -> Written | None:
    launch = processes.launch
    folder = output / f"{name}{JOURNAL_SUFFIX}"
    # Held before anything is loaded: a folder that cannot be written, or is written to by another run, is refused now.
    with Journal(folder, writer=f"{launch.rank if launch else 0}") as journal:
        looked = look_at(inputs.paths)
        notes = [*inputs.notes, *warnings(looked, dimensions=settings.dimensions), *repeats(inputs.paths)]
        for note in notes:
            progress.note(note)
        if launch is not None:
            set_threads(launch.size)
        scorer: Scorer | None
        selection = (scorer := make_scorer(settings, launch.local_rank if launch else 0)).selection
        if processes.workers > 1:  # each has backbones of its own: those of this process would only take memory
            scorer, selection = None, selection.without_backbones()
        if selection.unavailable:
            progress.note(f"unavailable, for want of weights: {', '.join(selection.unavailable)}; see the verb doctor")
        tasks = _pending(inputs, selection, _done(inputs, folder, selection))
        processes.meet()  # nobody adds to the journals before everyone has read the same
        progress.started(len(tasks), len(inputs.videos) - len(tasks))
        try:
            with closing(_results(tasks, scorer, settings, processes)) as results:
                for task, result in results:
                    entry = Entry(task.key, {}, {}, {}, result.reason) if isinstance(result, Died) else result
                    journal.append(entry)
                    progress.finished(task.key.path, entry.error)
        finally:
            progress.close()
    processes.meet()
    if launch is not None and not launch.first:
        return None
    done = _done(inputs, folder, selection)
    return _report(inputs, settings, selection, done, output, name, notes)


def _results(
    tasks: list[Task], scorer: Scorer | None, settings: ScoringSettings, processes: _Processes
) -> Generator[tuple[Task, Entry | Died]]:
    if scorer is None:
        return in_processes(tasks, functools.partial(make_scorer, settings), processes.workers)
    return in_turn(processes.launch.share(tasks) if processes.launch is not None else tasks, scorer)


def _done(inputs: Inputs, folder: Path, selection: Selection) -> dict[VideoKey, Entry]:
    """What the journals hold by these settings, without what was asked of a video in other words than now."""
    found = merged(read_entries(folder), selection.fingerprints)
    for video in inputs.videos:
        if (entry := found.get(video.key)) is not None:
            kept = {
                name: values
                for name, values in entry.measured.items()
                if values["extras"].get("text") in (None, asked_text(name, video.about))
            }
            found[video.key] = replace(entry, measured=kept)
    return found


def _unasked(entry: Entry, video: InputVideo) -> set[str]:
    """What has no value because nobody said what the video is meant to show, which somebody says now."""
    return {
        name
        for name, values in entry.measured.items()
        if values["value"] is None and "text" not in values["extras"] and asked_text(name, video.about) is not None
    }


def _pending(inputs: Inputs, selection: Selection, done: Mapping[VideoKey, Entry]) -> list[Task]:
    """The videos that lack something, with what they lack. A video that could not be read is tried again."""
    tasks = []
    for video in inputs.videos:
        before = done.get(video.key)
        finished = set(before.measured) - set(before.retry) - _unasked(before, video) if before is not None else set()
        lacking = tuple(name for name in selection.names if inputs.wants(video, name) and name not in finished)
        if lacking:
            tasks.append(Task(str(video.path), video.key, lacking, video.about))
    return tasks


def _report(
    inputs: Inputs,
    settings: ScoringSettings,
    selection: Selection,
    done: Mapping[VideoKey, Entry],
    output: Path,
    name: str,
    notes: list[str],
) -> Written:
    records = []
    for video in inputs.videos:
        entry = done.get(video.key, Entry(video.key, {}, {}, {}, "it was not scored"))
        measured = {key: entry.measured[key] for key in selection.names if key in entry.measured}
        records.append(
            VideoRecord(
                path=video.key.path,
                prompt=video.prompt,
                index=video.index,
                info=entry.info,
                measured={**measured, **_standing_in(measured, selection.stand_ins)},
                error=entry.error,
                generation=video.generation,
            )
        )
    stills = {record.path: record.measured.get("frozen_frames", {}) for record in records}
    return write_results(
        output,
        name,
        records,
        dimensions={**{key: {} for key in settings.dimensions}, **selection.described},
        stamp={**selection.stamp, "formats": formats(record.info for record in records)},
        videos_path=inputs.folder,
        mode=inputs.mode,
        manifest=inputs.manifest,
        notes=[*notes, *frozen(stills)],
        completeness=inputs.completeness,
    )


def _standing_in(measured: Mapping[str, Mapping[str, Any]], stand_ins: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The proxies' values under the official names that the user allowed them for, each marked as what it is."""
    return {
        official: {**measured[proxy], "extras": {**measured[proxy]["extras"], "backbone": f"proxy:{proxy}"}}
        for official, proxy in stand_ins.items()
        if proxy in measured
    }


def refuse_other_folder(output: Path, name: str, folder: Path) -> None:
    """Raises UserError if `output` holds scores of that name for another folder, which would be replaced."""
    from vbench_eval.results import REPORT_SUFFIX, read_report

    path = output / f"{name}{REPORT_SUFFIX}"
    if not path.exists():
        return
    before = read_report(path).get("folder")
    if before is not None and os.path.realpath(before) != os.path.realpath(folder):
        raise UserError(f"{path} holds the scores of {before}; give --name or --output another value for {folder}")


def evaluate_frames(
    frames: Any,
    fps: float = 8.0,
    dimensions: str | Iterable[str] = "all",
    *,
    profile: str = "vbench",
    name: str = "",
    prompt: str | None = None,
    words: Mapping[str, Any] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Scores one video that is in memory, so that no codec touches it, and returns what a report says of a video.

    `frames` are PIL images, or an array or tensor `[T, H, W, 3]`, uint8 or floats in 0..1. The dict has "measured"
    ({dimension: {"value", "score", "reason", ...}}), "unavailable" ({dimension: reason}), "info", "error" and "stamp".
    `prompt`, and `words` of the prompt suite by dimension, are what the dimensions of meaning ask for. `settings` are
    those of `ScoringSettings`. Raises UserError for what cannot be used.
    """
    from vbench_eval.one_pass import measure
    from vbench_eval.videos import FramesInMemory

    asked = ScoringSettings(
        dimensions=tuple([dimensions] if isinstance(dimensions, str) else dimensions), profile=profile, **settings
    )
    video = FramesInMemory(frames, fps=fps, name=name)
    selection = make_scorer(asked).selection
    about = About(prompt, words or {})
    result = measure(video, selection.dimensions, about=about, chunk_bytes=asked.chunk_bytes)
    return {
        "measured": {**result.measured, **_standing_in(result.measured, selection.stand_ins)},
        "unavailable": selection.unavailable,
        "info": result.info,
        "error": result.error,
        "stamp": dict(selection.stamp),
        "profile": get_profile(profile).name,
    }
