"""AES: LAION's improved aesthetic predictor, a head on CLIP ViT-L/14 trained on people's ratings from 1 to 10.

It is not the linear head of VBench's aesthetic_quality.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vbench_eval.images.clip_towers import ClipTowers, load_towers
from vbench_eval.images.pictures import Pictures, as_pictures
from vbench_eval.images.sources import Sources

if TYPE_CHECKING:
    from torch import Tensor

WIDTHS = (768, 1024, 128, 64, 16, 1)
PLACES = (0, 2, 4, 6, 7)  # of the layers among the dropouts of the published head: layers.0.weight and so on
PREFIXES = ("layers.", "model.layers.", "mlp.layers.")  # as different copies of the file have it


class Aesthetic:
    """Pictures to ratings of about 1 to 10, whatever the prompt."""

    name = "aes"

    def __init__(self, towers: ClipTowers, head: Any, origin: dict[str, Any]) -> None:
        self._towers, self._head, self._origin = towers, head, origin

    def __call__(self, pictures: Pictures, prompts: Sequence[str] = ()) -> Tensor:
        import torch

        with torch.inference_mode():
            return self._head(self._towers.encode(as_pictures(pictures))).squeeze(-1)

    def provenance(self) -> dict[str, Any]:
        tower = self._towers.provenance()
        return {**self._origin, "tower": tower, "preparation": "CLIP's: shorter side, bicubic (Pillow), centre"}


def build_head() -> Any:
    """The head [N, 768] -> [N, 1]: five linear layers with nothing between them (the dropouts of training are off)."""
    from torch import nn

    layers = nn.Sequential()
    for place, inputs, outputs in zip(PLACES, WIDTHS[:-1], WIDTHS[1:], strict=True):
        layers.add_module(str(place), nn.Linear(inputs, outputs))
    return layers


def load_aesthetic(sources: Sources) -> Aesthetic:
    """AES from the head's published file and CLIP ViT-L/14.

    Raises:
        Unavailable: either is nowhere.
        UserError: the file is of another head.
    """
    from vbench_eval.backbones.loading import load_state, load_strictly, origin
    from vbench_eval.backbones.weights import named
    from vbench_eval.errors import UserError

    path = sources.find("aesthetic_mlp")
    state = load_state(path, allow_pickle=sources.allow_pickle)
    prefix = next((p for p in PREFIXES if all(key.startswith(p) for key in state)), "")
    head = build_head()
    load_strictly(head, {key.removeprefix(prefix): value.float() for key, value in state.items()}, source=str(path))
    towers = load_towers("clip_vit_l_14", sources, text=False)
    if towers.dim != WIDTHS[0]:
        raise UserError(f"the head needs {WIDTHS[0]} features of CLIP ViT-L/14; the CLIP given for it has {towers.dim}")
    head = head.eval().requires_grad_(False)
    return Aesthetic(towers, head, origin(named("aesthetic_mlp"), path, head, cache=sources.cache))
