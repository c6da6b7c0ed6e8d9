"""What the tensors of single files are in diffusers' layout (no torch).

A tensor there may be several here, which are rows of it: the projections of an attention, say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Piece:
    """A tensor of diffusers' layout: these rows of one of a single file (None: all of it), and what is done to them:
    their two halves exchanged, or the matrix transposed.
    """

    name: str
    rows: tuple[int, int] | None = None
    change: Literal["", "halves", "transposed"] = ""


Layout = dict[str, tuple[Piece, ...]]

# -- UNets of Stable Diffusion ----------------------------------------------------------------------------------------

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
AROUND = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def unet_in_original(name: str, config: Mapping[str, Any]) -> str:
    """Returns what a UNet's tensor is called in a single file: its blocks are numbered through, layers and sampling
    alike.
    """
    layers = config.get("layers_per_block", 2) + 1
    owner, _, leaf = name.rpartition(".")
    if owner in AROUND:
        return f"{AROUND[owner]}.{leaf}"
    found = re.fullmatch(r"(?:(down|up)_blocks\.(\d+)|mid_block)\.(\w+)\.(\d+)\.(.*)", name)
    assert found is not None, name
    side, block, kind, index, rest = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
    if kind == "resnets":
        part, _, leaf = rest.partition(".")
        rest = f"{RESNET[part]}.{leaf}"
    if side is None:
        return f"middle_block.{1 if kind == 'attentions' else 2 * index}.{rest}"
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * layers}.0.op.{leaf}"
    if kind == "upsamplers":
        attended = str(config["up_block_types"][block]).startswith("CrossAttn")
        return f"output_blocks.{block * layers + layers - 1}.{2 if attended else 1}.{rest}"
    place = (
        f"input_blocks.{1 + block * layers + index}" if side == "down" else f"output_blocks.{block * layers + index}"
    )
    return f"{place}.{1 if kind == 'attentions' else 0}.{rest}"


# -- Flux.1 -----------------------------------------------------------------------------------------------------------

FLUX_AROUND = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    **{
        f"{theirs}.{layer}": f"time_text_embed.{ours}.linear_{number}"
        for theirs, ours in (
            ("time_in", "timestep_embedder"),
            ("vector_in", "text_embedder"),
            ("guidance_in", "guidance_embedder"),
        )
        for number, layer in ((1, "in_layer"), (2, "out_layer"))
    },
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",  # whose halves, scale and shift, are exchanged
}
FLUX_DOUBLE = {
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_attn.norm.query_norm": ("attn.norm_q",),
    "img_attn.norm.key_norm": ("attn.norm_k",),
    "txt_attn.norm.query_norm": ("attn.norm_added_q",),
    "txt_attn.norm.key_norm": ("attn.norm_added_k",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
}
FLUX_SINGLE = {
    "modulation.lin": ("norm.linear",),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "norm.query_norm": ("attn.norm_q",),
    "norm.key_norm": ("attn.norm_k",),
}


def flux_layout(shapes: Mapping[str, tuple[int, ...]]) -> Layout:
    """Returns the tensors of a Flux.1 in Black Forest Labs' layout; those of these shapes, by name, are their rows."""
    owners = {theirs: (ours,) for theirs, ours in FLUX_AROUND.items()}
    for theirs, ours, table in (
        ("double_blocks", "transformer_blocks", FLUX_DOUBLE),
        ("single_blocks", "single_transformer_blocks", FLUX_SINGLE),
    ):
        for i in sorted({int(name.split(".")[1]) for name in shapes if name.startswith(f"{ours}.")}):
            owners |= {f"{theirs}.{i}.{a}": tuple(f"{ours}.{i}.{each}" for each in b) for a, b in table.items()}  # type: ignore[misc]
    layout: Layout = {}
    for theirs, names in owners.items():
        for leaf in ("weight", "bias"):
            if f"{names[0]}.{leaf}" in shapes:
                source = f"{theirs}.{'scale' if theirs.endswith('_norm') else leaf}"
                layout[source] = tuple(_rows([f"{name}.{leaf}" for name in names], shapes))
    return layout


def _rows(names: Iterable[str], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Piece]:
    """Tensors one below the other in one."""
    start = 0
    for name in names:
        stop = start + shapes[name][0]
        yield Piece(name, (start, stop), "halves" if name.startswith("norm_out.") else "")
        start = stop


# -- CLIP's text encoders ---------------------------------------------------------------------------------------------

OPEN_CLIP = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
UNUSED_TEXT = ("position_ids", "logit_scale")


def text_layout(shapes: Mapping[str, tuple[int, ...]]) -> Layout:
    """Returns what tensors of a text encoder of these shapes, by their names in a single file of SDXL or SD 1.5 (after
    what stands before all of them), are in transformers' layout; OpenCLIP's, and CLIP's under its own names.
    """
    layout: Layout = {}
    for name, shape in shapes.items():
        found = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.*?)[._](weight|bias)", name)
        if name.endswith(UNUSED_TEXT):
            continue
        if name == "text_projection":
            layout[name] = (Piece("text_projection.weight", None, "transposed"),)
        elif found is None:
            layout[name] = (Piece(OPEN_CLIP.get(name, name)),)
        elif found[2] == "attn.in_proj":
            third, layer = shape[0] // 3, f"text_model.encoder.layers.{found[1]}.self_attn"
            layout[name] = tuple(
                Piece(f"{layer}.{each}_proj.{found[3]}", (i * third, (i + 1) * third)) for i, each in enumerate("qkv")
            )
        else:
            part = OPEN_CLIP_LAYER.get(found[2], found[2])
            layout[name] = (Piece(f"text_model.encoder.layers.{found[1]}.{part}.{found[3]}"),)
    return layout
