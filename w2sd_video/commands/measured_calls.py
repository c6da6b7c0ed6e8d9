"""One pipeline call that makes a picture or a video: its frames, checked, and what it cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from w2sd_video.commands.rendering import peak_memory
from w2sd_video.hosting.finite import NonFiniteLatentError
from w2sd_video.runs.runs import Made


def frames_of(output: Any) -> Any:
    """Returns the frames [F, H, W, 3] in [0, 1] of a pipeline's output of type "np", of which a picture has one."""
    return np.asarray(output.frames)[0] if hasattr(output, "frames") else np.asarray(output.images)


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

    `call` returns frames [F, H, W, 3] in [0, 1]; `counts` are more of the run's counts to take over.

    Raises:
        NonFiniteLatentError: the frames are not finite.
    """
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    begin = time.perf_counter()
    with hosted as run:
        frames = call()
    seconds = time.perf_counter() - begin
    if not np.isfinite(frames).all():
        raise NonFiniteLatentError(
            steps, steps, "the decoding that follows", f"the VAE overflows in {dtype}: use float32"
        )
    made = Made(
        frames=np.rint(frames.clip(0, 1) * 255).astype(np.uint8),
        num_evaluations=run.num_evaluations,
        num_forwards=run.num_forwards,
        num_rows=run.num_rows,
        seconds=seconds,
        peak_memory_mb=torch.cuda.max_memory_allocated(device) / 2**20 if cuda else peak_memory(),
        counts={name: getattr(run, name) for name in counts},
    )
    return made, run
