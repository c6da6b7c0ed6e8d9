"""MUSIQ as a frame scorer, with the resizing that VBench puts before it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vbench_eval.backbones.loading import load_state, load_strictly, origin, placed
from vbench_eval.backbones.musiq import Musiq, MusiqSizes
from vbench_eval.backbones.weights import WEIGHTS
from vbench_eval.errors import UserError
from vbench_eval.profiles import IMAGING_MODES
from vbench_eval.resizing import IMAGING_SIDE, centre_crop, imaging_size, resize, to_float

BATCH = 4  # frames at a time: a frame is some 340 patches, whose stem takes 22 MB


class MusiqScorer:
    """Rates frames in MUSIQ's own unit, nominally 0 (bad) to 100."""

    low, high = 0.0, 100.0

    def __init__(self, network: Musiq, *, provenance: Mapping[str, Any], antialias: bool, mode: str = "longer") -> None:
        """`mode` is VBench's imaging_quality_preprocessing_mode; raises UserError for one that it does not know."""
        if mode not in IMAGING_MODES:
            raise UserError(f"imaging mode is {mode!r}; choose one of {', '.join(IMAGING_MODES)}")
        self.name = str(provenance["id"])
        self._network, self._provenance = network, {**provenance, "mode": mode}
        self._antialias, self._mode = antialias, mode

    @torch.no_grad()
    def score(self, frames: Tensor) -> Tensor:
        """Returns ratings `[T]`, float32, on the CPU, of frames `[T, H, W, 3]`, uint8 RGB."""
        device = self._network.head.weight.device
        ratings = [self._network(self.prepare(some.to(device))).float().cpu() for some in frames.split(BATCH)]
        return torch.cat(ratings)

    def prepare(self, frames: Tensor) -> Tensor:
        """Returns the frames `[T, 3, h, w]` in about 0..1 as the network takes them."""
        height, width = frames.shape[1:3]
        size = imaging_size(height, width, self._mode)
        x = resize(to_float(frames), size, mode="bilinear", antialias=self._antialias)
        if self._mode == "shorter_centercrop" and size != (height, width):
            x = centre_crop(x, IMAGING_SIDE)
        return x / 255

    def provenance(self) -> dict[str, Any]:
        return dict(self._provenance)


def load_musiq(
    path: Path,
    *,
    antialias: bool,
    mode: str = "longer",
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
    allow_pickle: bool = False,
    cache: str | os.PathLike[str] | None = None,
    sizes: MusiqSizes | None = None,
) -> MusiqScorer:
    """Returns the scorer with the weights of a file (musiq_spaq_ckpt-358bb6af.pth, or its tensors as .safetensors)."""
    state = load_state(path, allow_pickle=allow_pickle)
    with torch.device("meta"):
        network = Musiq(sizes)
    load_strictly(network, state, source=str(path))
    placed(network, device, dtype)
    provenance = origin(WEIGHTS["musiq_spaq"], path, network, cache=cache)
    return MusiqScorer(network, provenance=provenance, antialias=antialias, mode=mode)
