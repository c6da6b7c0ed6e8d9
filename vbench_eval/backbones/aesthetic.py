"""The LAION linear aesthetic head on CLIP ViT-L/14's image features, as VBench rates aesthetic quality."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vbench_eval.backbones.finding import sha256
from vbench_eval.backbones.loading import load_state, load_strictly
from vbench_eval.backbones.weights import WEIGHTS
from vbench_eval.errors import UserError
from vbench_eval.protocols import FrameEncoder


class AestheticScorer:
    """Rates frames on the head's own scale, nominally 0 to 10: `w . f / |f| + b` of features f, in float32."""

    low, high = 0.0, 10.0

    def __init__(self, encoder: FrameEncoder, head: nn.Linear, *, provenance: Mapping[str, Any]) -> None:
        if encoder.dim != head.in_features:
            raise UserError(
                f"the encoder {encoder.name} gives {encoder.dim} features and the aesthetic head takes "
                f"{head.in_features}; the published head belongs to CLIP ViT-L/14 with 768"
            )
        self.name = str(provenance["id"])
        self._encoder, self._head, self._provenance = encoder, head, dict(provenance)

    @torch.no_grad()
    def score(self, frames: Tensor) -> Tensor:
        """Returns ratings `[T]`, float32, on the CPU, of frames `[T, H, W, 3]`, uint8 RGB."""
        features = self._encoder.encode(frames).float().cpu()
        return self._head(features / features.norm(dim=-1, keepdim=True))[:, 0]

    def provenance(self) -> dict[str, Any]:
        return dict(self._provenance)


def load_aesthetic(
    encoder: FrameEncoder, path: Path, *, allow_pickle: bool = False, cache: str | os.PathLike[str] | None = None
) -> AestheticScorer:
    """Returns the scorer of an encoder and a head file (sa_0_4_vit_l_14_linear.pth: `weight`, `bias`).

    A head is refused (UserError) if it is not linear, as the MLP that other tables of aesthetic scores come from.
    """
    weights = WEIGHTS["aesthetic_linear"]
    state = load_state(path, allow_pickle=allow_pickle)
    shape = state["weight"].shape if "weight" in state else (1, encoder.dim)
    head = nn.Linear(shape[-1], 1)
    load_strictly(head, state, source=str(path))
    head.float().eval().requires_grad_(False)
    tower = encoder.provenance()
    provenance = {
        "id": f"{weights.name} on {encoder.name}",
        "revision": None,
        "file": str(path),
        "sha256": sha256(path, cache=cache),
        "sha256_verified": False,
        "dtype": tower.get("dtype"),
        "device": tower.get("device"),
        "licence": f"{weights.licence} (head), {tower.get('licence')} (encoder)",
        "commercial_ok": tower.get("commercial_ok") and weights.commercial_ok,
        "encoder": tower,
    }
    return AestheticScorer(encoder, head, provenance=provenance)
