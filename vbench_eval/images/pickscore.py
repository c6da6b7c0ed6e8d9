"""PickScore: a CLIP ViT-H/14 trained on people's choices between two pictures of one prompt.

Its score is exp(logit scale) times the cosine; the probability that one of two pictures is preferred is the softmax of
their scores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vbench_eval.images.clip_towers import load_towers
from vbench_eval.images.rewards import Alignment
from vbench_eval.images.sources import Sources

if TYPE_CHECKING:
    from torch import Tensor


def load_pickscore(sources: Sources) -> Alignment:
    """PickScore; its tokenizer may come from any CLIP that is found."""
    towers = load_towers("pickscore", sources)
    return Alignment(
        "pickscore", towers, scale=towers.scale, preparation="CLIP's: shorter side, bicubic (Pillow), centre"
    )


def preference(first: Tensor, second: Tensor) -> Tensor:
    """The probability that the first of two pictures is preferred, by their scores [N]: their softmax."""
    return (first - second).sigmoid()
