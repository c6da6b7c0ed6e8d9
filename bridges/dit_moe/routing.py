"""Which experts each token goes to: a `Routing` (the setting) made into what the router computes with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from w2sd_video.pair import Routing


@dataclass(frozen=True)
class RoutingPlan:
    """How the rows of one batch pick experts, made once for all layers so that no layer asks the host.

    Attributes:
        num_slots: expert picks per token (of the row that has the most).
        expert_ids: 0 .. E-1, on the network's device.
        largest: whether the highest scores win, where all rows agree; the two below are then None.
        sign: [B, 1, 1], +1 for rows that take the highest scores and -1 for the lowest.
        bonus: [B, 1, E], what lifts the experts a row names above all others.
        used: [B, 1, num_slots], the slots each row uses, where rows use different numbers of experts; else None.
        slots: [S], the used ones among the B * N * num_slots slots of all tokens; None with `used`.
        renormalize: [B, 1, 1], or one answer for all rows.
    """

    num_slots: int
    expert_ids: Tensor
    largest: bool = True
    sign: Tensor | None = None
    bonus: Tensor | None = None
    used: Tensor | None = None
    slots: Tensor | None = None
    renormalize: Tensor | bool = False


@dataclass(frozen=True)
class Choice:
    """What one layer's router chose.

    Attributes:
        probabilities: [B, N, E], softmax over all experts, float32 or wider.
        picks: [B, N, num_slots], expert ids.
        weights: [B, N, num_slots], what each pick's output is multiplied by; 0 in slots that are not used.
    """

    probabilities: Tensor
    picks: Tensor
    weights: Tensor


def plan_routing(rows: Sequence[Routing], num_tokens: int, num_experts: int, device: torch.device | str) -> RoutingPlan:
    """The plan for a batch whose row b routes its `num_tokens` tokens by `rows[b]`.

    Raises:
        UserError: experts that the network has not.
    """
    different = list(dict.fromkeys(rows))
    for routing in different:
        routing.check(num_experts)
    counts = [routing.k for routing in rows]
    num_slots = max(counts)
    expert_ids = torch.arange(num_experts, device=device)
    if len(different) == 1 and rows[0].experts is None:
        return RoutingPlan(num_slots, expert_ids, rows[0].rank == "top", renormalize=rows[0].renormalize)

    sign = torch.tensor([-1.0 if routing.rank == "bottom" else 1.0 for routing in rows]).view(-1, 1, 1)
    bonus = torch.zeros(len(rows), 1, num_experts)
    for row, routing in enumerate(rows):
        # Scores lie in [-1, 1] after the sign, so 3 lifts the named experts above all others, in any order.
        bonus[row, 0, list(routing.experts or ())] = 3.0
    used = slots = None
    if min(counts) < num_slots:
        used = torch.arange(num_slots).expand(len(rows), 1, -1) < torch.tensor(counts).view(-1, 1, 1)
        slots = used.expand(-1, num_tokens, -1).reshape(-1).nonzero().squeeze(1).to(device)
        used = used.to(device)
    renormalize: Tensor | bool = rows[0].renormalize
    if len({routing.renormalize for routing in different}) > 1:
        renormalize = torch.tensor([routing.renormalize for routing in rows]).view(-1, 1, 1).to(device)
    return RoutingPlan(
        num_slots,
        expert_ids,
        sign=sign.to(device),
        bonus=bonus.to(device),
        used=used,
        slots=slots,
        renormalize=renormalize,
    )


def choose_experts(logits: Tensor, plan: RoutingPlan) -> Choice:
    """What a router with these `logits` [B, N, E] picks under `plan`.

    The weights are the picked probabilities themselves, not made to sum to 1 unless the plan says so; that sum is then
    taken over logits, so that picks of vanishing probability (the lowest of a confident router) do not divide by 0.
    """
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    probabilities = torch.softmax(logits, -1, dtype=wide)
    in_order = plan.used is not None
    if plan.sign is None:
        weights, picks = torch.topk(probabilities, plan.num_slots, largest=plan.largest, sorted=in_order)
    else:
        order = torch.addcmul(plan.bonus, probabilities, plan.sign)
        picks = torch.topk(order, plan.num_slots, sorted=in_order).indices
        weights = probabilities.gather(-1, picks)
    if plan.renormalize is not False:
        picked = logits.gather(-1, picks)
        if plan.used is not None:
            picked = picked.masked_fill(~plan.used, float("-inf"))
        shares = torch.softmax(picked, -1, dtype=wide)
        weights = shares if plan.renormalize is True else torch.where(plan.renormalize, shares, weights)
    if plan.used is not None:
        weights = weights * plan.used
    return Choice(probabilities, picks, weights)
