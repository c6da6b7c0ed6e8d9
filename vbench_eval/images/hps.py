"""HPS v2 and v2.1: the cosine of picture and prompt in a CLIP ViT-H/14 trained on people's preferences.

The published files have open_clip's names and their own way to prepare pictures: the longer side to 224, black to a
square, so that nothing is cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vbench_eval.errors import UserError
from vbench_eval.images.clip_towers import load_tokenizer, towers
from vbench_eval.images.open_clip_names import to_transformers
from vbench_eval.images.rewards import Alignment
from vbench_eval.images.sources import Sources

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

VERSIONS = ("v2.1", "v2")
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def load_hps(sources: Sources, version: str = "v2.1") -> Alignment:
    """HPS of a version: the published file, with the configuration and tokenizer of the CLIP ViT-H/14 it began as.

    Raises:
        Unavailable: either is nowhere.
        UserError: another version, or a file of another network.
    """
    from transformers import CLIPConfig, CLIPModel

    from vbench_eval.backbones.loading import load_state, pretrained
    from vbench_eval.backbones.weights import named

    if version not in VERSIONS:
        raise UserError(f"HPS version is {version!r}; choose one of {', '.join(VERSIONS)}")
    name = f"hps_{version}"
    path, folder = sources.find(name), sources.find("clip_vit_h_14")
    config = CLIPConfig.from_pretrained(folder, local_files_only=True)
    state = to_transformers(load_state(path, allow_pickle=sources.allow_pickle))
    model = pretrained(CLIPModel, None, source=path, config=config, state_dict=state)
    size = config.vision_config.image_size
    found = towers(
        model,
        path,
        named(name),
        sources,
        tokenizer=load_tokenizer(folder, sources),
        prepare=lambda pictures: letterboxed(pictures, size),
    )
    said = f"longer side to {size} (bicubic, antialiased), zeros to a square"
    return Alignment(name, found, scale=1.0, preparation=said)


def letterboxed(pictures: Sequence[Image.Image], size: int = 224) -> Tensor:
    """Pictures as HPS sees them [N, 3, size, size]: in [0, 1], the longer side bicubically to `size`, zeros around the
    other to a square, then CLIP's mean and deviation.

    hpsv2 leaves the antialiasing to torchvision, whose default for tensors is on since 0.17; that is what is done here.
    Values that bicubic weights push out of [0, 1] are kept, as there.
    """
    import numpy as np
    import torch
    import torch.nn.functional as F

    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    prepared = []
    for picture in pictures:
        x = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
        height, width = x.shape[1:]
        scale = size / max(height, width)
        if scale != 1:
            shape = [max(1, round(side * scale)) for side in (height, width)]
            x = F.interpolate(x[None], shape, mode="bicubic", align_corners=False, antialias=True)[0]
        down, right = size - x.shape[1], size - x.shape[2]
        x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
        prepared.append((x - mean) / std)
    return torch.stack(prepared)
