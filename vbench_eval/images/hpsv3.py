"""HPSv3 (arXiv 2508.03789): a Qwen2-VL-7B that reads an instruction, the picture and the prompt, and a head that gives
the mean and the spread of a reward; the mean is the score.

Not checked with published weights: see `backbones/qwen2_vl.py`, which says what the folder holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vbench_eval.backbones.loading import load_state, origin
from vbench_eval.backbones.qwen2_vl import PLACE, TokenReward, load_token_reward, read_instruction, rounded_size
from vbench_eval.backbones.weights import named
from vbench_eval.errors import UserError
from vbench_eval.images.rewards import check_prompts
from vbench_eval.images.sources import Pictures, Sources, as_pictures

TOKEN = "<|Reward|>"
WIDTHS = (1024, 16, 2)  # of the head's layers rm_head.0, .3 and .5
PIXELS = 256 * 28 * 28
PUBLISHED = (
    "INSTRUCTION followed by prompt_with_special_token, of hpsv3/dataset/data_collator_qwen.py in "
    "https://github.com/MizzenAI/HPSv3"
)


def build_hpsv3_head(width: int) -> nn.Sequential:
    """The head [N, width] -> [N, (mean, spread)], with the published key names; dropout is for training."""
    first, second, outputs = WIDTHS
    return nn.Sequential(
        nn.Linear(width, first), nn.ReLU(), nn.Dropout(0.05), nn.Linear(first, second), nn.ReLU(),
        nn.Linear(second, outputs),
    )  # fmt: skip


class Hpsv3:
    """Pictures and prompts to rewards, one at a time."""

    name = "hpsv3"

    def __init__(self, reward: TokenReward, instruction: str, *, told: dict[str, Any], pixels: int = PIXELS) -> None:
        self._reward, self._instruction, self._told, self._pixels = reward, instruction, told, pixels

    def __call__(self, pictures: Pictures, prompts: Sequence[str]) -> Tensor:
        found = as_pictures(pictures)
        check_prompts(found, prompts)
        return torch.stack([self.head(picture, prompt)[0] for picture, prompt in zip(found, prompts, strict=True)])

    def head(self, picture: Image.Image, prompt: str) -> Tensor:
        """Returns the head's two numbers `[2]` for one picture: the mean and the spread."""
        high, wide = rounded_size(
            picture.height, picture.width, least=self._pixels, most=self._pixels, factor=self._reward.factor
        )
        resized = np.array(picture.resize((wide, high), Image.Resampling.BICUBIC))
        frames = torch.from_numpy(resized).permute(2, 0, 1)[None]
        return self._reward.read("image", frames, self._instruction.replace(PLACE, prompt))[0]

    def provenance(self) -> dict[str, Any]:
        side = f"about {self._pixels} pixels in multiples of {self._reward.factor}, bicubic (Pillow)"
        return {**self._told, "preparation": side, "checked_with_published_weights": False}


def load_hpsv3(sources: Sources) -> Hpsv3:
    """HPSv3 of a folder with HPSv3.safetensors, Qwen2-VL-7B-Instruct's configuration and tokenizer, and the text.

    Raises:
        Unavailable: it is nowhere.
        UserError: the folder lacks a part, or holds another network.
    """
    weights = named("hpsv3")
    found = sources.find("hpsv3")
    folder = found if found.is_dir() else found.parent
    path = folder / weights.file if found.is_dir() else found
    if not path.is_file():
        raise UserError(f"{folder} holds no {weights.file}; get it from https://huggingface.co/{weights.hub}")
    instruction = read_instruction(folder, [TOKEN], published=PUBLISHED)
    state = load_state(path, allow_pickle=sources.allow_pickle)
    first = state.get("rm_head.0.weight")
    head = build_hpsv3_head(first.shape[1] if first is not None and first.ndim == 2 else 3584)
    reward = load_token_reward(folder, state, head, [TOKEN], source=path, device=sources.device, dtype=sources.dtype)
    return Hpsv3(reward, instruction, told=origin(weights, path, reward.network, cache=sources.cache))
