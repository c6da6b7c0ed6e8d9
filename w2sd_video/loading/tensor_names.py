"""The tensors that a network must have, by its config alone: names and shapes, where no class is built (no torch).

Of UNets of Stable Diffusion (SD 1.5, SDXL) and of Flux.1, in diffusers' layout and in the original one of single files.
Where a config has a setting that changes the layers in another way than is written down here, nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from w2sd_video.loading.original_layouts import flux_layout, unet_in_original

Shapes = dict[str, tuple[int, ...]]
# Settings of UNets that change their layers, and what they must be for the names to be known.
PLAIN_UNET: Mapping[str, tuple[Any, ...]] = {
    "addition_embed_type": (None, "text_time"),
    "attention_type": (None, "default"),
    "class_embed_type": (None,),
    "class_embeddings_concat": (None, False),
    "conv_in_kernel": (None, 3),
    "conv_out_kernel": (None, 3),
    "cross_attention_norm": (None,),
    "dual_cross_attention": (None, False),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_type": (None, "UNetMidBlock2DCrossAttn"),
    "num_class_embeds": (None,),
    "only_cross_attention": (None, False),
    "resnet_out_scale_factor": (None, 1.0),
    "resnet_skip_time_act": (None, False),
    "resnet_time_scale_shift": (None, "default"),
    "reverse_transformer_layers_per_block": (None,),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": (None, "positional"),
    "timestep_post_act": (None,),
}
DOWN, UP = ("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")


def expected_tensors(config: Mapping[str, Any], *, original: bool = False) -> Shapes | None:
    """Returns the shapes of a network's tensors by name; None for a network that is not written down here, and for a
    config with values of other kinds than its class takes, which that class refuses.

    `original` gives the tensors of single files, by their names without what stands before all of them.
    """
    try:
        return _expected(config, original)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def _expected(config: Mapping[str, Any], original: bool) -> Shapes | None:
    kind = config.get("_class_name")
    if kind == "UNet2DConditionModel" and _is_plain(config):
        found = dict(_unet(config))
        return {unet_in_original(name, config): shape for name, shape in found.items()} if original else found
    if kind == "FluxTransformer2DModel" and config.get("patch_size", 1) == 1 and _width(config):
        found = dict(_flux(config))
        if not original:
            return found
        layout = flux_layout(found)
        return {
            name: (sum(found[piece.name][0] for piece in cut), *found[cut[0].name][1:]) for name, cut in layout.items()
        }
    return None


def _is_plain(config: Mapping[str, Any]) -> bool:
    downs, ups = config.get("down_block_types") or (), config.get("up_block_types") or ()
    lengths = {len(downs), len(ups), len(config.get("block_out_channels") or ())}
    plain = all(config.get(name) in allowed for name, allowed in PLAIN_UNET.items())
    return (
        plain
        and len(lengths) == 1
        and {*downs} <= {*DOWN}
        and {*ups} <= {*UP}
        and bool(downs)
        and config.get("act_fn", "silu") == "silu"
        and isinstance(config.get("layers_per_block", 2), int)
        and isinstance(config.get("cross_attention_dim", 1280), int)
        and all(isinstance(each, int) for each in _per_block(config, "transformer_layers_per_block", 1))
        and config.get("norm_num_groups", 32) is not None
    )


def _per_block(config: Mapping[str, Any], name: str, default: int) -> list[Any]:
    value = config.get(name, default)
    return list(value) if isinstance(value, list | tuple) else [value] * len(config["block_out_channels"])


# -- layers -----------------------------------------------------------------------------------------------------------


def _layer(name: str, *shape: int, bias: bool = True) -> Iterator[tuple[str, tuple[int, ...]]]:
    """A linear layer or a convolution (with the size of its kernel), or a norm."""
    yield f"{name}.weight", shape
    if bias:
        yield f"{name}.bias", shape[:1]


def _resnet(name: str, into: int, out: int, embedded: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _layer(f"{name}.norm1", into)
    yield from _layer(f"{name}.conv1", out, into, 3, 3)
    yield from _layer(f"{name}.time_emb_proj", out, embedded)
    yield from _layer(f"{name}.norm2", out)
    yield from _layer(f"{name}.conv2", out, out, 3, 3)
    if into != out:
        yield from _layer(f"{name}.conv_shortcut", out, into, 1, 1)


def _attentions(name: str, width: int, layers: int, text: int, linear: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    projection = (width, width) if linear else (width, width, 1, 1)
    yield from _layer(f"{name}.norm", width)
    yield from _layer(f"{name}.proj_in", *projection)
    yield from _layer(f"{name}.proj_out", *projection)
    for i in range(layers):
        block = f"{name}.transformer_blocks.{i}"
        for norm in ("norm1", "norm2", "norm3"):
            yield from _layer(f"{block}.{norm}", width)
        for attention, source in (("attn1", width), ("attn2", text)):
            yield from _layer(f"{block}.{attention}.to_q", width, width, bias=False)
            yield from _layer(f"{block}.{attention}.to_k", width, source, bias=False)
            yield from _layer(f"{block}.{attention}.to_v", width, source, bias=False)
            yield from _layer(f"{block}.{attention}.to_out.0", width, width)
        yield from _layer(f"{block}.ff.net.0.proj", 8 * width, width)
        yield from _layer(f"{block}.ff.net.2", width, 4 * width)


def _unet(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    widths = list(config["block_out_channels"])
    layers, text = config.get("layers_per_block", 2), config.get("cross_attention_dim", 1280)
    depths, linear = _per_block(config, "transformer_layers_per_block", 1), bool(config.get("use_linear_projection"))
    embedded = 4 * widths[0]
    yield from _layer("conv_in", widths[0], config.get("in_channels", 4), 3, 3)
    yield from _layer("time_embedding.linear_1", embedded, widths[0])
    yield from _layer("time_embedding.linear_2", embedded, embedded)
    if config.get("addition_embed_type") == "text_time":
        yield from _layer("add_embedding.linear_1", embedded, config["projection_class_embeddings_input_dim"])
        yield from _layer("add_embedding.linear_2", embedded, embedded)
    for i, (kind, width) in enumerate(zip(config["down_block_types"], widths, strict=True)):
        for j in range(layers):
            into = width if j else widths[max(0, i - 1)]
            yield from _resnet(f"down_blocks.{i}.resnets.{j}", into, width, embedded)
            if kind == DOWN[1]:
                yield from _attentions(f"down_blocks.{i}.attentions.{j}", width, depths[i], text, linear)
        if i < len(widths) - 1:
            yield from _layer(f"down_blocks.{i}.downsamplers.0.conv", width, width, 3, 3)
    for j in range(2):
        yield from _resnet(f"mid_block.resnets.{j}", widths[-1], widths[-1], embedded)
    yield from _attentions("mid_block.attentions.0", widths[-1], depths[-1], text, linear)
    for i, kind in enumerate(config["up_block_types"]):
        width, below = widths[-1 - i], widths[-max(1, i)]
        skipped = widths[max(0, len(widths) - 2 - i)]
        for j in range(layers + 1):
            into = (width if j else below) + (skipped if j == layers else width)
            yield from _resnet(f"up_blocks.{i}.resnets.{j}", into, width, embedded)
            if kind == UP[1]:
                yield from _attentions(f"up_blocks.{i}.attentions.{j}", width, depths[-1 - i], text, linear)
        if i < len(widths) - 1:
            yield from _layer(f"up_blocks.{i}.upsamplers.0.conv", width, width, 3, 3)
    yield from _layer("conv_norm_out", widths[0])
    yield from _layer("conv_out", config.get("out_channels", 4), widths[0], 3, 3)


def _width(config: Mapping[str, Any]) -> int:
    return int(config.get("num_attention_heads", 24) * config.get("attention_head_dim", 128))


def _flux(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, head, into = _width(config), config.get("attention_head_dim", 128), config.get("in_channels", 64)
    guided = config.get("guidance_embeds", False)
    times = ("timestep_embedder", *(("guidance_embedder",) if guided else ()))
    for name in times:
        yield from _layer(f"time_text_embed.{name}.linear_1", width, 256)
        yield from _layer(f"time_text_embed.{name}.linear_2", width, width)
    yield from _layer("time_text_embed.text_embedder.linear_1", width, config.get("pooled_projection_dim", 768))
    yield from _layer("time_text_embed.text_embedder.linear_2", width, width)
    yield from _layer("context_embedder", width, config.get("joint_attention_dim", 4096))
    yield from _layer("x_embedder", width, into)
    for i in range(config.get("num_layers", 19)):
        block = f"transformer_blocks.{i}"
        for side in ("", "_context"):
            yield from _layer(f"{block}.norm1{side}.linear", 6 * width, width)
            yield from _layer(f"{block}.ff{side}.net.0.proj", 4 * width, width)
            yield from _layer(f"{block}.ff{side}.net.2", width, 4 * width)
        for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"):
            yield from _layer(f"{block}.attn.{name}", width, width)
        for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            yield from _layer(f"{block}.attn.{name}", head, bias=False)
    for i in range(config.get("num_single_layers", 38)):
        block = f"single_transformer_blocks.{i}"
        yield from _layer(f"{block}.norm.linear", 3 * width, width)
        yield from _layer(f"{block}.proj_mlp", 4 * width, width)
        yield from _layer(f"{block}.proj_out", width, 5 * width)
        for name in ("to_q", "to_k", "to_v"):
            yield from _layer(f"{block}.attn.{name}", width, width)
        for name in ("norm_q", "norm_k"):
            yield from _layer(f"{block}.attn.{name}", head, bias=False)
    yield from _layer("norm_out.linear", 2 * width, width)
    yield from _layer("proj_out", config.get("out_channels") or into, width)
