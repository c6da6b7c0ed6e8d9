"""CLIP's image towers as frame encoders, through transformers, behind the resizing and cropping that VBench does."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vbench_eval.backbones.finding import sha256
from vbench_eval.backbones.loading import is_archive, load_state, origin, placed, pretrained
from vbench_eval.backbones.weights import WEIGHTS, Weights
from vbench_eval.errors import UserError, malformed
from vbench_eval.files import read_json
from vbench_eval.resizing import centre_crop, resize, shorter_side_size, to_float

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
BATCH = 32
# What is in CLIP files beside the image tower: the text tower, the temperature, index buffers of old versions.
BESIDE_THE_TOWER = r"text_model\.|text_projection\.|logit_scale|.*position_ids"
POSITIONS = r".*position_ids$"  # which old files keep
NOT_PARAMETERS = ("input_resolution", "context_length", "vocab_size")
# open_clip's and OpenAI's names of a CLIP's parameters as transformers' `CLIPModel` has them. They keep one matrix for
# queries, keys and values, and projections that are multiplied from the right; the towers are the same otherwise.
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


class ClipEncoder:
    """Frames to image features in the space shared with texts, float32."""

    def __init__(self, network: nn.Module, *, provenance: Mapping[str, Any], antialias: bool) -> None:
        self.name = str(provenance["id"])
        self.dim = int(network.config.projection_dim)
        self._side = int(network.config.image_size)
        self._network, self._provenance, self._antialias = network, dict(provenance), antialias

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Returns features `[T, dim]`, on the CPU, of frames `[T, H, W, 3]`, uint8 RGB."""
        weight = next(self._network.parameters())
        found = []
        for some in frames.split(BATCH):
            pixels = self.prepare(some.to(weight.device)).to(weight.dtype)
            found.append(self._network(pixel_values=pixels).image_embeds.float().cpu())
        return torch.cat(found)

    def prepare(self, frames: Tensor) -> Tensor:
        """Returns normalised pixels `[T, 3, n, n]`: shorter side to n, bicubic, unclamped; the middle."""
        height, width = frames.shape[1:3]
        size = shorter_side_size(height, width, self._side)
        x = resize(to_float(frames), size, mode="bicubic", antialias=self._antialias)
        x = centre_crop(x, self._side) / 255
        mean, std = (torch.tensor(values, device=x.device)[:, None, None] for values in (MEAN, STD))
        return (x - mean) / std

    def provenance(self) -> dict[str, Any]:
        return dict(self._provenance)


def load_clip(
    name: str,
    path: Path,
    *,
    antialias: bool,
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
    allow_pickle: bool = False,
    cache: str | os.PathLike[str] | None = None,
) -> ClipEncoder:
    """Returns the encoder called `name` ("clip_vit_b_32", "clip_vit_l_14") from a folder or from OpenAI's own file.

    The folder is a CLIP, or an image tower with its projection, that transformers saved. The file is OpenAI's
    (ViT-B-32.pt), or a state with the names of its parameters; it is taken to use OpenAI's fast GELU.
    VBench's own package runs it in float16 on CUDA and in float32 on a CPU; here it is float32 unless `dtype` says.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    weights = WEIGHTS[name]
    if path.is_dir():
        network = pretrained(
            CLIPVisionModelWithProjection, path, allowed_extra=BESIDE_THE_TOWER, config=_tower_config(path)
        )
    else:
        state = openai_state(path, weights, allow_pickle=allow_pickle, cache=cache)
        tower = {key: value for key, value in state.items() if key.startswith("visual.")}
        config = CLIPVisionConfig(**tower_sizes(tower, source=str(path)), hidden_act="quick_gelu")
        network = pretrained(
            CLIPVisionModelWithProjection, None, source=path, config=config, state_dict=to_transformers(tower)
        )
    placed(network, device, dtype)
    return ClipEncoder(network, provenance=origin(weights, path, network, cache=cache), antialias=antialias)


def _tower_config(folder: Path) -> Any:
    from transformers import CLIPConfig, CLIPVisionConfig

    # The class is chosen here: transformers' Auto classes may run code that a folder brings.
    found = read_json(folder / "config.json", "configuration")
    kind = found.get("model_type") if isinstance(found, dict) else None
    if kind not in ("clip", "clip_vision_model"):
        raise UserError(f"{folder} holds a {kind}, not a CLIP or its image tower")
    with malformed(f"{folder / 'config.json'}", "download the folder again"):
        if kind == "clip_vision_model":
            return CLIPVisionConfig.from_pretrained(folder, local_files_only=True)
        config = CLIPConfig.from_pretrained(folder, local_files_only=True)
    tower = config.vision_config
    tower.projection_dim = config.projection_dim  # a whole CLIP says it once, for both towers
    return tower


def openai_state(
    path: Path, weights: Weights, *, allow_pickle: bool, cache: str | os.PathLike[str] | None = None
) -> dict[str, Tensor]:
    """Returns the parameters, by OpenAI's names, of a TorchScript archive as OpenAI publishes it or of a saved state.

    An archive is a program. It is opened only if its sha256 is the published one, or with `allow_pickle`; else
    UserError says so.
    """
    if not is_archive(path):
        state = load_state(path, allow_pickle=allow_pickle)
    else:
        found = sha256(path, cache=cache)
        if found != weights.sha256 and not allow_pickle:
            raise UserError(
                f"{path} is a TorchScript program, and not the published one (its sha256 is {found}, not "
                f"{weights.sha256}); if you trust who made it, allow it with --allow-pickle"
            )
        try:
            state = torch.jit.load(path, map_location="cpu").state_dict()
        except RuntimeError as error:
            raise UserError(f"{path} cannot be read as a TorchScript archive: {str(error).splitlines()[0]}") from error
    return {key: value for key, value in state.items() if key not in NOT_PARAMETERS}


def tower_sizes(tower: Mapping[str, Tensor], *, source: str) -> dict[str, int]:
    """Returns the arguments of CLIPVisionConfig for an image tower with OpenAI's names; UserError if it is none.

    All of OpenAI's vision transformers have heads of 64 channels and hidden layers four times as wide.
    """
    needed = ("visual.conv1.weight", "visual.positional_embedding", "visual.proj")
    if absent := [key for key in needed if key not in tower]:
        raise UserError(f"{source} is not a CLIP vision transformer: it has no {', '.join(absent)}")
    width, _, patch, _ = tower["visual.conv1.weight"].shape
    layers = {key.split(".")[3] for key in tower if key.startswith("visual.transformer.resblocks.")}
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, width // 64),
        "patch_size": patch,
        "image_size": patch * round((tower["visual.positional_embedding"].shape[0] - 1) ** 0.5),
        "projection_dim": tower["visual.proj"].shape[1],
    }


def both_towers(
    path: Path, weights: Weights, *, allow_pickle: bool = False, cache: str | os.PathLike[str] | None = None
) -> Any:
    """Returns transformers' `CLIPModel` from a folder that it saved or from a file of OpenAI's, float32 on the CPU."""
    from transformers import CLIPModel

    if path.is_dir():
        return pretrained(CLIPModel, path, allowed_extra=POSITIONS)
    state = openai_state(path, weights, allow_pickle=allow_pickle, cache=cache)
    config = _openai_config(state, source=str(path))
    return pretrained(CLIPModel, None, source=path, config=config, state_dict=to_transformers(state))


def _openai_config(state: Mapping[str, Tensor], *, source: str) -> Any:
    """Returns the `CLIPConfig` of a state with OpenAI's names (heads of 64 channels); UserError if it is none."""
    from transformers import CLIPConfig

    vision = tower_sizes(state, source=source)
    needed = ("token_embedding.weight", "positional_embedding", "text_projection")
    if absent := [key for key in needed if key not in state]:
        raise UserError(f"{source} holds no text tower: it has no {', '.join(absent)}")
    words, width = state["token_embedding.weight"].shape
    layers = {key.split(".")[2] for key in state if key.startswith("transformer.resblocks.")}
    text = {
        "vocab_size": words,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, width // 64),
        "max_position_embeddings": state["positional_embedding"].shape[0],
        "bos_token_id": words - 2,
        "eos_token_id": words - 1,
    }
    gelu = {"hidden_act": "quick_gelu"}
    return CLIPConfig(text_config=text | gelu, vision_config=vision | gelu, projection_dim=vision["projection_dim"])


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
