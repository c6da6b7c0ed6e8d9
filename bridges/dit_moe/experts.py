"""A mixture of experts whose tokens are sorted by expert, so that all experts are two grouped matrix products.

The experts' weights are stacked: `w_in` [E, 2h, d] holds each expert's gate above its up projection, `w_out` [E, d, h]
its down projection. An expert is `w_out (silu(gate x) * up x)`, without biases.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bridges.dit_moe.routing import Choice, RoutingPlan, choose_experts

METHODS = ("auto", "grouped", "loop", "dense")

# A block of memory above 32 MiB is given back to the system each time it is freed, and costs the CPU a page fault for
# every 4 KiB when it is asked for again: a tenth of the products' time. So larger products are made in parts.
LARGEST_CPU_BLOCK = 31 << 20


def grouped_products_work(x: Tensor, w_in: Tensor, w_out: Tensor) -> bool:
    """Whether `torch.nn.functional.grouped_mm` takes these tensors, and their gradients, without a read by the host."""
    if not hasattr(F, "grouped_mm"):  # torch before 2.10
        return False
    sizes = (w_in.shape[1], w_in.shape[2], w_out.shape[2])
    if any(size * x.element_size() % 16 for size in sizes):  # rows must start at 16 bytes
        return False
    if x.device.type == "cuda":
        # Anything but bfloat16 on Hopper or later falls back to a loop over offsets copied to the host.
        return x.dtype == torch.bfloat16 and torch.cuda.get_device_capability(x.device) >= (9, 0)
    if torch.compiler.is_compiling() or x.device.type == "meta":
        return x.dtype == torch.bfloat16
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16, torch.float16)


def choose_method(x: Tensor, w_in: Tensor, w_out: Tensor) -> str:
    """Grouped products where they work; else "loop", or "dense" where nothing may be read back (captured, compiled)."""
    if grouped_products_work(x, w_in, w_out):
        return "grouped"
    captured = x.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    return "dense" if captured or torch.compiler.is_compiling() or x.device.type == "meta" else "loop"


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, for gate and up side by side in the last dimension."""
    gate, up = gate_up.chunk(2, -1)
    if torch.is_grad_enabled():
        return F.silu(gate) * up
    # In place: with one block more, what a call frees is enough for the C library to hand it back to the system.
    return F.silu(gate).mul_(up)


def apply_experts(
    x: Tensor, picks: Tensor, weights: Tensor, w_in: Tensor, w_out: Tensor, *, plan: RoutingPlan, method: str = "auto"
) -> Tensor:
    """The weighted sum of each token's experts, [n, d], for tokens `x` [n, d], their `picks` and `weights` [.., k].

    Differentiable in all four tensors of numbers. Tokens are sorted by expert (a stable sort), multiplied in groups,
    put back in their places and summed: no order of additions depends on chance.
    """
    x = x.to(w_in.dtype)  # under autocast the tokens may be of another
    method = choose_method(x, w_in, w_out) if method == "auto" else method
    if method == "dense":
        return dense_experts(x, picks, weights, w_in, w_out)
    num_slots, width = picks.shape[-1], x.shape[-1]
    flat = picks.reshape(-1)
    if plan.slots is not None:
        flat = flat.index_select(0, plan.slots)
    ids, order = torch.sort(flat, stable=True)
    places = order if plan.slots is None else plan.slots.index_select(0, order)
    rows = x.index_select(0, places // num_slots)
    run = _grouped if method == "grouped" else _loop
    rows = run(rows, ids, plan.expert_ids, w_in, w_out)
    shape = (len(x) * num_slots, width)
    back = rows.new_empty(shape) if plan.slots is None else rows.new_zeros(shape)
    back.index_copy_(0, places, rows)
    return (back.view(-1, num_slots, width) * weights.to(rows.dtype).view(-1, num_slots, 1)).sum(1)


def _grouped(rows: Tensor, ids: Tensor, expert_ids: Tensor, w_in: Tensor, w_out: Tensor) -> Tensor:
    """The experts' outputs for `rows` [S, d], of the experts `ids` [S], which are sorted."""
    w_in, w_out = w_in.transpose(1, 2), w_out.transpose(1, 2)
    parts = _parts(rows, w_in.shape[2])
    if parts == 1:
        # Where each expert's rows end is found in the sorted ids, without a count.
        ends = torch.searchsorted(ids, expert_ids, right=True, out_int32=True)
        return F.grouped_mm(swiglu(F.grouped_mm(rows, w_in, offs=ends)), w_out, offs=ends)
    ends = torch.searchsorted(ids.view(parts, -1), expert_ids.repeat(parts, 1), right=True, out_int32=True)
    pieces = zip(rows.chunk(parts), ends.unbind(), strict=True)
    return torch.cat([F.grouped_mm(swiglu(F.grouped_mm(x, w_in, offs=end)), w_out, offs=end) for x, end in pieces])


def _parts(rows: Tensor, width: int) -> int:
    """Into how many equal parts to divide `rows` for a product of this width; 1 where there are no equal ones."""
    least = -(-len(rows) * width * rows.element_size() // LARGEST_CPU_BLOCK)
    if rows.device.type != "cpu" or least < 2:
        return 1
    return next((parts for parts in range(least, 2 * least) if len(rows) % parts == 0), 1)


def _loop(rows: Tensor, ids: Tensor, expert_ids: Tensor, w_in: Tensor, w_out: Tensor) -> Tensor:
    """The same, an expert at a time."""
    stops = torch.searchsorted(ids, expert_ids, right=True).tolist()  # the one read by the host
    outputs = [
        F.linear(swiglu(F.linear(rows[start:stop], w_in[expert])), w_out[expert])
        for expert, (start, stop) in enumerate(zip([0, *stops], stops, strict=False))
        if stop > start
    ]
    return torch.cat(outputs)


def dense_experts(x: Tensor, picks: Tensor, weights: Tensor, w_in: Tensor, w_out: Tensor) -> Tensor:
    """The same as `apply_experts`, every expert on every token and the ones not picked multiplied by 0."""
    picks, weights = picks.flatten(0, -2), weights.flatten(0, -2).to(x.dtype)
    shares = x.new_zeros(len(x), len(w_in)).scatter(1, picks, weights)
    outputs = swiglu(x @ w_in.transpose(1, 2)) @ w_out.transpose(1, 2)  # [E, n, d]
    return torch.einsum("end,ne->nd", outputs, shares)


class Experts(nn.Module):
    """The stacked weights of E experts of hidden width h on tokens of width d."""

    def __init__(self, num_experts: int, width: int, hidden: int) -> None:
        super().__init__()
        self.w_in = nn.Parameter(torch.empty(num_experts, 2 * hidden, width))
        self.w_out = nn.Parameter(torch.empty(num_experts, width, hidden))
        bound = math.sqrt(6 / (hidden + width))  # Xavier, for each of an expert's three matrices
        nn.init.uniform_(self.w_in, -bound, bound)
        nn.init.uniform_(self.w_out, -bound, bound)

    def forward(self, x: Tensor, choice: Choice, plan: RoutingPlan, method: str) -> Tensor:
        """`apply_experts` with these weights."""
        return apply_experts(x, choice.picks, choice.weights, self.w_in, self.w_out, plan=plan, method=method)


class SharedExpert(nn.Module):
    """The expert every token goes to, weight 1."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        bound = math.sqrt(6 / (hidden + width))
        self.w_in = nn.Parameter(torch.empty(2 * hidden, width).uniform_(-bound, bound))
        self.w_out = nn.Parameter(torch.empty(width, hidden).uniform_(-bound, bound))

    def forward(self, x: Tensor, onto: Tensor) -> Tensor:
        """`onto` [n, d] plus this expert's output for tokens `x` [n, d]."""
        return torch.addmm(onto, swiglu(F.linear(x, self.w_in)), self.w_out.t())


class MixtureOfExperts(nn.Module):
    """Router, routed experts and the shared expert, in the place of a transformer block's MLP.

    `method` chooses how the experts are computed ("auto", "grouped", "loop" or "dense"); all give the same to rounding.
    """

    def __init__(self, num_experts: int, width: int, hidden: int, shared_hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, num_experts, bias=False)
        self.experts = Experts(num_experts, width, hidden)
        self.shared_experts = SharedExpert(width, shared_hidden) if shared_hidden else None
        self.method = "auto"

    def forward(self, x: Tensor, plan: RoutingPlan) -> tuple[Tensor, Choice]:
        """The output [B, N, d] for tokens `x` [B, N, d], and what the router chose."""
        tokens = x.reshape(-1, x.shape[-1])
        choice = choose_experts(self.gate(tokens).view(*x.shape[:2], -1), plan)
        y = self.experts(tokens, choice, plan, self.method)
        if self.shared_experts is not None:
            y = self.shared_experts(tokens, onto=y)
        return y.view(x.shape), choice
