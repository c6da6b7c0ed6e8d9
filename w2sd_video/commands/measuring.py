"""What one pipeline call makes and costs: its frames, its sound, and its part of a batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from w2sd_video.hosting import NonFiniteLatentError
from w2sd_video.latents.vaes import cause_of_nan
from w2sd_video.loading.placement import peak_memory
from w2sd_video.runs.runs import Made, Report
from w2sd_video.runs.tasks import Sound


def frames_of(output: Any) -> Any:
    """Returns the frames [F, H, W, 3] in [0, 1] of a pipeline's output of type "np", of which a picture has one; those
    of a batch one after the other.
    """
    if hasattr(output, "frames"):
        return np.concatenate(output.frames)
    return np.asarray(output.image if hasattr(output, "image") else output.images)  # the first is Kandinsky's


def sound_of(output: Any, pipe: Any) -> Sound | None:
    """Returns the sound that a pipeline makes beside its frames, of the first video; None for most."""
    waves, vocoder = getattr(output, "audio", None), getattr(pipe, "vocoder", None)
    if waves is None or vocoder is None:
        return None
    samples = waves[0].detach().float().cpu().numpy()
    return Sound(samples, int(vocoder.config.output_sampling_rate))


def measured(
    hosted: AbstractContextManager[Any],
    call: Callable[[], Any],
    *,
    device: str,
    dtype: str,
    steps: int,
    counts: Iterable[str] = (),
) -> tuple[Made, Any]:
    """Returns what `call` makes inside `hosted`, with what it cost, and the run that `hosted` counts in.

    `call` returns frames [F, H, W, 3] in [0, 1], or these and their sound; `counts` are more of the run's
    counts to take over.

    Raises:
        NonFiniteLatentError: the frames are not finite.
    """
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    begin = time.perf_counter()
    with hosted as run:
        called = call()
    frames, sound = called if isinstance(called, tuple) else (called, None)
    seconds = time.perf_counter() - begin
    if not np.isfinite(frames).all():
        raise NonFiniteLatentError(steps, steps, "the decoding that follows", cause_of_nan(str(dtype)))
    made = Made(
        frames=np.rint(frames.clip(0, 1) * 255).astype(np.uint8),
        num_evaluations=run.num_evaluations,
        num_forwards=run.num_forwards,
        num_rows=run.num_rows,
        seconds=seconds,
        peak_memory_mb=torch.cuda.max_memory_allocated(device) / 2**20 if cuda else peak_memory(),
        counts={name: getattr(run, name) for name in counts},
        sound=sound,
    )
    return made, run


def part_of(report: Report, number: int, count: int) -> Report:
    """Returns the report of one of `count` things that are made one after the other, where a batch is reported."""
    return lambda done, total: report((number * total + done) // count, total)
