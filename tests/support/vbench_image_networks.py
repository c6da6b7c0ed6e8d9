"""Tiny CLIPs and a DINO saved as the published ones are, for the tests of image metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

from tests.support import tiny

SIDE, WIDTH, HEADS = 32, 32, 2
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's


def clip_config(*, act: str = "gelu", projection: int = 24, width: int = WIDTH, heads: int = HEADS) -> CLIPConfig:
    tokenizer = tiny.clip_tokenizer()
    tower = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "hidden_act": act,
    }
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 77}
    text |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return CLIPConfig(
        text_config=tower | text, vision_config=tower | {"image_size": SIDE, "patch_size": 8}, projection_dim=projection
    )


def clip(seed: int, **settings: Any) -> CLIPModel:
    def build() -> CLIPModel:
        model = CLIPModel(clip_config(**settings))
        for name, parameter in model.named_parameters():
            if name != "logit_scale":
                torch.nn.init.normal_(parameter, std=0.3)  # what starts at 0 or 1 too
        return model

    return tiny.seeded(seed, build).eval()


def save_clip(model: CLIPModel, folder: Path, *, tokenizer: bool = True) -> Path:
    model.save_pretrained(folder)
    if tokenizer:
        tiny.clip_tokenizer().save_pretrained(folder)
    return folder


def save_dino(folder: Path, seed: int = 5) -> ViTModel:
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=28,
        patch_size=7,
        layer_norm_eps=1e-12,
    )
    model = tiny.seeded(seed, lambda: ViTModel(config, add_pooling_layer=False)).eval()
    with torch.no_grad():
        for parameter in model.embeddings.parameters():
            parameter.mul_(1e-3)  # so that the epsilon of the normalisations counts
    model.save_pretrained(folder)
    return model


def pictures(count: int, seed: int = 0, size: tuple[int, int] = (40, 32)) -> list[Image.Image]:
    """Noise of (height, width)."""
    draw = np.random.default_rng(seed)
    return [Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8)) for _ in range(count)]


def save_pictures(found: list[Image.Image], folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for picture, name in zip(found, names, strict=True):
        picture.save(folder / name)


def as_clip_sees(picture: Image.Image, size: int = SIDE, shorter: int | None = None) -> Tensor:
    """CLIP's preparation by hand [3, size, size]: Pillow's bicubic, the centre, mean and deviation."""
    shorter = shorter or size
    width, height = picture.size
    scale = shorter / min(width, height)
    shape = (shorter, int(shorter * height / width)) if width <= height else (int(shorter * width / height), shorter)
    assert abs(shape[0] - width * scale) < 1 and abs(shape[1] - height * scale) < 1
    x = np.asarray(picture.resize(shape, Image.Resampling.BICUBIC), np.float64)
    top, left = (x.shape[0] - size) // 2, (x.shape[1] - size) // 2
    x = x[top : top + size, left : left + size] / 255
    x = (x - MEAN) / STD
    return torch.from_numpy(x).permute(2, 0, 1).float()


def unit(features: Any) -> Tensor:
    features = getattr(features, "pooler_output", features).double()
    return features / features.norm(dim=-1, keepdim=True)


def tokens(prompts: list[str]) -> Tensor:
    """Ids by hand: start, characters (the last of a word marked), end, padded with the end."""
    vocabulary = tiny.clip_tokenizer().get_vocab()
    rows = []
    for prompt in prompts:
        pieces = [p for word in prompt.split() for p in (*word[:-1], f"{word[-1]}</w>")]
        ids = [vocabulary["<|startoftext|>"], *(vocabulary[piece] for piece in pieces), vocabulary["<|endoftext|>"]]
        rows.append(ids + [vocabulary["<|endoftext|>"]] * (77 - len(ids)))
    return torch.tensor(rows)


class Means(torch.nn.Module):
    """For Inception: features are the 16 means of a picture's parts; logits are sure of one of the classes in turn."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.classes, self.seen = classes, list[int]()

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        features = torch.nn.functional.adaptive_avg_pool2d(pictures, 4).mean(1).flatten(1) * self.scale
        numbers = torch.arange(sum(self.seen), sum(self.seen) + len(pictures))
        self.seen.append(len(pictures))
        return features, 500 * torch.eye(5)[numbers % self.classes]
