"""What the routers chose while a recording was on: expert loads for pictures, the balance loss for training."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from bridges.dit_moe.routing import Choice, RoutingPlan
from w2sd_video.errors import UserError


@dataclass
class Call:
    """One forward of the network, layer by layer.

    Attributes:
        num_experts: E.
        picks: per layer [B, N, k], expert ids; -1 in slots that a row does not use.
        probabilities: per layer [B, N, E]; empty where they were not asked for.
    """

    num_experts: int
    picks: list[Tensor] = field(default_factory=list)
    probabilities: list[Tensor] = field(default_factory=list)

    def loads(self) -> Tensor:
        """How many of its tokens each row sent to each expert, [layers, B, E]."""
        picks = torch.stack(self.picks).flatten(2)  # [layers, B, N * k]
        # One more column takes the slots that are not used.
        counts = picks.new_zeros(*picks.shape[:2], self.num_experts + 1)
        counts.scatter_add_(2, picks.remainder(self.num_experts + 1), torch.ones_like(picks))
        return counts[..., : self.num_experts]


class Recording:
    """What the routers chose in each forward since `DiTMoE.recording` was entered.

    Attributes:
        calls: one `Call` per forward, in order.
    """

    def __init__(self, *, probabilities: bool) -> None:
        self.calls: list[Call] = []
        self._keeps_probabilities = probabilities

    def begin(self, plan: RoutingPlan) -> None:
        self.calls.append(Call(len(plan.expert_ids)))

    def note(self, choice: Choice, plan: RoutingPlan) -> None:
        picks = choice.picks if plan.used is None else choice.picks.masked_fill(~plan.used, -1)
        self.calls[-1].picks.append(picks)
        if self._keeps_probabilities:
            self.calls[-1].probabilities.append(choice.probabilities)

    def loads(self) -> Tensor:
        """Tokens per expert, [calls, layers, E], summed over the rows of each call."""
        return torch.stack([call.loads().sum(1) for call in self.calls])

    def balance_loss(self, coefficient: float = 0.01) -> Tensor:
        """The load-balancing loss of DiT-MoE, a scalar with a gradient.

        Per layer E * sum_i (share of picks that are expert i) * (mean probability of expert i), which is 1 where the
        experts are used evenly; summed over layers, averaged over calls, times `coefficient` (0.01 in the paper).

        Raises:
            UserError: the recording keeps no probabilities.
        """
        if not self._keeps_probabilities:
            raise UserError("the balance loss needs the router's probabilities: record with probabilities=True")
        total = sum(_balance(call) for call in self.calls)
        return coefficient * total / len(self.calls)


def _balance(call: Call) -> Tensor:
    probabilities = torch.stack(call.probabilities).mean((1, 2))  # [layers, E]
    loads = call.loads().sum(1)
    shares = loads / loads.sum(-1, keepdim=True)
    return call.num_experts * (shares * probabilities).sum()
