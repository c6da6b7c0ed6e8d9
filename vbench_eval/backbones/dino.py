"""DINO ViT-B/16 as a frame encoder, through transformers, with the original network's way to take oblong frames."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.Image import Resampling
from torch import Tensor, nn

from vbench_eval.backbones.loading import load_state, origin, placed, pretrained
from vbench_eval.backbones.weights import WEIGHTS
from vbench_eval.errors import UserError
from vbench_eval.resizing import centre_crop, resize, shorter_side_size, to_float

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 224
I2V_SIDE = 256
BATCH = 16
BICUBIC = Resampling.BICUBIC
EPSILON = 1e-6  # of the original network; the hub's configuration says 1e-12


class DinoEncoder:
    """Frames to the class token after the last normalisation, float32."""

    def __init__(self, network: nn.Module, *, provenance: Mapping[str, Any], antialias: bool) -> None:
        self.name = str(provenance["id"])
        self.dim = int(network.config.hidden_size)
        self._network, self._provenance, self._antialias = network, dict(provenance), antialias
        embeddings = network.embeddings
        patch = int(network.config.patch_size)

        def table(tokens: Tensor, height: int, width: int) -> Tensor:
            return position_table(embeddings.position_embeddings, height, width, patch=patch)

        # transformers asks this method of its embeddings; its own interpolates to a size, DINO's by a scale.
        embeddings.interpolate_pos_encoding = table

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Returns features `[T, dim]`, on the CPU, of frames `[T, H, W, 3]`, uint8 RGB."""
        weight = next(self._network.parameters())
        found = []
        for some in frames.split(BATCH):
            pixels = self.prepare(some.to(weight.device)).to(weight.dtype)
            tokens = self._network(pixels, interpolate_pos_encoding=True).last_hidden_state
            found.append(tokens[:, 0].float().cpu())
        return torch.cat(found)

    def prepare(self, frames: Tensor) -> Tensor:
        """Returns normalised pixels `[T, 3, h, w]` whose shorter side is 224; nothing is cropped."""
        height, width = frames.shape[1:3]
        size = shorter_side_size(height, width, SIDE)
        x = resize(to_float(frames), size, mode="bilinear", antialias=self._antialias) / 255
        mean, std = (torch.tensor(values, device=x.device)[:, None, None] for values in (MEAN, STD))
        return (x - mean) / std

    def provenance(self) -> dict[str, Any]:
        return dict(self._provenance)


class DinoForPictures(DinoEncoder):
    """The same for VBench-I2V: shorter side to 256, bicubic and antialiased, and the middle 224; pictures by Pillow."""

    def prepare(self, frames: Tensor) -> Tensor:
        """Returns normalised pixels `[T, 3, 224, 224]`."""
        size = shorter_side_size(frames.shape[1], frames.shape[2], I2V_SIDE)
        return self._normalised(resize(to_float(frames), size, mode="bicubic", antialias=True))

    @torch.no_grad()
    def encode_picture(self, picture: Image.Image) -> Tensor:
        """Returns features `[1, dim]`, on the CPU."""
        height, width = shorter_side_size(picture.height, picture.width, I2V_SIDE)
        small = torch.from_numpy(np.array(picture.resize((width, height), BICUBIC)))
        weight = next(self._network.parameters())
        pixels = self._normalised(to_float(small[None].to(weight.device))).to(weight.dtype)
        return self._network(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0].float().cpu()

    def _normalised(self, x: Tensor) -> Tensor:
        mean, std = (torch.tensor(values, device=x.device)[:, None, None] for values in (MEAN, STD))
        return (centre_crop(x, SIDE) / 255 - mean) / std


def position_table(table: Tensor, height: int, width: int, *, patch: int) -> Tensor:
    """Returns the position embeddings `[1, 1 + n, dim]` for frames of height x width from the learned square ones.

    DINO stretches the grid by (count + 0.1) / side, and takes that scale, not the resulting size, for where it samples.
    It does so for every frame that is not square, even where the number of patches agrees.
    """
    rows, columns = height // patch, width // patch
    side = round((table.shape[1] - 1) ** 0.5)
    if height == width and rows == side:
        return table
    grid = table[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    scale = ((rows + 0.1) / side, (columns + 0.1) / side)
    stretched = F.interpolate(grid.float(), scale_factor=scale, mode="bicubic")  # bicubic knows no halves on a CPU
    assert stretched.shape[-2:] == (rows, columns)
    return torch.cat([table[:, :1], stretched.to(table.dtype).flatten(2).transpose(1, 2)], dim=1)


def load_dino(
    path: Path,
    *,
    antialias: bool,
    kind: type[DinoEncoder] = DinoEncoder,
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
    allow_pickle: bool = False,
    cache: str | os.PathLike[str] | None = None,
) -> DinoEncoder:
    """Returns the encoder from a folder that transformers saved (facebook/dino-vitb16) or from DINO's own file."""
    from transformers import ViTConfig, ViTModel

    if path.is_dir():
        network = pretrained(ViTModel, path, allowed_extra=r"pooler\.", layer_norm_eps=EPSILON, add_pooling_layer=False)
    else:
        state = load_state(path, allow_pickle=allow_pickle)
        sizes = dino_sizes(state, source=str(path))
        config = ViTConfig(**sizes, layer_norm_eps=EPSILON, qkv_bias=True)
        network = pretrained(
            ViTModel, None, source=path, config=config, state_dict=dino_names(state), add_pooling_layer=False
        )
    placed(network, device, dtype)
    return kind(network, provenance=origin(WEIGHTS["dino_vitb16"], path, network, cache=cache), antialias=antialias)


def dino_sizes(state: Mapping[str, Tensor], *, source: str) -> dict[str, int]:
    """Returns the arguments of ViTConfig for a state with DINO's own names; raises UserError if it is none.

    All of DINO's networks have heads of 64 channels.
    """
    needed = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight")
    if absent := [key for key in needed if key not in state]:
        raise UserError(f"{source} is not a DINO vision transformer: it has no {', '.join(absent)}")
    hidden, _, patch, _ = state["patch_embed.proj.weight"].shape
    return {
        "hidden_size": hidden,
        "num_hidden_layers": 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks.")),
        "num_attention_heads": max(1, hidden // 64),
        "intermediate_size": state["blocks.0.mlp.fc1.weight"].shape[0],
        "patch_size": patch,
        "image_size": patch * round((state["pos_embed"].shape[1] - 1) ** 0.5),
    }


def dino_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a state with DINO's own names under those of the hub's files, which every transformers version reads.

    Queries, keys and values lie in one matrix there, in that order. Names that are not DINO's are kept, to be refused.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if match := re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)", key):
            for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                renamed[f"encoder.layer.{match[1]}.attention.attention.{name}.{match[2]}"] = part.contiguous()
            continue
        for pattern, replacement in _NAMES:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


_NAMES = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layer.\1.attention.output.dense."),
    (r"^blocks\.(\d+)\.norm1\.", r"encoder.layer.\1.layernorm_before."),
    (r"^blocks\.(\d+)\.norm2\.", r"encoder.layer.\1.layernorm_after."),
    (r"^blocks\.(\d+)\.mlp\.fc1\.", r"encoder.layer.\1.intermediate.dense."),
    (r"^blocks\.(\d+)\.mlp\.fc2\.", r"encoder.layer.\1.output.dense."),
)
