"""CLIP as the image metrics use it: both towers through transformers, pictures prepared by Pillow as CLIP's own
processor does, features of length 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbench_eval.errors import UserError
from vbench_eval.images.sources import Sources

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    Prepare = Callable[[Sequence[Image.Image]], Tensor]

TEXTS = 64  # prompts per forward pass
# Every CLIP here has OpenAI's vocabulary, so any of their tokenizers will do.
_TOKENIZERS = ("clip_vit_h_14", "clip_vit_l_14", "clip_vit_b_32")
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")


class ClipTowers:
    """The image tower and, with a tokenizer, the text tower of a `CLIPModel`; features are [N, D] float32 on the CPU.

    `prepare` turns pictures into the network's input [N, 3, S, S]; `scale` is exp(logit scale).
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        prepare: Prepare,
        batch: int,
        scale: float,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        self._model, self._tokenizer, self._prepare, self._batch = model, tokenizer, prepare, batch
        self._texts: dict[str, Tensor] = {}
        self._origin = dict(origin or {})
        self.dim = int(model.config.projection_dim)
        self.scale = scale

    def provenance(self) -> dict[str, Any]:
        """Where the network comes from."""
        return dict(self._origin)

    def encode(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Features of pictures, of length 1."""
        import torch

        weight = self._model.visual_projection.weight
        parts = [torch.zeros(0, self.dim)]
        with torch.inference_mode():
            for start in range(0, len(pictures), self._batch):
                pixels = self._prepare(pictures[start : start + self._batch])
                features = self._model.get_image_features(pixel_values=pixels.to(weight.device, weight.dtype))
                parts.append(_unit(features))
        return torch.cat(parts)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Features of prompts, of length 1; each prompt is encoded once, and cut after 77 tokens."""
        import torch

        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._texts]
        with torch.inference_mode():
            for start in range(0, len(new), TEXTS):
                texts = new[start : start + TEXTS]
                tokens = self.tokens(texts).to(self._model.text_projection.weight.device)
                features = _unit(self._model.get_text_features(input_ids=tokens))
                self._texts.update(zip(texts, features, strict=True))
        return torch.stack([self._texts[prompt] for prompt in prompts]) if prompts else torch.zeros(0, self.dim)

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """Token ids [N, 77], padded after the end token, which alone is read."""
        length = self._model.config.text_config.max_position_embeddings
        return self._tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids


def prepare_as_clip(size: int) -> Prepare:
    """CLIP's own preparation: shorter side to `size` (Pillow's antialiased bicubic), centre, mean and deviation."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    return lambda pictures: processor(list(pictures), return_tensors="pt")["pixel_values"]


def load_towers(name: str, sources: Sources, *, text: bool = True) -> ClipTowers:
    """The CLIP in the weights called `name`, a folder that transformers saved or a file of OpenAI's.

    Raises:
        Unavailable: the weights, or with `text` a tokenizer, are nowhere.
        UserError: they cannot be used.
    """
    from vbench_eval.backbones.clip import both_towers
    from vbench_eval.backbones.weights import named

    path, weights = sources.find(name), named(name)
    tokenizer = load_tokenizer(path, sources) if text else None
    model = both_towers(path, weights, allow_pickle=sources.allow_pickle, cache=sources.cache)
    return towers(model, path, weights, sources, tokenizer=tokenizer)


def towers(
    model: Any, path: Path, weights: Any, sources: Sources, *, tokenizer: Any, prepare: Prepare | None = None
) -> ClipTowers:
    """The towers of a loaded model, placed where `sources` says."""
    from vbench_eval.backbones.loading import origin, placed

    scale = float(model.logit_scale.detach().double().exp())  # before it is rounded: bfloat16 knows 4.59 and 4.63
    model = placed(model, sources.device, sources.dtype)
    prepare = prepare or prepare_as_clip(model.config.vision_config.image_size)
    if tokenizer is not None and len(tokenizer) > model.config.text_config.vocab_size:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens and {path} knows {model.config.text_config.vocab_size}; "
            "give the tokenizer of the same CLIP"
        )
    told = origin(weights, path, model, cache=sources.cache)
    return ClipTowers(model, tokenizer, prepare=prepare, batch=sources.batch, scale=scale, origin=told)


def load_tokenizer(path: Path, sources: Sources) -> Any:
    """The tokenizer beside the network at `path`, else that of any CLIP that is found.

    Raises:
        Unavailable: there is none.
    """
    from transformers import CLIPTokenizer

    from vbench_eval.backbones.finding import Unavailable

    def of(folder: Path) -> Any:
        # Without these files transformers makes a tokenizer of three tokens, and says nothing.
        if folder.is_dir() and any((folder / file).is_file() for file in _TOKENIZER_FILES):
            return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        return None

    if (found := of(path)) is not None:
        return found
    why: Unavailable | None = None
    for name in _TOKENIZERS:
        try:
            if (found := of(sources.find(name))) is not None:
                return found
        except Unavailable as error:
            why = why or error
    raise why or Unavailable(f"none of {', '.join(_TOKENIZERS)} brings a tokenizer; fetch clip_vit_h_14")


def _unit(features: Any) -> Tensor:
    features = getattr(features, "pooler_output", features).float().cpu()
    return features / features.norm(dim=-1, keepdim=True)
