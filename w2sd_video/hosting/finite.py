"""Watching latents for NaN and infinity without making the host wait for the device."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor

from w2sd_video.errors import UserError


class NonFiniteLatentError(UserError):
    """A latent became NaN or infinite: `step` counts from 1, `where` says in which part of the step."""

    def __init__(self, step: int, num_steps: int, where: str, cause: str) -> None:
        super().__init__(f"the latent is not finite after {where} of step {step} of {num_steps}; {cause}")
        self.step = step
        self.where = where


class FiniteWatch:
    """Collects one flag per latent and reads those that have arrived: on a GPU some steps late, on a CPU at once."""

    def __init__(self, num_steps: int, cause: str) -> None:
        self._num_steps = num_steps
        self._cause = cause
        self._pending: deque[tuple[int, str, Tensor, Any]] = deque()

    def add(self, step: int, where: str, x: Tensor) -> None:
        """Notes whether `x`, made in step `step` (from 0), is finite; raises for one noted earlier that was not."""
        flag = x.isfinite().all()
        arrival = None
        if flag.is_cuda:
            host = torch.empty((), dtype=torch.bool, pin_memory=True)
            host.copy_(flag, non_blocking=True)
            flag, arrival = host, torch.cuda.Event()
            arrival.record()
        self._pending.append((step, where, flag, arrival))
        if x.device.type in ("cpu", "cuda"):
            self._read(wait=False)

    def finish(self) -> None:
        """Reads every flag that is left; raises `NonFiniteLatentError` for the first latent that was not finite."""
        self._read(wait=True)

    def _read(self, wait: bool) -> None:
        while self._pending:
            step, where, flag, arrival = self._pending[0]
            if arrival is not None and not arrival.query():
                if not wait:
                    return
                arrival.synchronize()
            self._pending.popleft()
            if not flag.cpu().numpy():
                raise NonFiniteLatentError(step + 1, self._num_steps, where, self._cause)


def likely_cause(dtype: torch.dtype) -> str:
    """Returns what to try, for a network that runs in `dtype`."""
    if dtype == torch.float16:
        return "float16 overflows in many networks: use bfloat16 or float32, or a lower guidance"
    return (
        "try a lower guidance (a negative weak guidance can diverge), fewer reflections, or check the network's weights"
    )
