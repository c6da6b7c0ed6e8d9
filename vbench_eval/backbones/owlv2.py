"""OWLv2 (arXiv 2306.09683) through transformers: pictures and phrases to boxes, of any object that has a name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vbench_eval.backbones.bpe import BytePairTokenizer
from vbench_eval.backbones.loading import origin, placed, pretrained
from vbench_eval.backbones.weights import WEIGHTS
from vbench_eval.errors import UserError
from vbench_eval.resizing import resize, to_float

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's
GREY = 127.5  # of the square that a picture is put into, at its top left, in OWLv2's own code
SURE = 0.1  # the score from which transformers takes a box for found
BATCH = 4


class Owlv2Detector:
    """Frames and phrases to the best box of each phrase."""

    sure = SURE

    def __init__(self, network: Any, tokenizer: BytePairTokenizer, *, provenance: Mapping[str, Any]) -> None:
        self.name = str(provenance["id"])
        self._network, self._tokenizer, self._provenance = network, tokenizer, dict(provenance)

    @torch.no_grad()
    def detect(self, frames: Tensor, phrases: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Returns scores `[T, phrases]`, 0..1, and boxes `[T, phrases, 4]` (left, top, right, bottom; 1 is the frame's
        longer side), float32 on the CPU, of frames `[T, H, W, 3]`, uint8.
        """
        found = [self._batch(some, phrases) for some in frames.split(BATCH)]
        return torch.cat([scores for scores, _ in found]), torch.cat([boxes for _, boxes in found])

    def _batch(self, frames: Tensor, phrases: Sequence[str]) -> tuple[Tensor, Tensor]:
        config = self._network.config
        weight = self._network.class_head.dense0.weight
        height, width = frames.shape[1:3]
        side, wanted = max(height, width), config.vision_config.image_size
        x = F.pad(to_float(frames.to(weight.device)), (0, side - width, 0, side - height), value=GREY)
        x = resize(x, (wanted, wanted), mode="bilinear", antialias=True)
        mean, std = (torch.tensor(values, device=weight.device)[:, None, None] for values in (MEAN, STD))
        tokens = self._tokenizer(phrases, config.text_config.max_position_embeddings).repeat(len(frames), 1)
        made = self._network(
            input_ids=tokens.to(weight.device),
            attention_mask=(tokens > 0).to(weight.device),
            pixel_values=((x / 255 - mean) / std).to(weight.dtype),
        )
        best = made.logits.float().max(dim=1)  # over places, of each phrase
        centres, sizes = made.pred_boxes.float().chunk(2, dim=-1)
        boxes = torch.cat([centres - sizes / 2, centres + sizes / 2], dim=-1)
        boxes = boxes.gather(1, best.indices[:, :, None].expand(-1, -1, 4))
        return best.values.sigmoid().cpu(), boxes.cpu()

    def provenance(self) -> dict[str, Any]:
        return dict(self._provenance)


def load_owlv2(
    path: Path,
    tokenizer: BytePairTokenizer,
    *,
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
    allow_pickle: bool = False,
    cache: str | os.PathLike[str] | None = None,
) -> Owlv2Detector:
    """Returns the detector of a folder that transformers saved (google/owlv2-base-patch16-ensemble)."""
    from transformers import Owlv2ForObjectDetection

    if not path.is_dir():
        raise UserError(f"{path} is no folder; give the one of an OWLv2 that transformers saved")
    network = pretrained(Owlv2ForObjectDetection, path, allowed_extra=r".*position_ids$")
    if len(tokenizer) > network.config.text_config.vocab_size:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens and {path} knows {network.config.text_config.vocab_size}; "
            "give an OWLv2 with CLIP's vocabulary"
        )
    placed(network, device, dtype)
    return Owlv2Detector(network, tokenizer, provenance=origin(WEIGHTS["owlv2"], path, network, cache=cache))
