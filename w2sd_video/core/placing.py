"""Where a cached gap is measured anew (`ReflectionConfig.gap_every` "auto"): dense where the gap turns.

A few samples are reflected in mode "fused", each reflection by a fresh gap, and their moves are compared: what a gap of
step j would miss at step i is the part of that move which its direction does not have.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from w2sd_video.core.options import ReflectionConfig

_EVEN = 1e-9  # of all that can be missed: of places that miss alike the evenest are taken


class GapTurns:
    """An `OnReflect` that compares the moves of one pass of sampling after another: what a gap misses as it grows old.

    Let every step be reflected up to the last reflected one (`ReflectionConfig.with_fresh_gaps`). The moves of a pass
    are kept in float32 on the CPU, until its first step comes again. A step that is left out has no move.
    """

    def __init__(self) -> None:
        self._moves: dict[int, Tensor] = {}  # [B, N] each, of the pass that is under way
        self._passes: list[dict[tuple[int, int], float]] = []

    def __call__(self, i: int, x: Tensor, tilde: Tensor) -> None:
        if i in self._moves:
            self._finish()
        self._moves[i] = (tilde - x).detach().flatten(1).float().cpu()

    def _finish(self) -> None:
        steps, least = list(self._moves), torch.finfo(torch.float32).tiny
        moves = torch.stack([self._moves[step] for step in steps], 1)  # [B, steps, N]
        products = moves @ moves.transpose(1, 2)
        squares = products.diagonal(dim1=1, dim2=2)
        sizes = squares.sqrt()
        cosines = products / (sizes[:, :, None] * sizes[:, None, :]).clamp_min(least)
        lost = squares[:, :, None] * (1 - cosines.clamp(-1, 1)) / squares.sum(1).clamp_min(least)[:, None, None]
        mean = lost.double().mean(0).tolist()
        self._passes.append({(i, j): mean[a][b] for a, i in enumerate(steps) for b, j in enumerate(steps)})
        self._moves = {}

    def lost(self, num_steps: int) -> list[list[float]]:
        """By step i and step j of T, what a gap of step j misses of the move at step i: |m_i|^2 (1 - cos(m_i, m_j))
        over the sum of all |m|^2, mean over samples.

        Raises:
            ValueError: no reflection was seen.
        """
        if self._moves:
            self._finish()
        if not self._passes:
            raise ValueError("no reflection was seen; sample in mode fused, with this as on_reflect")

        def mean(i: int, j: int) -> float:
            return sum(seen.get((i, j), 0.0) for seen in self._passes) / len(self._passes)

        return [[mean(i, j) for j in range(num_steps)] for i in range(num_steps)]

    def steps(self, config: ReflectionConfig, num_steps: int) -> tuple[int, ...]:
        """The steps of T at which a cached gap of this configuration is best measured: as many as "auto" takes."""
        before = tuple(step - 1 for step in config.steps(num_steps))
        return placed(self.lost(num_steps), before, len(config.gap_steps(num_steps)))


def placed(lost: Sequence[Sequence[float]], before: Sequence[int], count: int) -> tuple[int, ...]:
    """The ``count`` of the steps ``before`` reflections at which gaps are measured, so that the reflections together
    miss least; the first is always among them.

    The reflection after step b moves by the gap of the last step measured up to b. Exact, by dynamic programming over
    the place of each measurement: O(count len(before)^2).

    Args:
        lost: by step i and step j, what a gap of step j misses at step i, 0 or more (`GapTurns.lost`).
        before: the steps before each reflection, rising.
        count: of measurements.
    """
    total = len(before)
    if count >= total or count < 1:
        return tuple(before) if count else ()
    steps = torch.tensor(before)
    missed = torch.tensor(lost, dtype=torch.float64)[(steps + 1)[None, :], steps[:, None]]  # [measured, reflected]
    ages = torch.arange(total)[None, :] - torch.arange(total)[:, None]
    missed = missed + _EVEN * (missed.sum() + 1) * ages**2
    summed = torch.cat([torch.zeros(total, 1, dtype=torch.float64), missed.triu().cumsum(1)], 1)
    # [a, z]: what the reflections after before[a : z] miss by the gap of before[a]
    stretches = torch.where(ages > 0, summed[:, :-1], torch.inf)
    least, choices = summed[:, -1], []  # what is missed from before[a] on, where a gap is measured, by the last of them
    for _ in range(count - 1):
        least, following = (stretches + least).min(1)
        choices.append(following)
    found = [0]
    for following in reversed(choices):
        found.append(int(following[found[-1]]))
    return tuple(before[place] for place in found)
