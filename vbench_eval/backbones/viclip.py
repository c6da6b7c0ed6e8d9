"""ViCLIP-L/14 (InternVid, arXiv 2307.06942): eight frames and a text in one space, with the published file's names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vbench_eval.backbones.bpe import BytePairTokenizer
from vbench_eval.backbones.clip import MEAN, STD
from vbench_eval.backbones.loading import load_state, load_strictly, origin, placed
from vbench_eval.backbones.weights import WEIGHTS
from vbench_eval.resizing import centre_crop, resize, shorter_side_size, to_float


@dataclass(frozen=True)
class ViclipSizes:
    """The published network's; the features of both towers have `dim` channels."""

    side: int = 224
    patch: int = 14
    frames: int = 8
    width: int = 1024
    layers: int = 24
    heads: int = 16
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    words: int = 49408
    length: int = 32  # of a text in tokens, its start and end among them
    dim: int = 768


class _FastGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", _FastGelu())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class _Blocks(nn.Module):
    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class _Video(nn.Module):
    """A vision transformer over the patches of all frames at once, each patch with its place and its time."""

    def __init__(self, sizes: ViclipSizes) -> None:
        super().__init__()
        width = sizes.width
        patch = (1, sizes.patch, sizes.patch)
        self.conv1 = nn.Conv3d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros((sizes.side // sizes.patch) ** 2 + 1, width))
        self.temporal_positional_embedding = nn.Parameter(torch.zeros(1, sizes.frames, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = _Blocks(width, sizes.layers, sizes.heads)
        self.proj = nn.Parameter(torch.zeros(width, sizes.dim))

    def forward(self, video: Tensor) -> Tensor:
        """Returns features `[B, dim]` of videos `[B, 3, T, H, W]`."""
        patches = self.conv1(video).flatten(3).permute(0, 3, 2, 1)  # [B, places, T, width]
        first = self.class_embedding + self.positional_embedding[0]
        patches = patches + self.positional_embedding[1:, None] + self.temporal_positional_embedding
        x = torch.cat([first.expand(len(video), 1, -1), patches.flatten(1, 2)], dim=1)
        x = self.transformer(self.ln_pre(x))[:, 0]
        return self.ln_post(x) @ self.proj


class _Text(nn.Module):
    """CLIP's causal text transformer; the feature is that of the end token, which has the largest id."""

    def __init__(self, sizes: ViclipSizes) -> None:
        super().__init__()
        width = sizes.text_width
        self.token_embedding = nn.Embedding(sizes.words, width)
        self.positional_embedding = nn.Parameter(torch.zeros(sizes.length, width))
        self.transformer = _Blocks(width, sizes.text_layers, sizes.text_heads)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, sizes.dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns features `[N, dim]` of token ids `[N, length]`."""
        x = self.token_embedding(tokens) + self.positional_embedding
        length = tokens.shape[1]
        mask = torch.full((length, length), float("-inf"), dtype=x.dtype, device=x.device).triu(1)
        x = self.ln_final(self.transformer(x, mask))
        return x[torch.arange(len(x), device=x.device), tokens.argmax(dim=1)] @ self.text_projection


class Viclip(nn.Module):
    """Both towers, and the temperature that training used."""

    def __init__(self, sizes: ViclipSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.vision_encoder = _Video(sizes)
        self.text_encoder = _Text(sizes)
        self.temp = nn.Parameter(torch.tensor(0.01))


class ViclipEncoder:
    """Videos and texts to features, behind VBench's resizing: shorter side to 224, bicubic, rounded; the middle."""

    def __init__(
        self, network: Viclip, tokenizer: BytePairTokenizer, *, provenance: Mapping[str, Any], antialias: bool
    ) -> None:
        self.name = str(provenance["id"])
        self.num_frames, self.dim = network.sizes.frames, network.sizes.dim
        self._network, self._tokenizer = network, tokenizer
        self._provenance, self._antialias = dict(provenance), antialias
        self._texts: dict[str, Tensor] = {}

    def shrink(self, frames: Tensor) -> Tensor:
        """Returns the middle squares `[T, n, n, 3]`, uint8: VBench resizes integers here, clamped and rounded."""
        side = self._network.sizes.side
        size = shorter_side_size(frames.shape[1], frames.shape[2], side)
        x = resize(to_float(frames.to(self._network.temp.device)), size, mode="bicubic", antialias=self._antialias)
        x = centre_crop(x, side).clamp(0, 255).round()
        return x.permute(0, 2, 3, 1).to(torch.uint8)

    @torch.no_grad()
    def encode_video(self, frames: Tensor) -> Tensor:
        """Returns the features `[dim]`, float32, on the CPU, of shrunk frames `[num_frames, n, n, 3]`, uint8."""
        weight = self._network.vision_encoder.proj
        mean, std = (torch.tensor(values, device=weight.device)[:, None, None] for values in (MEAN, STD))
        x = (to_float(frames.to(weight.device)) / 255 - mean) / std
        return self._network.vision_encoder(x.permute(1, 0, 2, 3)[None].to(weight.dtype))[0].float().cpu()

    @torch.no_grad()
    def encode_text(self, text: str) -> Tensor:
        """Returns the features `[dim]`, float32, on the CPU; a long text is cut after 32 tokens."""
        if text not in self._texts:
            tokens = self._tokenizer([text], self._network.sizes.length).to(self._network.temp.device)
            self._texts[text] = self._network.text_encoder(tokens)[0].float().cpu()
        return self._texts[text]

    def provenance(self) -> dict[str, Any]:
        return dict(self._provenance)


def load_viclip(
    path: Path,
    tokenizer: BytePairTokenizer,
    *,
    antialias: bool,
    sizes: ViclipSizes | None = None,
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
    allow_pickle: bool = False,
    cache: str | os.PathLike[str] | None = None,
) -> ViclipEncoder:
    """Returns the encoder of a checkpoint (ViClip-InternVid-10M-FLT.pth); UserError for a state of other names."""
    with torch.device("meta"):
        network = Viclip(sizes or ViclipSizes())
    load_strictly(network, load_state(path, allow_pickle=allow_pickle), source=str(path))
    placed(network, device, dtype)
    provenance = origin(WEIGHTS["viclip"], path, network, cache=cache)
    return ViclipEncoder(network, tokenizer, provenance=provenance, antialias=antialias)
