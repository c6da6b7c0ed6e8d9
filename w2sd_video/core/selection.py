"""How a reward tells, sample by sample and step by step, which of two models is the strong one (Algorithm 2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

Reward = Callable[[Tensor], Tensor]
"""A number per sample [B], higher is better, of clean estimates [B, ...]."""


@final
class Selector:
    """Which of two models is the stronger one for each sample; the first until a reward has told them apart.

    Rewards no further apart than the threshold are a tie, which keeps what was chosen before (the printed algorithm
    then takes the second model, whatever the rewards said so far). Make a new one for each run.

    Args:
        reward: see `Reward`; called twice a selection, for the estimates of the first and of the second model.
        threshold: eps_r of Alg. 2, in the reward's own units, 0 or more.

    Attributes:
        choices: of each selection so far, whether the second model is the stronger one, [B] booleans on
            the host.

    Raises:
        ValueError: a negative threshold; in a selection, rewards that are not one finite number per sample.
    """

    def __init__(self, reward: Reward, threshold: float = 0.0) -> None:
        if not (math.isfinite(threshold) and threshold >= 0):
            raise ValueError(f"the reward's threshold is {threshold}; it must be 0 or more")
        self._reward, self._threshold = reward, threshold
        self.choices: list[Tensor] = []

    def select(self, first: Tensor, second: Tensor) -> Tensor:
        """Choose by the two models' clean estimates [B, ...]: whether the second is the stronger one, [B]."""
        of_first, of_second = self._rewards(first), self._rewards(second)
        lead = of_second - of_first
        before = self.choices[-1] if self.choices else torch.zeros_like(lead, dtype=torch.bool)
        self.choices.append(torch.where(lead.abs() > self._threshold, lead > 0, before))
        return self.choices[-1]

    def _rewards(self, clean: Tensor) -> Tensor:
        rewards = torch.as_tensor(self._reward(clean)).cpu().double()  # some accelerators have no float64
        if rewards.shape != (len(clean),):
            raise ValueError(
                f"the reward returned shape {tuple(rewards.shape)} for {len(clean)} samples; it must return one number "
                f"for each, ({len(clean)},)"
            )
        if not bool(rewards.isfinite().all()):
            raise ValueError(f"the reward returned {rewards.tolist()}; it must return finite numbers")
        return rewards
