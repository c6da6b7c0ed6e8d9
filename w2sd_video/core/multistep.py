"""DPM-Solver++(2M): main steps of second order from two clean estimates (Lu et al. 2022, arXiv 2211.01095, Alg. 2)."""

from __future__ import annotations

from typing import NamedTuple, final

import torch
from torch import Tensor

from w2sd_video.core.levels import Level
from w2sd_video.core.paths import Path


class Past(NamedTuple):
    """The clean estimate of the main step before, and the level it was made at."""

    level: Level
    clean: Tensor


def second_order_step(x: Tensor, clean: Tensor, start: Level, end: Level, before: Past) -> Tensor:
    """Move ``x`` from ``start`` to ``end`` along the clean estimate extrapolated to the middle of the interval.

    Alg. 2 lines 5 and 6 with h the interval in log(alpha / sigma) and r = h_before / h:
    ``x_end = sigma_end / sigma_start * x - alpha_end * (exp(-h) - 1) * D``, ``D = clean + (clean - before) / (2 r)``.

    Args:
        x: latent at ``start``, any shape, on either path.
        clean: its clean estimate, the same shape.
        start, end: two levels that both keep noise.
        before: of the step before, at a noisier level than ``start`` (pure noise leaves the step at first order).
    """
    half = (end.log_snr - start.log_snr) / (2.0 * (start.log_snr - before.level.log_snr))
    keep = end.sigma / start.sigma
    estimate = torch.add(clean, clean - before.clean, alpha=half)
    return torch.add(x * keep, estimate, alpha=end.alpha - start.alpha * keep)


@final
class Multistep:
    """The main steps of one sampling run; the first, one to clean data and those asked for are of first order.

    It knows main steps only: a reflection moves the latent beside it, with steps of first order of its own, and the
    estimate remembered is that at the reflected latent. Make a new one for each run.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before: Past | None = None

    def __call__(self, x: Tensor, prediction: Tensor, start: Level, end: Level, *, order: int = 2) -> Tensor:
        """Move ``x`` from ``start`` to ``end`` by the native prediction; ``order`` is 1 or 2."""
        now = Past(start, self._path.clean(x, prediction, start))
        before, self._before = self._before, now
        if before is None or end.sigma == 0 or order == 1:
            return self._path.step(x, prediction, start, end)
        return second_order_step(x, now.clean, start, end, before)
