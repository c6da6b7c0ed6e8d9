"""A time gap: the same network told a noisier level than its latent has. It helps on neither bundled pair
(docs/results/faster.md), and so it is an experiment and no setting."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

MOST = 999  # the noisiest of the bundled networks' timesteps


def told_noisier(network: nn.Module, shift: int) -> nn.Module:
    """A network of the same parameters whose timestep is `shift` larger, at most MOST."""
    other, own = copy.copy(network), type(network).forward

    def forward(sample: torch.Tensor, timestep: Any, *arguments: Any, **named: Any) -> Any:
        later = torch.as_tensor(timestep, device=sample.device).add(shift).clamp_max(MOST)
        return own(network, sample, later, *arguments, **named)

    other.forward = forward  # type: ignore[method-assign]
    return other
