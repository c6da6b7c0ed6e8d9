"""Write pipelines as one .safetensors file in their original layouts, as checkpoints are passed around."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
WHOLE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def unet_to_ldm(unet: Any) -> dict[str, Tensor]:
    layers = unet.config["layers_per_block"]
    attended = {
        (side, i): "CrossAttn" in name
        for side in ("down", "up")
        for i, name in enumerate(unet.config[f"{side}_block_types"])
    }

    def rename(name: str) -> str:
        for ours, theirs in WHOLE.items():
            if name.startswith(ours + "."):
                return theirs + name[len(ours) :]
        found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name)
        if found:
            side, block, kind, index, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
            if side == "down":
                place = f"input_blocks.{1 + block * (layers + 1) + (layers if kind == 'downsamplers' else index)}"
            else:
                place = f"output_blocks.{block * (layers + 1) + (layers if kind == 'upsamplers' else index)}"
            if kind == "downsamplers":
                return f"{place}.0.{rest.replace('conv', 'op', 1)}"
            if kind == "upsamplers":
                return f"{place}.{2 if attended[side, block] else 1}.{rest}"
            return f"{place}.{1 if kind == 'attentions' else 0}.{resnet(rest) if kind == 'resnets' else rest}"
        found = re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name)
        assert found, name
        if found[1] == "attentions":
            return f"middle_block.1.{found[3]}"
        return f"middle_block.{2 * int(found[2])}.{resnet(found[3])}"

    def resnet(rest: str) -> str:
        part, dot, tail = rest.partition(".")
        return RESNET[part] + dot + tail

    return {"model.diffusion_model." + rename(name): tensor for name, tensor in unet.state_dict().items()}


def vae_to_ldm(vae: Any) -> dict[str, Tensor]:
    blocks = len(vae.config["block_out_channels"])
    renamed = {}
    for name, tensor in vae.state_dict().items():
        name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{blocks - 1 - int(m[1])}.block", name)
        name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", name)
        name = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_shortcut", "nin_shortcut")
        name = name.replace("conv_norm_out", "norm_out").replace("group_norm", "norm")
        name = name.replace("to_out.0", "proj_out")
        name = re.sub(r"attn_1\.to_([qkv])", r"attn_1.\1", name)
        if "attn_1" in name and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]  # the original attends with 1 x 1 convolutions
        renamed["first_stage_model." + name] = tensor
    return renamed


def text_encoder_to_ldm(encoder: Any) -> dict[str, Tensor]:
    prefix = "conditioner.embedders.0.transformer.text_model."
    return {prefix + name.removeprefix("text_model."): tensor for name, tensor in encoder.state_dict().items()}


def text_encoder_2_to_ldm(encoder: Any) -> dict[str, Tensor]:
    """The second encoder as OpenCLIP keeps it: query, key and value in one matrix, the projection transposed."""
    whole = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    parts = {
        "self_attn.out_proj": "attn.out_proj",
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    state = {name.removeprefix("text_model."): tensor for name, tensor in encoder.state_dict().items()}
    renamed = {"text_projection": state.pop("text_projection.weight").T.contiguous()}
    for name, tensor in state.items():
        found = re.fullmatch(r"encoder\.layers\.(\d+)\.(.*)\.(weight|bias)", name)
        if not found:
            renamed[whole[name]] = tensor
        elif found[2] == "self_attn.q_proj":
            joined = [state[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            renamed[f"transformer.resblocks.{found[1]}.attn.in_proj_{found[3]}"] = torch.cat(joined)
        elif found[2] in parts:
            renamed[f"transformer.resblocks.{found[1]}.{parts[found[2]]}.{found[3]}"] = tensor
    return {"conditioner.embedders.1.model." + name: tensor for name, tensor in renamed.items()}


def save_single_file(pipe: Any, path: Path, *, text: bool = True, vae: bool = True, **extra: Tensor) -> Path:
    """Save the SDXL pipeline at `path`, without its text encoders or VAE where asked, and return `path`."""
    tensors = unet_to_ldm(pipe.unet)
    if vae:
        tensors |= vae_to_ldm(pipe.vae)
    if text:
        tensors |= text_encoder_to_ldm(pipe.text_encoder) | text_encoder_2_to_ldm(pipe.text_encoder_2)
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in (tensors | extra).items()}, path)
    return path


def save_sd15_file(pipe: Any, path: Path) -> Path:
    """Save an SD 1.5 pipeline at `path` in its original layout, and return `path`."""
    prefix = "cond_stage_model.transformer.text_model."
    text = {
        prefix + name.removeprefix("text_model."): tensor for name, tensor in pipe.text_encoder.state_dict().items()
    }
    tensors = unet_to_ldm(pipe.unet) | vae_to_ldm(pipe.vae) | text
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, path)
    return path


# -- Flux --------------------------------------------------------------------------------------------------------------

FLUX_WHOLE = {
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
FLUX_DOUBLE = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
}
FLUX_DOUBLE_NORMS = {
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
}
FLUX_SINGLE = {"norm.linear": "modulation.lin", "proj_out": "linear2"}
FLUX_SINGLE_NORMS = {"attn.norm_q": "norm.query_norm", "attn.norm_k": "norm.key_norm"}


def flux_to_original(transformer: Any) -> dict[str, Tensor]:
    state = {name: tensor.detach() for name, tensor in transformer.state_dict().items()}
    renamed: dict[str, Tensor] = {}

    def move(ours: str, theirs: str, *kinds: str) -> None:
        for kind in kinds:
            renamed[f"{theirs}.{'scale' if 'norm.' in theirs else kind}"] = state.pop(f"{ours}.{kind}")

    def join(theirs: str, *ours: str) -> None:
        for kind in ("weight", "bias"):
            renamed[f"{theirs}.{kind}"] = torch.cat([state.pop(f"{name}.{kind}") for name in ours])

    for ours, theirs in FLUX_WHOLE.items():
        if f"{ours}.weight" in state:
            move(ours, theirs, "weight", "bias")
    for kind in ("weight", "bias"):  # the original keeps shift before scale
        scale, shift = state.pop(f"norm_out.linear.{kind}").chunk(2)
        renamed[f"final_layer.adaLN_modulation.1.{kind}"] = torch.cat([shift, scale])
    for i in range(transformer.config.num_layers):
        block, original = f"transformer_blocks.{i}", f"double_blocks.{i}"
        join(f"{original}.img_attn.qkv", *(f"{block}.attn.to_{letter}" for letter in "qkv"))
        join(f"{original}.txt_attn.qkv", *(f"{block}.attn.add_{letter}_proj" for letter in "qkv"))
        for ours, theirs in FLUX_DOUBLE.items():
            move(f"{block}.{ours}", f"{original}.{theirs}", "weight", "bias")
        for ours, theirs in FLUX_DOUBLE_NORMS.items():
            move(f"{block}.{ours}", f"{original}.{theirs}", "weight")
    for i in range(transformer.config.num_single_layers):
        block, original = f"single_transformer_blocks.{i}", f"single_blocks.{i}"
        join(f"{original}.linear1", *(f"{block}.attn.to_{letter}" for letter in "qkv"), f"{block}.proj_mlp")
        for ours, theirs in FLUX_SINGLE.items():
            move(f"{block}.{ours}", f"{original}.{theirs}", "weight", "bias")
        for ours, theirs in FLUX_SINGLE_NORMS.items():
            move(f"{block}.{ours}", f"{original}.{theirs}", "weight")
    assert not state, sorted(state)
    return renamed


def save_flux_file(transformer: Any, path: Path, *, prefix: str = "") -> Path:
    """Save the transformer at `path`, its tensors' names after `prefix`, and return `path`."""
    save_file(
        {prefix + name: tensor.clone().contiguous() for name, tensor in flux_to_original(transformer).items()}, path
    )
    return path
