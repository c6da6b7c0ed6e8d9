"""CLIP's two towers as VBench judges appearance style: how like a text every frame is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from vbench_eval.backbones.bpe import BytePairTokenizer
from vbench_eval.backbones.clip import BATCH, MEAN, STD, both_towers
from vbench_eval.backbones.loading import origin, placed
from vbench_eval.backbones.weights import WEIGHTS
from vbench_eval.errors import UserError
from vbench_eval.resizing import centre_crop, shorter_side_size, to_float


class ClipTextScorer:
    """exp(logit scale) / 100 times the cosine of frame and text, in the network's own precision, as CLIP gives it."""

    def __init__(self, network: nn.Module, tokenizer: BytePairTokenizer, *, provenance: Mapping[str, Any]) -> None:
        words = network.config.text_config.vocab_size
        if len(tokenizer) != words:
            raise UserError(
                f"the list of merges makes {len(tokenizer)} tokens and the network {provenance['file']} knows {words}; "
                "give the CLIP and the bpe_simple_vocab_16e6.txt.gz that OpenAI published"
            )
        self.name = str(provenance["id"])
        self._network, self._tokenizer, self._provenance = network, tokenizer, dict(provenance)
        self._side = int(network.config.vision_config.image_size)
        self._length = int(network.config.text_config.max_position_embeddings)
        self._texts: dict[str, Tensor] = {}

    @torch.no_grad()
    def similarities(self, frames: Tensor, text: str) -> Tensor:
        """Returns the likeness `[T]`, float32, on the CPU, of frames `[T, H, W, 3]`, uint8 RGB, to a text."""
        if text not in self._texts:
            tokens = self._tokenizer([text], self._length).to(self._network.logit_scale.device)
            self._texts[text] = _unit(self._network.get_text_features(input_ids=tokens))
        words, found = self._texts[text], []
        for some in frames.split(BATCH):
            pixels = self.prepare(some).to(words.device, words.dtype)
            features = _unit(self._network.get_image_features(pixel_values=pixels))
            found.append((self._network.logit_scale.exp() * words @ features.T)[0].float().cpu() / 100)
        return torch.cat(found)

    def prepare(self, frames: Tensor) -> Tensor:
        """Returns normalised pixels `[T, 3, n, n]`: shorter side to n by Pillow's filtered bicubic; the middle.

        VBench turns frames into pictures here and nowhere else, and Pillow always filters.
        """
        height, width = frames.shape[1:3]
        size = shorter_side_size(height, width, self._side)
        if size != (height, width):
            pictures = [Image.fromarray(frame.numpy()) for frame in frames.cpu()]
            small = [picture.resize(size[::-1], Image.Resampling.BICUBIC) for picture in pictures]
            frames = torch.stack(
                [torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8) for picture in small]
            )
            frames = frames.reshape(-1, *size, 3)
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        return (centre_crop(to_float(frames), self._side) / 255 - mean) / std

    def provenance(self) -> dict[str, Any]:
        return dict(self._provenance)


def load_clip_text(
    path: Path,
    tokenizer: BytePairTokenizer,
    *,
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
    allow_pickle: bool = False,
    cache: str | os.PathLike[str] | None = None,
) -> ClipTextScorer:
    """Returns the scorer of CLIP ViT-B/32, a folder that transformers saved or OpenAI's own file."""
    weights = WEIGHTS["clip_vit_b_32"]
    network = placed(both_towers(path, weights, allow_pickle=allow_pickle, cache=cache), device, dtype)
    return ClipTextScorer(network, tokenizer, provenance=origin(weights, path, network, cache=cache))


def _unit(features: Any) -> Tensor:
    features = getattr(features, "pooler_output", features)
    return features / features.norm(dim=-1, keepdim=True)
