"""Solvers: how a sampling step moves the latent, given the prediction. Their state is passed in and returned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, final

import torch
from torch import Tensor

from w2sd_video.core.levels import Level
from w2sd_video.core.paths import Path


class Solver(Protocol):
    """What `sample` needs of a solver: the state before the first step, and a step as (latent at ``end``, state)."""

    def init(self) -> Any: ...

    def step(self, x: Tensor, prediction: Tensor, start: Level, end: Level, state: Any) -> tuple[Tensor, Any]: ...


@final
@dataclass(frozen=True)
class Euler:
    """First order: the path's own step. DDIM on a noise path, Euler on a flow path."""

    path: Path

    def init(self) -> None:
        return None

    def step(self, x: Tensor, prediction: Tensor, start: Level, end: Level, state: None) -> tuple[Tensor, None]:
        """Move ``x`` from ``start`` to ``end`` along the native prediction."""
        return self.path.step(x, prediction, start, end), None


class Past(NamedTuple):
    """The clean estimate of the sampling step before, and the level it was made at."""

    level: Level
    clean: Tensor


@final
@dataclass(frozen=True)
class DPMSolverMultistep:
    """Second order from two clean estimates: DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, Alg. 2).

    The first step, one to clean data and those whose entry in ``orders`` is 1 are of first order. The state is how many
    steps were made, and the `Past` of the last: a reflection moves the latent beside it, by first-order steps of its
    own, and the estimate remembered is that at the reflected latent.

    Attributes:
        path: what the predictions mean.
        orders: of each step, 1 or 2; None for 2 throughout.
    """

    path: Path
    orders: Sequence[int] | None = None

    def init(self) -> tuple[int, Past | None]:
        return 0, None

    def step(
        self, x: Tensor, prediction: Tensor, start: Level, end: Level, state: tuple[int, Past | None]
    ) -> tuple[Tensor, tuple[int, Past | None]]:
        """Move ``x`` from ``start`` to ``end`` by the native prediction."""
        i, before = state
        now = Past(start, self.path.clean(x, prediction, start))
        first_order = before is None or end.sigma == 0 or (self.orders is not None and self.orders[i] == 1)
        if before is None or first_order:
            return self.path.step(x, prediction, start, end), (i + 1, now)
        return second_order_step(x, now.clean, start, end, before), (i + 1, now)


class Trail(NamedTuple):
    """What `UniPC` remembers of a step: where it started, what it predicted from there, and the `Past` steps used."""

    started: Tensor
    predicted: Tensor
    now: Past
    before: Past | None


@final
@dataclass(frozen=True)
class UniPC:
    """Predictor and corrector of order 1 or 2 from clean estimates: UniPC (Zhao et al. 2023, arXiv 2302.04867).

    Each prediction first corrects the step that led to its latent, then makes the next one (Alg. 1 of that paper,
    UniPC-p with B(h)). The correction is added to the latent, so that it leaves a reflection's move as it is; where no
    reflection was made, that is the paper's own step.

    Attributes:
        path: what the predictions mean.
        orders: of each step's predictor; its corrector, made at the next step, is of the same.
        corrected: whether each step begins with a correction.
        exponential: B(h) = exp(h) - 1 (`bh2`), else h (`bh1`).
    """

    path: Path
    orders: Sequence[int]
    corrected: Sequence[bool]
    exponential: bool = True

    def init(self) -> tuple[int, Trail | None]:
        return 0, None

    def step(
        self, x: Tensor, prediction: Tensor, start: Level, end: Level, state: tuple[int, Trail | None]
    ) -> tuple[Tensor, tuple[int, Trail | None]]:
        """Move ``x`` from ``start`` to ``end`` by the native prediction."""
        i, trail = state
        now = Past(start, self.path.clean(x, prediction, start))
        if trail is not None and self.corrected[i]:
            x = x + (self._corrected(trail, now, self.orders[i - 1]) - trail.predicted)
        before = None if trail is None or self.orders[i] == 1 else trail.now
        if end.sigma == 0:
            predicted = now.clean * end.alpha
        else:
            predicted = self._moved(x, now, end, [] if before is None else [(0.5, before)])
        return predicted, (i + 1, Trail(x, predicted, now, before))

    def _corrected(self, trail: Trail, now: Past, order: int) -> Tensor:
        """The latent at `now` as the step that led there makes it with the estimate found there."""
        if trail.before is None or order == 1:
            return self._moved(trail.started, trail.now, now.level, [(0.5, now)])
        minus_h = (trail.now.level.log_snr - now.level.log_snr) / 2
        share = (trail.before.level.log_snr - trail.now.level.log_snr) / (-2 * minus_h)
        first = math.expm1(minus_h)
        scale = first if self.exponential else minus_h
        second = first / minus_h - 1.0
        third = second / minus_h - 0.5
        one, two = second / scale, 2.0 * third / scale
        weight = (one - two) / (1.0 - share)
        return self._moved(trail.started, trail.now, now.level, [(weight, trail.before), (one - weight, now)])

    def _moved(self, x: Tensor, now: Past, end: Level, others: Sequence[tuple[float, Past]]) -> Tensor:
        """`x` from `now` to `end`, with the slopes to other estimates so weighed."""
        start = now.level
        h = (end.log_snr - start.log_snr) / 2  # of log(alpha / sigma)
        scale = end.alpha * (math.expm1(-h) if self.exponential else -h)
        moved = torch.add(x * (end.sigma / start.sigma), now.clean, alpha=-end.alpha * math.expm1(-h))
        for weight, other in others:
            slope = (other.level.log_snr - start.log_snr) / (2 * h)
            moved = torch.add(moved, other.clean - now.clean, alpha=-scale * weight / slope)
        return moved


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
