"""CLIP-T and CLIP-I in the convention of DreamBooth: cosines in CLIP ViT-B/32, with the prompt or with references."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from vbench_eval.errors import UserError
from vbench_eval.images.clip_towers import load_towers
from vbench_eval.images.pictures import Pictures, as_pictures
from vbench_eval.images.rewards import Alignment
from vbench_eval.images.sources import Sources

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

References: TypeAlias = "Pictures | Iterable[Image.Image]"
"""Reference pictures in memory, or one after the other."""
CLIP = "clip_vit_b_32"
AT_ONCE = 64  # references held at a time
_PREPARATION = "CLIP's: shorter side, bicubic (Pillow), centre"


class Encoder(Protocol):
    """Pictures to features of length 1."""

    def encode(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Returns [N, D], float32 on the CPU."""
        ...

    def provenance(self) -> dict[str, Any]:
        """Returns where the network comes from."""
        ...


class Similarity:
    """The mean cosine of a picture with all reference pictures."""

    def __init__(self, name: str, encoder: Encoder, references: References, *, preparation: str) -> None:
        import torch

        self.name = name
        self._encoder, self._preparation = encoder, preparation
        rest = iter(as_pictures(references) if isinstance(references, torch.Tensor) else references)
        total, self._count = torch.zeros(()), 0
        while some := as_pictures(list(islice(rest, AT_ONCE))):
            total = total + encoder.encode(some).sum(0)
            self._count += len(some)
        if not self._count:
            raise UserError(f"{name} has no reference pictures that can be read; give at least one")
        self._mean = total / self._count  # the mean of cosines is the cosine with the mean: lengths are 1

    def __call__(self, pictures: Pictures, prompts: Sequence[str] = ()) -> Tensor:
        return self._encoder.encode(as_pictures(pictures)) @ self._mean

    def provenance(self) -> dict[str, Any]:
        return {**self._encoder.provenance(), "preparation": self._preparation, "references": self._count}


def load_clip_t(sources: Sources) -> Alignment:
    """CLIP-T: the cosine of picture and prompt."""
    return Alignment("clip_t", load_towers(CLIP, sources), scale=1.0, preparation=_PREPARATION)


def load_clip_i(sources: Sources, references: References) -> Similarity:
    """CLIP-I: the mean cosine of a picture with the references."""
    return Similarity("clip_i", load_towers(CLIP, sources, text=False), references, preparation=_PREPARATION)
