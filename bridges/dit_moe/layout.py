"""The published checkpoints' key names and shapes, and where in our network each tensor goes (imports no torch)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridges.dit_moe.configurations import TIMESTEP_CHANNELS, usual_heads
from w2sd_video.errors import UserError

Shape = tuple[int, ...]

SHOWN = 8  # keys named in an error before "and n more"


@dataclass(frozen=True)
class Place:
    """Where a published tensor of `shape` goes: into `ours`, whole or at `index` of a stacked one."""

    shape: Shape
    ours: str
    index: tuple[Any, ...] = ()


def published_layout(config: Mapping[str, Any], *, flash: bool) -> dict[str, Place]:
    """The keys of a published checkpoint with this config; `flash` for the names of the flash-attention variant."""
    layout = dict(_ends(config))
    for block in range(config["num_layers"]):
        layout.update(_block(f"blocks.{block}.", config, flash))
    return layout


def _linear(published: str, ours: str, outputs: int, inputs: int) -> Iterator[tuple[str, Place]]:
    yield f"{published}.weight", Place((outputs, inputs), f"{ours}.weight")
    yield f"{published}.bias", Place((outputs,), f"{ours}.bias")


def _ends(config: Mapping[str, Any]) -> Iterator[tuple[str, Place]]:
    width, patch = config["hidden_size"], config["patch_size"]
    tokens = (config["sample_size"] // patch) ** 2
    yield "pos_embed", Place((1, tokens, width), "pos_embed")
    yield "x_embedder.proj.weight", Place((width, config["in_channels"], patch, patch), "x_embedder.proj.weight")
    yield "x_embedder.proj.bias", Place((width,), "x_embedder.proj.bias")
    yield from _linear("t_embedder.mlp.0", "t_embedder.mlp.0", width, TIMESTEP_CHANNELS)
    yield from _linear("t_embedder.mlp.2", "t_embedder.mlp.2", width, width)
    table = "y_embedder.embedding_table.weight"
    yield table, Place((config["num_classes"] + 1, width), table)
    yield from _linear("final_layer.adaLN_modulation.1", "final_layer.modulation", 2 * width, width)
    yield from _linear("final_layer.linear", "final_layer.linear", patch * patch * config["out_channels"], width)


def _block(prefix: str, config: Mapping[str, Any], flash: bool) -> Iterator[tuple[str, Place]]:
    width, experts = config["hidden_size"], config["num_experts"]
    qkv, proj = ("Wqkv", "out_proj") if flash else ("qkv", "proj")
    yield from _linear(f"{prefix}attn.{qkv}", f"{prefix}attn.qkv", 3 * width, width)
    yield from _linear(f"{prefix}attn.{proj}", f"{prefix}attn.proj", width, width)
    if config["qk_norm"]:
        head = width // config["num_attention_heads"]
        for key in (f"{prefix}attn.{norm}.{part}" for norm in ("q_norm", "k_norm") for part in ("weight", "bias")):
            yield key, Place((head,), key)
    yield from _linear(f"{prefix}adaLN_modulation.1", f"{prefix}modulation", 6 * width, width)
    yield f"{prefix}moe.gate.weight", Place((experts, width), f"{prefix}moe.gate.weight")
    for expert in range(experts):
        published, ours = f"{prefix}moe.experts.{expert}", f"{prefix}moe.experts"
        yield from _expert(published, ours, width, config["expert_hidden_size"], (expert,))
    if config["shared_expert_hidden_size"]:
        shared = f"{prefix}moe.shared_experts"
        yield from _expert(shared, shared, width, config["shared_expert_hidden_size"], ())


def _expert(published: str, ours: str, width: int, hidden: int, index: tuple[int, ...]) -> Iterator[tuple[str, Place]]:
    """Gate above up in `w_in`, down in `w_out`, at `index` of the stack."""
    gate, up = (*index, slice(0, hidden)), (*index, slice(hidden, 2 * hidden))
    yield f"{published}.gate_proj.weight", Place((hidden, width), f"{ours}.w_in", gate)
    yield f"{published}.up_proj.weight", Place((hidden, width), f"{ours}.w_in", up)
    yield f"{published}.down_proj.weight", Place((width, hidden), f"{ours}.w_out", index)


def infer_config(shapes: Mapping[str, Shape], source: str, *, heads: int | None = None) -> dict[str, Any]:
    """The arguments of `DiTMoE` that a published checkpoint with these `shapes` needs; all but how many experts a
    token goes to, which no shape tells.

    `heads` overrides the number of attention heads; else it is that of the head norms, or of the named configuration
    of this width. `source` names the checkpoint in errors.

    Raises:
        UserError: what tells a size is not there, or the heads are unknown.
    """

    def shape(key: str, dimensions: int) -> Shape:
        if len(shapes.get(key, ())) != dimensions:
            found = f"has shape {list(shapes[key])}" if key in shapes else "is missing"
            raise UserError(
                f"{source} is no DiT-MoE checkpoint, or a damaged one: {key} {found}; it holds {_some(sorted(shapes))}"
            )
        return shapes[key]

    width, in_channels, patch, _ = shape("x_embedder.proj.weight", 4)
    tokens = shape("pos_embed", 3)[1]
    gates = [
        found[0] for key, found in shapes.items() if re.fullmatch(r"blocks\.\d+\.moe\.gate\.weight", key) and found
    ]
    norms = [found[0] for key, found in shapes.items() if key.endswith("attn.q_norm.weight") and found]
    blocks = {int(key.split(".")[1]) for key in shapes if re.match(r"blocks\.\d+\.", key)}
    if heads is None:
        heads = width // _usual(norms) if norms else usual_heads(width)
    if heads is None or heads < 1 or width % heads:
        raise UserError(
            f"how many attention heads {source} has cannot be told from its shapes (width {width}; got {heads}); "
            "give a number that divides the width as num_attention_heads"
        )
    if not gates:
        raise UserError(f"{source} has no router (blocks.N.moe.gate.weight): it is no DiT-MoE checkpoint")
    hidden = [found[0] for key, found in shapes.items() if ".moe.experts." in key and key.endswith("gate_proj.weight")]
    shared = [found[0] for key, found in shapes.items() if key.endswith("moe.shared_experts.gate_proj.weight")]
    return {
        "sample_size": patch * round(tokens**0.5),
        "patch_size": patch,
        "in_channels": in_channels,
        "out_channels": shape("final_layer.linear.weight", 2)[0] // patch**2,
        "num_layers": max(blocks) + 1,
        "hidden_size": width,
        "num_attention_heads": heads,
        # What most blocks say, so that a block that is off is the one named.
        "num_experts": _usual(gates),
        "num_classes": shape("y_embedder.embedding_table.weight", 2)[0] - 1,
        "qk_norm": bool(norms),
        "expert_hidden_size": _usual(hidden) if hidden else 4 * width,
        "shared_expert_hidden_size": _usual(shared) if shared else 0,
    }


def config_of(shapes: Mapping[str, Shape], source: str, *, heads: int | None = None) -> dict[str, Any]:
    """As `infer_config`, once every tensor is known to have its place (`check_layout`)."""
    if any(key.endswith("moe.experts.w_in") for key in shapes):
        raise UserError(f"{source} is converted already; give the folder it lies in, with its config.json")
    config = infer_config(shapes, source, heads=heads)
    check_layout(shapes, layout_of(shapes, config), source, config["num_experts"])
    return config


def layout_of(shapes: Mapping[str, Shape], config: Mapping[str, Any]) -> dict[str, Place]:
    """The layout of a published checkpoint with these keys."""
    return published_layout(config, flash=any(key.endswith("attn.Wqkv.weight") for key in shapes))


def check_layout(shapes: Mapping[str, Shape], layout: Mapping[str, Place], source: str, num_experts: int) -> None:
    """Raises `UserError` naming every way in which `shapes` is not `layout`: expert counts, keys, shapes."""
    missing = [key for key in layout if key not in shapes]
    unexpected = [key for key in shapes if key not in layout]
    wrong = [
        f"{key} {list(shapes[key])} instead of {list(place.shape)}"
        for key, place in layout.items()
        if key in shapes and shapes[key] != place.shape
    ]
    if not (missing or unexpected or wrong):
        return
    problems = [
        f"block {block} has {count} experts where the routers score {num_experts}"
        for block, count in _experts_per_block(shapes).items()
        if count != num_experts
    ]
    problems += [
        f"{title}: {_some(names)}"
        for title, names in (("missing keys", missing), ("unexpected keys", unexpected), ("wrong shapes", wrong))
        if names
    ]
    raise UserError(f"{source} does not fit the network its shapes describe. " + "; ".join(problems))


def _experts_per_block(shapes: Mapping[str, Shape]) -> dict[int, int]:
    found = {match.groups() for key in shapes if (match := re.match(r"blocks\.(\d+)\.moe\.experts\.(\d+)\.", key))}
    return dict(sorted(Counter(int(block) for block, _ in found).items()))


def _usual(values: Sequence[int]) -> int:
    return Counter(values).most_common(1)[0][0]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) + more) or "nothing"
