"""Which experts a network sends its tokens to, set for the evaluations of one side of a pair and put back after."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2sd_video.errors import UserError
from w2sd_video.pair import Routing


def find_router(network: nn.Module) -> OwnRouting | Gates:
    """Returns the switch of a network: its own `routing` (DiT-MoE), or diffusers' gates (HiDream-I1).

    Raises:
        UserError: the network has neither.
    """
    inner = getattr(network, "_orig_mod", network)  # of a compiled module
    if hasattr(inner, "routing"):
        return OwnRouting(inner)
    from diffusers.models.transformers.transformer_hidream_image import MOEFeedForwardSwiGLU

    mixtures = [module for module in inner.modules() if isinstance(module, MOEFeedForwardSwiGLU)]
    if not mixtures:
        raise UserError(
            f"{type(inner).__name__} has no experts to route tokens to; a routing is for a mixture of experts whose "
            "tokens pick them (DiT-MoE, HiDream-I1): leave routing out"
        )
    return Gates(mixtures)


@contextmanager
def routed(network: nn.Module, routing: Routing | None) -> Iterator[None]:
    """Inside, `network` routes by `routing`, None being as it is: `with routed(network, Routing("bottom")): ...`.

    Raises:
        UserError: the network has no experts, or not those that are asked for.
    """
    if routing is None:
        yield
        return
    router = find_router(network)
    router.check(routing)
    with router.set_to(routing):
        yield


class OwnRouting:
    """A network that routes by its attribute `routing`, None being the `num_experts_per_tok` of highest score."""

    def __init__(self, network: Any) -> None:
        self._network = network

    def check(self, routing: Routing) -> None:
        routing.check(self._network.config.num_experts)

    @property
    def now(self) -> Any:
        routing = self._network.routing
        return Routing(k=self._network.config.num_experts_per_tok) if routing is None else routing

    @contextmanager
    def set_to(self, routing: Routing) -> Iterator[None]:
        before = self._network.routing
        self._network.routing = routing
        try:
            yield
        finally:
            self._network.routing = before


class Gates:
    """HiDream-I1's gates (`MoEGate`), which always take the highest scores: another forward stands in for theirs."""

    def __init__(self, mixtures: Sequence[Any]) -> None:
        self._mixtures = mixtures

    def check(self, routing: Routing) -> None:
        routing.check(self._mixtures[0].gate.n_routed_experts)
        for mixture in self._mixtures:
            _forward_name(mixture.gate)

    @property
    def now(self) -> Any:
        gate = self._mixtures[0].gate
        return getattr(vars(gate).get(_forward_name(gate)), "w2sd_routing", Routing(k=gate.top_k))

    @contextmanager
    def set_to(self, routing: Routing) -> Iterator[None]:
        forward = _gate_forward(routing)
        undo: list[tuple[Any, int, str, Any]] = []
        try:
            for mixture in self._mixtures:
                gate, name = mixture.gate, _forward_name(mixture.gate)
                undo.append((mixture, mixture.num_activated_experts, name, vars(gate).get(name)))
                vars(gate)[name] = forward.__get__(gate)
                mixture.num_activated_experts = routing.k  # by which it counts the tokens of each expert
            yield
        finally:
            for mixture, count, name, own in undo:
                mixture.num_activated_experts = count
                if own is None:
                    del vars(mixture.gate)[name]
                else:
                    vars(mixture.gate)[name] = own


def _forward_name(gate: nn.Module) -> str:
    """Where the forward lies that computes: an offloading hook of accelerate's has put it aside."""
    if "_old_forward" in vars(gate):
        return "_old_forward"
    if "forward" in vars(gate) and not hasattr(vars(gate)["forward"], "w2sd_routing"):
        raise UserError(
            f"{type(gate).__name__} has a forward of its own put on it, under which its routing cannot be changed; "
            "take that off first"
        )
    return "forward"


@functools.cache  # one function per routing, as compiled code is kept by what it was made from
def _gate_forward(routing: Routing) -> Any:
    def forward(gate: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, None]:
        """Tokens [B, N, D] to expert ids and weights [B * N, k], and no balance loss, which is for training."""
        logits = F.linear(hidden_states.view(-1, hidden_states.shape[-1]), gate.weight, None)
        scores = logits.softmax(dim=-1)
        if routing.experts is not None:
            ids = torch.tensor(routing.experts, device=scores.device).repeat(len(scores), 1)
            weights = scores.gather(-1, ids)
        else:
            weights, ids = torch.topk(scores, routing.k, dim=-1, largest=routing.rank == "top", sorted=False)
        if routing.renormalize:
            weights = logits.gather(-1, ids).softmax(dim=-1)  # does not divide by a sum that may vanish
        elif routing.k > 1 and gate.norm_topk_prob:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
        return ids, weights, None

    forward.w2sd_routing = routing  # type: ignore[attr-defined]
    return forward
