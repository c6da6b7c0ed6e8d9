"""ImageReward (arXiv 2304.05977): a BLIP that reads the prompt while it looks at the picture, and a head.

Its numbers have mean 0 and deviation 1 over the pictures of its training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vbench_eval.backbones.bert import Bert, BertSizes, WordPieces, read_vocabulary
from vbench_eval.backbones.loading import load_state, load_strictly, origin, placed
from vbench_eval.backbones.weights import named
from vbench_eval.images.clip_towers import prepare_as_clip
from vbench_eval.images.rewards import build_head, check_prompts
from vbench_eval.images.sources import Pictures, Sources, as_pictures

MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072  # of the head's numbers
LENGTH = 35  # tokens of a prompt, the first and the last included
TRAINING_ONLY = ("blip.vision_proj.", "blip.text_proj.")


@dataclass(frozen=True)
class ImageRewardSizes:
    """The published network's: ViT-L/16 and BERT."""

    side: int = 224
    patch: int = 16
    width: int = 1024
    layers: int = 24
    heads: int = 16
    text: BertSizes = field(default_factory=lambda: BertSizes(seen=1024))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.attn["qkv"](self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.attn["proj"](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class _Picture(nn.Module):
    def __init__(self, sizes: ImageRewardSizes) -> None:
        super().__init__()
        places = (sizes.side // sizes.patch) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, sizes.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + places, sizes.width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, sizes.width, sizes.patch, sizes.patch)})
        self.blocks = nn.ModuleList(_Block(sizes.width, sizes.heads) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(sizes.width, eps=1e-6)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class ImageRewardNetwork(nn.Module):
    """Pictures `[B, 3, side, side]`, tokens `[B, n]` and which of them there are, to `[B]`."""

    def __init__(self, sizes: ImageRewardSizes) -> None:
        super().__init__()
        self.blip = nn.ModuleDict({"visual_encoder": _Picture(sizes), "text_encoder": Bert(sizes.text)})
        self.mlp = nn.ModuleDict({"layers": build_head(sizes.text.width)})

    def forward(self, pixels: Tensor, tokens: Tensor, there: Tensor) -> Tensor:
        said = self.blip["text_encoder"](tokens, self.blip["visual_encoder"](pixels), there=there)[:, 0]
        return (self.mlp["layers"](said).float().squeeze(-1) - MEAN) / DEVIATION


class ImageReward:
    """Pictures and their prompts to rewards of about -2 to 2."""

    name = "image_reward"

    def __init__(
        self, network: ImageRewardNetwork, words: WordPieces, *, prepare: Any, batch: int, told: Mapping[str, Any]
    ) -> None:
        self._network, self._words, self._prepare = network, words, prepare
        self._batch, self._told = batch, dict(told)

    def __call__(self, pictures: Pictures, prompts: Sequence[str]) -> Tensor:
        found = as_pictures(pictures)
        check_prompts(found, prompts)
        weight = self._network.blip["visual_encoder"].pos_embed
        parts = [torch.zeros(0)]
        with torch.inference_mode():
            for start in range(0, len(found), self._batch):
                pixels = self._prepare(found[start : start + self._batch]).to(weight.device, weight.dtype)
                tokens = self.tokens(prompts[start : start + self._batch]).to(weight.device)
                parts.append(self._network(pixels, tokens, tokens != 0).cpu())
        return torch.cat(parts)

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """Returns ids `[N, 35]`, zeros after the end; a longer prompt is cut."""
        rows = torch.zeros(len(prompts), LENGTH, dtype=torch.long)
        for row, prompt in zip(rows, prompts, strict=True):
            ids = [self._words.first, *self._words.encode(prompt)[: LENGTH - 2], self._words.end]
            row[: len(ids)] = torch.tensor(ids)
        return rows

    def provenance(self) -> dict[str, Any]:
        return {**self._told, "preparation": "CLIP's: shorter side, bicubic (Pillow), centre", "tokens": LENGTH}


def load_image_reward(sources: Sources, sizes: ImageRewardSizes | None = None) -> ImageReward:
    """ImageReward of the published file (ImageReward.pt) and BERT's word pieces.

    Raises:
        Unavailable: either is nowhere.
        UserError: the file is of another network.
    """
    sizes = sizes or ImageRewardSizes()
    words, path = read_vocabulary(sources.find("bert_vocabulary")), sources.find("image_reward")
    state = load_state(path, allow_pickle=sources.allow_pickle)
    kept = {
        key: value
        for key, value in state.items()
        if not key.startswith(TRAINING_ONLY) and not key.endswith(".position_ids")
    }
    with torch.device("meta"):
        network = ImageRewardNetwork(sizes)
    load_strictly(network, kept, source=str(path))
    placed(network, sources.device, sources.dtype)
    told = origin(named("image_reward"), path, network, cache=sources.cache)
    return ImageReward(network, words, prepare=prepare_as_clip(sizes.side), batch=sources.batch, told=told)
