"""open_clip's names of a CLIP's parameters as transformers' `CLIPModel` has them.

open_clip keeps one matrix for queries, keys and values, and projections that are multiplied from the right; the towers
are the same otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from vbench_eval.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

_WHOLE = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",  # transformers spells it so
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
_TURNED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
_IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_UNUSED = {"attn_mask"}  # the causal mask, which older files keep
_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")


def to_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same parameters under the names of `CLIPModel`, float32.

    Raises:
        UserError: a name that open_clip's ViT does not have.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        name = name.removeprefix("module.")
        if name in _UNUSED:
            continue
        tensor = tensor.detach().float()
        if name in _WHOLE:
            found[_WHOLE[name]] = tensor
        elif name in _TURNED:
            found[_TURNED[name]] = tensor.T.contiguous()
        elif block := _BLOCK.fullmatch(name):
            found |= _block(block[1], block[2], block[3], tensor)
        else:
            raise UserError(f"{name} is no parameter of open_clip's CLIP ViT; give a file with its state dict")
    return found


def _block(visual: str | None, number: str, inner: str, tensor: Tensor) -> dict[str, Tensor]:
    layer = f"{'vision' if visual else 'text'}_model.encoder.layers.{number}"
    if inner in ("attn.in_proj_weight", "attn.in_proj_bias"):
        kind = inner.rpartition("_")[2]
        parts = zip("qkv", tensor.chunk(3), strict=True)
        return {f"{layer}.self_attn.{letter}_proj.{kind}": part.contiguous() for letter, part in parts}
    module, _, kind = inner.rpartition(".")
    if module not in _IN_BLOCK or kind not in ("weight", "bias"):
        raise UserError(f"{inner} is no parameter of a block of open_clip's CLIP ViT; give a file with its state dict")
    return {f"{layer}.{_IN_BLOCK[module]}.{kind}": tensor}
