"""DINO similarity in the convention of DreamBooth: cosines of class tokens of DINO ViT-S/16."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vbench_eval.errors import UserError
from vbench_eval.images.rewards import References, Similarity
from vbench_eval.images.sources import Sources

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

NAME = "dino_vits16"
MARGIN = 256 / 224  # the shorter side becomes this many times the crop


class DinoTokens:
    """Class tokens after the last normalisation, of length 1."""

    def __init__(self, network: Any, origin: dict[str, Any], batch: int) -> None:
        self._network, self._origin, self._batch = network, origin, batch
        self.size = int(network.config.image_size)

    def encode(self, pictures: Sequence[Image.Image]) -> Tensor:
        import torch

        weight = next(self._network.parameters())
        parts = [torch.zeros(0, self._network.config.hidden_size)]
        with torch.inference_mode():
            for start in range(0, len(pictures), self._batch):
                pixels = centred(pictures[start : start + self._batch], self.size)
                tokens = self._network(pixels.to(weight.device, weight.dtype)).last_hidden_state[:, 0].float().cpu()
                parts.append(tokens / tokens.norm(dim=-1, keepdim=True))
        return torch.cat(parts)

    def provenance(self) -> dict[str, Any]:
        return dict(self._origin)


def load_dino(sources: Sources, references: References) -> Similarity:
    """DINO: the mean cosine of a picture with the references.

    Raises:
        Unavailable: the network is nowhere.
        UserError: what was given is no folder of it.
    """
    from transformers import ViTModel

    from vbench_eval.backbones.dino import EPSILON
    from vbench_eval.backbones.loading import origin, placed, pretrained
    from vbench_eval.backbones.weights import named

    path = sources.find(NAME)
    if not path.is_dir():
        raise UserError(
            f"{path} is a file; give DINO ViT-S/16 as the folder that transformers loads ({named(NAME).hub})"
        )
    network = pretrained(ViTModel, path, allowed_extra=r"pooler\.", layer_norm_eps=EPSILON, add_pooling_layer=False)
    network = placed(network, sources.device, sources.dtype)
    encoder = DinoTokens(network, origin(named(NAME), path, network, cache=sources.cache), sources.batch)
    said = f"shorter side to {round(encoder.size * MARGIN)} (bicubic, Pillow), centre {encoder.size}, ImageNet's mean"
    return Similarity("dino", encoder, references, preparation=said)


def centred(pictures: Sequence[Image.Image], size: int = 224) -> Tensor:
    """Pictures as DINO sees them [N, 3, size, size]: the shorter side to 256/224 of `size`, the centre, ImageNet's mean
    and deviation.
    """
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from vbench_eval.backbones.dino import MEAN, STD

    processor = CLIPImageProcessorPil(
        size={"shortest_edge": round(size * MARGIN)},
        crop_size={"height": size, "width": size},
        image_mean=MEAN,
        image_std=STD,
    )
    return processor(list(pictures), return_tensors="pt")["pixel_values"]
