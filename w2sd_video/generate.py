"""From a request to videos on disk: every method from the same noise, journalled, resumable, with a page to look at it
all.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2sd_video import __version__
from w2sd_video.comparison import Panel, panel_note, side_by_side
from w2sd_video.errors import UserError
from w2sd_video.journal import Journal, Record
from w2sd_video.page import Row, render_page
from w2sd_video.planning import plan
from w2sd_video.progress import Progress
from w2sd_video.request import METHODS, GenerationRequest, Plan, VideoTask
from w2sd_video.video_io import read_video, write_bytes, write_video

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from w2sd_video.adapters.loaded_pair import LoadedPair

__all__ = ["GenerationRequest", "Summary", "generate", "plan"]

PAGE_EVERY = 20.0  # seconds between rewritings of index.html during a run
_LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "numpy", "av", "pillow")


@dataclass
class Summary:
    """What a run came to. `made` and `failed` are the lines it added to results.jsonl, `kept` counts videos that were
    there already.
    """

    folder: Path
    total: int
    kept: int = 0
    made: list[Record] = field(default_factory=list)
    failed: list[Record] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        return self.kept + len(self.made) == self.total


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
    begin = time.perf_counter()
    done, device_name = on_device(done)
    groups = done.groups()
    try:
        with Journal(done.output, run_record(done, command, device_name), warn=progress.note) as journal:
            pending = [task for group in groups for task in group if not journal.finished(task.key)]
            summary = Summary(done.output, len(done.tasks()), kept=len(done.tasks()) - len(pending))
            pair = _load(done, pending, progress) if pending else None
            for group in groups:
                for task in group:
                    if not journal.finished(task.key):
                        assert pair is not None
                        _make(task, done, pair, journal, summary, progress)
                _compare(done, journal, group)
                _write_page(done, journal, every=PAGE_EVERY)
            _write_page(done, journal)
    finally:
        progress.close()
    summary.seconds = time.perf_counter() - begin
    return summary


def run_record(done: Plan, command: str, device_name: str) -> dict[str, Any]:
    """Returns run.json's content: everything needed to repeat the run."""
    return {
        "command": command,
        "preset": done.preset,
        "pair": done.pair_record(),
        "settings": done.settings(),
        "methods": done.methods,
        "prompts": done.prompts,
        "seeds": [done.seed + index for index in range(done.num_videos)],
        "device": done.device,
        "dtype": done.dtype,
        "versions": {**_versions(), "device": device_name},
    }


def on_device(done: Plan) -> tuple[Plan, str]:
    """Returns the plan with "auto" resolved, and the device's name; refuses what this machine has not."""
    import torch

    from w2sd_video.adapters.loading import choose_device, choose_dtype
    from w2sd_video.adapters.offload import check_offload

    device = choose_device(done.device)
    dtype = str(choose_dtype(done.dtype, device)).removeprefix("torch.")
    check_offload(done.offload, device)
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    return replace(done, device=device, dtype=dtype), name


def _load(done: Plan, pending: Sequence[VideoTask], progress: Progress) -> LoadedPair:
    """The pair, with all prompts encoded and the text encoders freed."""
    from w2sd_video.adapters.loading import load_pair
    from w2sd_video.rendering import compile_networks

    assert done.pair.strong.checkpoint is not None and done.pair.weak.checkpoint is not None
    pair = load_pair(
        done.pair.strong.checkpoint,
        done.pair.weak.checkpoint,
        done.motion_adapter,
        config=done.config,
        dtype=done.dtype,
        device=done.device,
        offload=done.offload,
        allow_pickle=done.allow_pickle,
        num_frames=done.num_frames,
        quiet=not progress.bars,
    )
    for note in pair.report.notes:
        progress.note(note)
    for task in pending:
        pair.encode(task.prompt, done.negative_prompt)
    pair.free_text_encoders()
    if done.compile:
        compile_networks(pair)
    progress.started(sum(done.evaluations(task.method) for task in pending), len(pending))
    return pair


def _make(
    task: VideoTask, done: Plan, pair: LoadedPair, journal: Journal, summary: Summary, progress: Progress
) -> None:
    progress.making(task.path)
    record = _made(task, done, pair, progress)
    journal.append(record)
    (summary.made if record["status"] == "done" else summary.failed).append(record)
    progress.finished(record)


def _made(task: VideoTask, done: Plan, pair: LoadedPair, progress: Progress) -> Record:
    """The video written, as its line of results.jsonl; or the line that says why it failed."""
    from w2sd_video.adapters.finite import NonFiniteLatentError
    from w2sd_video.rendering import render

    behind = 0

    def report(count: int, total: int) -> None:
        nonlocal behind
        progress.evaluated(count - behind)
        behind = count

    record: Record = {
        "method": task.method,
        "prompt": task.prompt,
        "index": task.index,
        "seed": task.seed,
        "path": task.path,
    }
    inputs = pair.encode(task.prompt, done.negative_prompt)
    try:
        rendered = render(pair, done, task.method, inputs, task.seed, report)
    except NonFiniteLatentError as error:
        progress.evaluated(done.evaluations(task.method) - behind)
        return {**record, "path": None, "status": "failed", "reason": str(error)}
    path = done.output / task.path
    path.parent.mkdir(exist_ok=True)
    write_video(path, rendered.frames, done.fps, video_settings(done, task))
    return {
        **record,
        "frames": len(rendered.frames),
        "fps": done.fps,
        "num_evaluations": rendered.num_evaluations,
        "num_forwards": rendered.num_forwards,
        "num_rows": rendered.num_rows,
        "seconds": round(rendered.seconds, 3),
        "peak_memory_mb": round(rendered.peak_memory_mb, 1),
        "status": "done",
    }


def video_settings(done: Plan, task: VideoTask) -> dict[str, Any]:
    """Returns what goes into a video file: enough to make it again; no times, so that making it again gives the same
    bytes.
    """
    return {
        "generator": f"w2sd-video {__version__}",
        "method": task.method,
        "prompt": task.prompt,
        "index": task.index,
        "seed": task.seed,
        **{name: value for name, value in done.settings().items() if name not in ("seed", "num_videos")},
        "pair": done.pair_record(),
        "device": done.device,
        "dtype": done.dtype,
    }


def _compare(done: Plan, journal: Journal, group: Sequence[VideoTask]) -> None:
    """Writes the comparison of one prompt and index unless it is there and newer than all its videos."""
    finished = [task for task in group if journal.finished(task.key)]
    path = done.output / _comparison_path(group[0])
    if len(group) < 2 or not finished:
        return
    newest = max((done.output / task.path).stat().st_mtime_ns for task in finished)
    if path.exists() and path.stat().st_mtime_ns >= newest:
        return
    panels = []
    for task in group:
        # Read back, so that the comparison is the same whether its videos were made now or by a run that was stopped.
        frames = _read_back(done.output / task.path) if task in finished else None
        panels.append(Panel(METHODS[task.method].title, panel_note(journal.records.get(task.key, {})), frames))
    path.parent.mkdir(exist_ok=True)
    settings = {"prompt": group[0].prompt, "index": group[0].index, "seed": group[0].seed, "methods": done.methods}
    write_video(path, side_by_side(panels), done.fps, settings)


def _read_back(path: Path) -> NDArray[np.uint8]:
    try:
        return read_video(path).frames
    except UserError as error:
        raise UserError(f"{error}; delete it and the same command makes it again") from None


def _write_page(done: Plan, journal: Journal, every: float = 0.0) -> None:
    """Writes index.html, unless it was written within the last `every` seconds."""
    page = done.output / "index.html"
    if every and page.exists() and time.time() - page.stat().st_mtime < every:
        return
    rows = []
    for group in done.groups():
        records = {task.method: journal.records[task.key] for task in group if task.key in journal.records}
        comparison = _comparison_path(group[0])
        there = (done.output / comparison).exists()
        rows.append(Row(group[0].prompt, group[0].index, records, comparison if there else None))
    write_bytes(page, render_page(journal.run, rows, len(done.tasks())).encode("utf-8"))


def _comparison_path(task: VideoTask) -> str:
    return f"comparison/{task.name}.mp4"


def _versions() -> dict[str, str]:
    versions = {"w2sd-video": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    return versions
