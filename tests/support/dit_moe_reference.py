"""DiT-MoE as published, written again in plain loops and float64: key names, shapes and the forward pass.

Nothing here knows our network; the tests hold it against this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

State = dict[str, Tensor]
Pick = Callable[[Tensor], tuple[Sequence[int], Sequence[float]]]  # scores of one token -> experts and their weights

SMALL = {"depth": 2, "width": 16, "heads": 2, "experts": 8, "side": 8, "classes": 5}


def published_shapes(
    *, depth: int, width: int, heads: int, experts: int, side: int = 32, classes: int = 1000, flash: bool = False
) -> dict[str, tuple[int, ...]]:
    """The keys of a published file; patches of 2 pixels, 4 channels in and 8 out, hidden 4 D and 2 D (shared)."""
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, (side // 2) ** 2, width),
        "x_embedder.proj.weight": (width, 4, 2, 2),
        "x_embedder.proj.bias": (width,),
        "t_embedder.mlp.0.weight": (width, 256),
        "t_embedder.mlp.0.bias": (width,),
        "t_embedder.mlp.2.weight": (width, width),
        "t_embedder.mlp.2.bias": (width,),
        "y_embedder.embedding_table.weight": (classes + 1, width),
        "final_layer.linear.weight": (32, width),
        "final_layer.linear.bias": (32,),
        "final_layer.adaLN_modulation.1.weight": (2 * width, width),
        "final_layer.adaLN_modulation.1.bias": (2 * width,),
    }
    joint, out = ("Wqkv", "out_proj") if flash else ("qkv", "proj")
    for n in range(depth):
        block = f"blocks.{n}"
        shapes |= {
            f"{block}.attn.{joint}.weight": (3 * width, width),
            f"{block}.attn.{joint}.bias": (3 * width,),
            f"{block}.attn.{out}.weight": (width, width),
            f"{block}.attn.{out}.bias": (width,),
            f"{block}.adaLN_modulation.1.weight": (6 * width, width),
            f"{block}.adaLN_modulation.1.bias": (6 * width,),
            f"{block}.moe.gate.weight": (experts, width),
        }
        if flash:
            for norm in ("q_norm", "k_norm"):
                shapes |= {f"{block}.attn.{norm}.{part}": (width // heads,) for part in ("weight", "bias")}
        mlps = [(f"experts.{j}", 4 * width) for j in range(experts)] + [("shared_experts", 2 * width)]
        for name, hidden in mlps:
            shapes[f"{block}.moe.{name}.gate_proj.weight"] = (hidden, width)
            shapes[f"{block}.moe.{name}.up_proj.weight"] = (hidden, width)
            shapes[f"{block}.moe.{name}.down_proj.weight"] = (width, hidden)
    return shapes


def published_state(seed: int = 0, *, flash: bool = False, dtype: torch.dtype = torch.float64) -> State:
    """Random weights of the small size, none of them zero, the router's large enough to load experts unevenly."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in published_shapes(**SMALL, flash=flash).items():
        fan_in = math.prod(shape[1:]) if len(shape) > 1 else 4
        scale = (4.0 if "gate.weight" in key else 1.0) / math.sqrt(fan_in)
        state[key] = (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)
    return state


def top(k: int) -> Pick:
    return lambda scores: _picked(scores, sorted(range(len(scores)), key=lambda e: -scores[e])[:k])


def bottom(k: int) -> Pick:
    return lambda scores: _picked(scores, sorted(range(len(scores)), key=lambda e: scores[e])[:k])


def renormalized(pick: Pick) -> Pick:
    def inner(scores: Tensor) -> tuple[Sequence[int], Sequence[float]]:
        experts, weights = pick(scores)
        return experts, [weight / sum(weights) for weight in weights]

    return inner


def fixed(*experts: int) -> Pick:
    return lambda scores: _picked(scores, experts)


def _picked(scores: Tensor, experts: Sequence[int]) -> tuple[Sequence[int], Sequence[float]]:
    return experts, [float(scores[e]) for e in experts]


def forward(state: State, x: Tensor, timesteps: Sequence[float], labels: Sequence[int], pick: Pick) -> Tensor:
    """The prediction [B, 8, H, W] in float64, one row and one token at a time."""
    state = {key: tensor.double() for key, tensor in state.items()}
    rows = [_row(state, x[b].double(), timesteps[b], labels[b], pick) for b in range(len(x))]
    return torch.stack(rows)


def _row(state: State, x: Tensor, timestep: float, label: int, pick: Pick) -> Tensor:
    side = x.shape[-1] // 2
    tokens = []
    for i in range(side):
        for j in range(side):
            patch = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            embedded = (state["x_embedder.proj.weight"] * patch).sum((1, 2, 3)) + state["x_embedder.proj.bias"]
            tokens.append(embedded + state["pos_embed"][0, i * side + j])

    angles = [timestep * math.exp(-math.log(10000) * k / 128) for k in range(128)]
    waves = torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles], dtype=torch.float64)
    condition = _linear(state, "t_embedder.mlp.2", _silu(_linear(state, "t_embedder.mlp.0", waves)))
    condition = condition + state["y_embedder.embedding_table.weight"][label]

    depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
    for n in range(depth):
        block = f"blocks.{n}"
        parts = _linear(state, f"{block}.adaLN_modulation.1", _silu(condition)).chunk(6)
        normed = [_norm(token) * (1 + parts[1]) + parts[0] for token in tokens]
        tokens = [t + parts[2] * a for t, a in zip(tokens, _attention(state, block, normed), strict=True)]
        normed = [_norm(token) * (1 + parts[4]) + parts[3] for token in tokens]
        tokens = [t + parts[5] * mixture(state, block, m, pick) for t, m in zip(tokens, normed, strict=True)]

    shift, scale = _linear(state, "final_layer.adaLN_modulation.1", _silu(condition)).chunk(2)
    out = torch.zeros(8, 2 * side, 2 * side, dtype=torch.float64)
    for number, token in enumerate(tokens):
        values = _linear(state, "final_layer.linear", _norm(token) * (1 + scale) + shift)
        i, j = divmod(number, side)
        for p in range(2):
            for q in range(2):
                for c in range(8):
                    out[c, 2 * i + p, 2 * j + q] = values[(p * 2 + q) * 8 + c]
    return out


def _attention(state: State, block: str, tokens: list[Tensor]) -> list[Tensor]:
    flash = f"{block}.attn.Wqkv.weight" in state
    joint, out = ("Wqkv", "out_proj") if flash else ("qkv", "proj")
    width = tokens[0].numel()
    size = width // SMALL["heads"]
    joints = [_linear(state, f"{block}.attn.{joint}", token) for token in tokens]
    results = [torch.zeros(width, dtype=torch.float64) for _ in tokens]
    for head in range(SMALL["heads"]):
        here = slice(head * size, (head + 1) * size)
        q, k, v = ([values[part * width : (part + 1) * width][here] for values in joints] for part in range(3))
        if flash:
            q = [_norm(each) * state[f"{block}.attn.q_norm.weight"] + state[f"{block}.attn.q_norm.bias"] for each in q]
            k = [_norm(each) * state[f"{block}.attn.k_norm.weight"] + state[f"{block}.attn.k_norm.bias"] for each in k]
        for a in range(len(tokens)):
            shares = torch.softmax(torch.stack([q[a] @ each for each in k]) / math.sqrt(size), 0)
            results[a][here] = sum(share * each for share, each in zip(shares, v, strict=True))
    return [_linear(state, f"{block}.attn.{out}", result) for result in results]


def mixture(state: State, block: str, token: Tensor, pick: Pick) -> Tensor:
    """The routed experts of one token, weighted, and the shared one."""
    scores = torch.softmax(state[f"{block}.moe.gate.weight"] @ token, 0)
    total = _swiglu(state, f"{block}.moe.shared_experts", token)
    for expert, weight in zip(*pick(scores), strict=True):
        total = total + weight * _swiglu(state, f"{block}.moe.experts.{expert}", token)
    return total


def _swiglu(state: State, name: str, x: Tensor) -> Tensor:
    gate, up = state[f"{name}.gate_proj.weight"] @ x, state[f"{name}.up_proj.weight"] @ x
    return state[f"{name}.down_proj.weight"] @ (_silu(gate) * up)


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return state[f"{name}.weight"] @ x + state[f"{name}.bias"]


def _silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def _norm(x: Tensor) -> Tensor:
    centred = x - x.mean()
    return centred / torch.sqrt((centred * centred).mean() + 1e-6)
