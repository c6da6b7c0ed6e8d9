"""Write a Flux transformer as one .safetensors file in its original layout, as checkpoints are passed around."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

WHOLE = {
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    "proj_out": "final_layer.linear",
}
DOUBLE = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
}
DOUBLE_NORMS = {
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
}
SINGLE = {"norm.linear": "modulation.lin", "proj_out": "linear2"}
SINGLE_NORMS = {"attn.norm_q": "norm.query_norm", "attn.norm_k": "norm.key_norm"}


def flux_to_original(transformer: Any) -> dict[str, Tensor]:
    state = {name: tensor.detach() for name, tensor in transformer.state_dict().items()}
    renamed: dict[str, Tensor] = {}

    def move(ours: str, theirs: str, *kinds: str) -> None:
        for kind in kinds:
            renamed[f"{theirs}.{'scale' if 'norm.' in theirs else kind}"] = state.pop(f"{ours}.{kind}")

    def join(theirs: str, *ours: str) -> None:
        for kind in ("weight", "bias"):
            renamed[f"{theirs}.{kind}"] = torch.cat([state.pop(f"{name}.{kind}") for name in ours])

    for ours, theirs in WHOLE.items():
        if f"{ours}.weight" in state:
            move(ours, theirs, "weight", "bias")
    for kind in ("weight", "bias"):  # the original keeps shift before scale
        scale, shift = state.pop(f"norm_out.linear.{kind}").chunk(2)
        renamed[f"final_layer.adaLN_modulation.1.{kind}"] = torch.cat([shift, scale])
    for i in range(transformer.config.num_layers):
        block, original = f"transformer_blocks.{i}", f"double_blocks.{i}"
        join(f"{original}.img_attn.qkv", *(f"{block}.attn.to_{letter}" for letter in "qkv"))
        join(f"{original}.txt_attn.qkv", *(f"{block}.attn.add_{letter}_proj" for letter in "qkv"))
        for ours, theirs in DOUBLE.items():
            move(f"{block}.{ours}", f"{original}.{theirs}", "weight", "bias")
        for ours, theirs in DOUBLE_NORMS.items():
            move(f"{block}.{ours}", f"{original}.{theirs}", "weight")
    for i in range(transformer.config.num_single_layers):
        block, original = f"single_transformer_blocks.{i}", f"single_blocks.{i}"
        join(f"{original}.linear1", *(f"{block}.attn.to_{letter}" for letter in "qkv"), f"{block}.proj_mlp")
        for ours, theirs in SINGLE.items():
            move(f"{block}.{ours}", f"{original}.{theirs}", "weight", "bias")
        for ours, theirs in SINGLE_NORMS.items():
            move(f"{block}.{ours}", f"{original}.{theirs}", "weight")
    assert not state, sorted(state)
    return renamed


def save_flux_file(transformer: Any, path: Path, *, prefix: str = "") -> Path:
    """Save the transformer at `path`, its tensors' names after `prefix`, and return `path`."""
    save_file(
        {prefix + name: tensor.clone().contiguous() for name, tensor in flux_to_original(transformer).items()}, path
    )
    return path
