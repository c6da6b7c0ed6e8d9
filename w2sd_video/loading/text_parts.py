"""The text half of an SDXL checkpoint, and whether two of them encode every prompt alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from w2sd_video.errors import UserError

# What a text encoder's config says of its file rather than of what it computes.
BOOKKEEPING = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


@dataclass
class TextParts:
    """SDXL's two tokenizers and text encoders; `force_zeros` says that an absent negative prompt is all zeros."""

    tokenizer: Any
    tokenizer_2: Any
    text_encoder: Any
    text_encoder_2: Any
    force_zeros: bool = True

    def components(self) -> dict[str, Any]:
        names = ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2")
        return {name: getattr(self, name) for name in names}


def check_tokenizers(parts: TextParts, name: str) -> TextParts:
    """Returns `parts` after checking the vocabularies: transformers makes an empty one where a tokenizer's files miss.

    Raises:
        UserError: a tokenizer without words, or with more than its text encoder knows.
    """
    for part, encoder in (("tokenizer", parts.text_encoder), ("tokenizer_2", parts.text_encoder_2)):
        tokens, known = len(getattr(parts, part)), encoder.config.vocab_size
        if tokens <= len(getattr(parts, part).all_special_tokens) or tokens > known:
            raise UserError(
                f"the {part} of {name} has {tokens} tokens and its text encoder knows {known}; "
                "download the folder again with vocab.json and merges.txt"
            )
    return parts


def same_text_parts(first: TextParts, second: TextParts) -> bool:
    """Whether both sides encode every prompt alike: the same vocabularies, settings and weights."""
    for part in ("tokenizer", "tokenizer_2"):
        ours, theirs = getattr(first, part), getattr(second, part)
        if ours.get_vocab() != theirs.get_vocab() or ours.model_max_length != theirs.model_max_length:
            return False
        if ours.special_tokens_map != theirs.special_tokens_map:
            return False
    if first.force_zeros != second.force_zeros:
        return False
    for part in ("text_encoder", "text_encoder_2"):
        ours, theirs = getattr(first, part), getattr(second, part)
        settings = [
            {key: value for key, value in encoder.config.to_dict().items() if key not in BOOKKEEPING}
            for encoder in (ours, theirs)
        ]
        if settings[0] != settings[1] or not same_weights(ours, theirs):
            return False
    return True


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    """Whether two modules of one class hold equal tensors under equal names."""
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(
        tensor.shape == theirs[name].shape and torch.equal(tensor, theirs[name]) for name, tensor in ours.items()
    )
