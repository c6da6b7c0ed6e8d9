"""Several processes started by `accelerate launch` (or torchrun) as workers of one run."""

from __future__ import annotations

import os
from datetime import timedelta

from w2sd_video.runs.batched_runs import Worker

PATIENCE = timedelta(days=7)  # shares may differ in cost by as much as a batch, and the first one may merge for long


def process_number() -> int:
    """This process's number among those that were started together, 0 where there is one (imports nothing)."""
    return int(os.environ.get("RANK", "0")) if process_count() > 1 else 0


def process_count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def join(device: str) -> tuple[Worker, str]:
    """This process as a worker, and the device it is to use: of several accelerators its own."""
    if process_count() == 1:
        return Worker(), device
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu", timeout=PATIENCE)
    own = str(state.device) if device in ("auto", "cuda") else device
    return Worker(state.process_index, state.num_processes, state.wait_for_everyone), own
