"""What the reflections of a pair do, level by level: three runs from the same noise, watched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from w2sd_video.core import Level, OnReflect
from w2sd_video.errors import UserError
from w2sd_video.latents.schedules import Grid

Array = NDArray[np.float64]
PARTNERS = ("weak", "zero-gap")


class Pair(Protocol):
    """A pair that can be sampled from fixed noise: one prompt and seed, or a batch of them."""

    def sample(self, partner: str | None, mode: str, num_reflections: int | None, watch: OnReflect | None) -> Tensor:
        """The final latents [B, ...] of the strong side, reflected with the weak side, with itself ("zero-gap") or not
        at all (None); `num_reflections` None is all steps but the last.
        """

    def grid(self) -> Grid:
        """The levels of the last sampling."""


@dataclass(frozen=True)
class Measured:
    """Numbers of S samples at the L = T - 1 levels that are not the last.

    Attributes:
        levels: of the L steps.
        move: [S, L] rms of x~ - x in latent units, both networks at x (mode "fused", strength 1).
        error: [S, L] the same with the strong side on both sides of Algorithm 1 (mode "paper"): the inversion's error,
            as there is no gap; NaN where no inversion can be made.
        gap: [S, L] rms(weak - strong) / rms(strong) of the predictions.
        clean_gap: [S, L] rms of the difference of the clean estimates / rms of the strong side's final latent.
        cosine: [S, L] between the gaps of a level and of the one before; NaN at the first.
        displacement, drift: [S] rms(reflected - strong) / rms(strong) of the final latents, with the weak side and
            with zero gap.
        growth: [S] rms(reflected) / rms(strong) of the final latents.
        motion: [S] of videos, the same of what the latents [B, C, F, h, w] have beside their mean over the frames; NaN
            of pictures.
    """

    levels: tuple[Level, ...]
    move: Array
    error: Array
    gap: Array
    clean_gap: Array
    cosine: Array
    displacement: Array
    drift: Array
    growth: Array
    motion: Array

    def taken(self, chosen: Sequence[int]) -> Measured:
        """The same of some samples."""
        rows = list(chosen)
        return Measured(self.levels, *(getattr(self, name)[rows] for name in FIELDS))


FIELDS = ("move", "error", "gap", "clean_gap", "cosine", "displacement", "drift", "growth", "motion")


def together(parts: Sequence[Measured]) -> Measured:
    """Returns the samples of several measurements on the same levels as one."""
    return Measured(parts[0].levels, *(np.concatenate([getattr(part, name) for part in parts]) for name in FIELDS))


@dataclass(frozen=True)
class Baseline:
    """What does not depend on the weak side: the strong side's final latents [B, ...], and the zero-gap control's
    `error` [S, L] and `drift` [S] (see `Measured`).
    """

    strong: Tensor
    grid: Grid
    error: Array
    drift: Array


def baseline(pair: Pair) -> Baseline:
    """Returns the strong side's run and its control: T + T + 2 (T - 1) evaluations.

    Raises:
        UserError: too few steps.
    """
    strong = pair.sample(None, "fused", 0, None)
    grid = pair.grid()
    if grid.num_steps < 3:
        raise UserError(f"{grid.num_steps} steps are too few to compare levels; give --steps 3 or more")
    size = _rms(strong)
    if grid.starts_at_pure_noise:
        return Baseline(strong, grid, np.full((len(size), grid.num_steps - 1), np.nan), np.full_like(size, np.nan))
    control = _Watched()
    moved = pair.sample("zero-gap", "paper", grid.num_steps - 1, control)
    return Baseline(strong, grid, control.sizes, _rms(moved - strong) / size)


def evaluations(num_steps: int) -> int:
    """The evaluations of one `measure`, all of both runs and the control."""
    return 4 * num_steps - 2 + 3 * num_steps


def measure(pair: Pair, known: Baseline | None = None) -> Measured:
    """Returns the numbers of one prompt and seed, or of a batch: 3 T evaluations, and those of the `baseline` where it
    is not `known`.

    Raises:
        UserError: too few steps, or sides that differ in nothing.
    """
    known = known or baseline(pair)
    strong, grid = known.strong, known.grid
    seen = _Watched()
    reflected = pair.sample("weak", "fused", grid.num_steps, seen)
    moves = seen.sizes[:, :-1]
    coefficients = np.array([abs(grid.path.gap_coefficient(a, b)) for a, b in _steps(grid)])[:-1]
    cleans = np.array([abs(grid.path.clean_coefficient(a, b)) for a, b in _steps(grid)])[:-1]
    size = _rms(strong)
    return Measured(
        levels=tuple(grid.levels[: grid.num_steps - 1]),
        move=moves,
        error=known.error,
        gap=moves / coefficients / seen.predictions(grid),
        clean_gap=moves / cleans / size[:, None],
        cosine=seen.cosines[:, :-1],
        displacement=_rms(reflected - strong) / size,
        drift=known.drift,
        growth=_rms(reflected) / size,
        motion=_rms(_motion(reflected)) / _rms(_motion(strong)) if _is_video(strong) else np.full_like(size, np.nan),
    )


class _Watched:
    """Sees x and x~ of every reflected step; keeps two latents and otherwise numbers."""

    def __init__(self) -> None:
        self._sizes: list[Array] = []
        self._cosines: list[Array] = []
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._last: Tensor | None = None

    def __call__(self, i: int, x: Tensor, tilde: Tensor) -> None:
        move = tilde - x
        self._sizes.append(_rms(move))
        cosine = np.full(len(x), np.nan)
        if self._last is not None:
            cosine = torch.cosine_similarity(move.flatten(1), self._last.flatten(1), dim=1).double().cpu().numpy()
        self._cosines.append(cosine)
        self._pairs.append((x, tilde))
        self._last = move

    @property
    def sizes(self) -> Array:
        """[S, steps] rms of each move."""
        return np.stack(self._sizes, 1)

    @property
    def cosines(self) -> Array:
        """[S, steps] of a move and the one before; moves have the direction of the gap at every level."""
        return np.stack(self._cosines, 1)

    def predictions(self, grid: Grid) -> Array:
        """[S, steps - 1] rms of the strong side's prediction at x~, from where its step led."""
        found = []
        for i, (start, end) in enumerate(_steps(grid)[:-1]):
            keep, move = grid.path.coefficients(start, end)
            found.append(_rms((self._pairs[i + 1][0] - self._pairs[i][1] * keep) / move))
        return np.stack(found, 1)


def _steps(grid: Grid) -> list[tuple[Level, Level]]:
    return list(zip(grid.levels[:-1], grid.levels[1:], strict=True))


def _is_video(x: Tensor) -> bool:
    return x.dim() == 5 and x.shape[2] > 1


def _motion(video: Tensor) -> Tensor:
    """What latents [B, C, F, h, w] have beside their mean over the frames."""
    return video - video.mean(2, keepdim=True)


def _rms(x: Tensor) -> Array:
    """Root mean square of each sample [B, ...]."""
    return x.float().flatten(1).square().mean(1).sqrt().double().cpu().numpy()
