"""VideoReward of VideoAlign (arXiv 2501.13918): a Qwen2-VL-2B with a head read at three tokens, for visual quality,
motion quality and how well the prompt is met. Each is normalised with the numbers of its own configuration; the reward
is their sum.

Not checked with published weights: see `backbones/qwen2_vl.py`, which says what the folder holds. The published program
takes two frames a second; here a judge sees a fixed number of middles of equal parts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from vbench_eval.backbones.loading import load_state, origin
from vbench_eval.backbones.qwen2_vl import PLACE, TokenReward, load_token_reward, read_instruction, rounded_size
from vbench_eval.backbones.weights import Weights
from vbench_eval.errors import UserError, malformed

AXES = ("VQ", "MQ", "TA")
TOKENS = tuple(f"<|{axis}_reward|>" for axis in AXES)
FRAMES = 8
LEAST = 128 * 28 * 28  # pixels of a frame
WRAPPED = "base_model.model."  # what peft puts before every name
PUBLISHED = (
    "DETAILED_PROMPT_WITH_SPECIAL_TOKEN of prompt_template.py in https://github.com/KwaiVGI/VideoAlign "
    "(for a model_config.json that says detailed_special)"
)
WEIGHTS = Weights("video_reward", "VideoReward", 4500, "not known", None, hub="KwaiVGI/VideoReward")


def without_adapters(state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns a state under the names of the network alone: the low-rank differences that peft keeps beside the weights
    are added to them, times alpha / r, or alpha / sqrt(r) with rank-stabilised ones.
    """
    plain = {key.removeprefix(WRAPPED).replace(".base_layer.", "."): value for key, value in state.items()}
    downs = [key for key in plain if key.endswith(".lora_A.default.weight")]
    for key in downs:
        name = key.removesuffix(".lora_A.default.weight")
        up = plain.pop(f"{name}.lora_B.default.weight", None)
        down, weight = plain.pop(key), plain.get(f"{name}.weight")
        if up is None or weight is None:
            raise UserError(f"the adapter {name} lacks its second half or the weight that it belongs to")
        rank, alpha = int(settings["lora_r"]), float(settings["lora_alpha"])
        scale = alpha / (rank**0.5 if settings.get("use_rslora") else rank)
        plain[f"{name}.weight"] = weight.float() + scale * (up.float() @ down.float())
    return plain


class VideoReward:
    """A judge: videos and prompts to the sum of three rewards, of mean 0 and deviation 1 each over its training."""

    name = "video_reward"

    def __init__(
        self,
        reward: TokenReward,
        instruction: str,
        *,
        scales: Mapping[str, float] | None,
        most: int,
        told: dict[str, Any],
        num_frames: int = FRAMES,
        least: int = LEAST,
    ) -> None:
        self.num_frames = num_frames
        self._reward, self._instruction, self._scales, self._told = reward, instruction, scales, told
        self._least, self._most = least, most

    def rewards(self, frames: Tensor, prompt: str) -> dict[str, float]:
        """Returns VQ, MQ and TA, normalised where the configuration says how, of frames `[T, H, W, 3]`, uint8 RGB."""
        high, wide = rounded_size(
            frames.shape[1], frames.shape[2], least=self._least, most=self._most, factor=self._reward.factor
        )
        x = F.interpolate(frames.permute(0, 3, 1, 2).float().cpu(), (high, wide), mode="bicubic", antialias=True)
        said = self._reward.read("video", x.clamp(0, 255).round(), self._instruction.replace(PLACE, prompt))
        raw = said.diagonal() if said.shape[1] == len(AXES) else said[:, 0]
        found = dict(zip(AXES, raw.tolist(), strict=True))
        if self._scales is None:
            return found
        return {
            axis: (value - self._scales[f"{axis}_mean"]) / self._scales[f"{axis}_std"] for axis, value in found.items()
        }

    def judge(self, frames: Tensor, prompt: str) -> float:
        """Returns the sum of the three."""
        return sum(self.rewards(frames, prompt).values())

    def provenance(self) -> dict[str, Any]:
        return {**self._told, "frames": self.num_frames, "checked_with_published_weights": False}


def load_video_reward(
    folder: str | os.PathLike[str],
    *,
    device: str = "cpu",
    dtype: str | None = None,
    allow_pickle: bool = False,
    cache: str | os.PathLike[str] | None = None,
) -> VideoReward:
    """VideoReward of a folder with model_config.json, checkpoint-N/model.pth (the latest), Qwen2-VL-2B-Instruct's
    configuration and tokenizer, and the text.

    Raises UserError where the folder lacks a part or holds another network.
    """
    folder = Path(folder).expanduser()
    settings = folder / "model_config.json"
    found = sorted(folder.glob("checkpoint-*/model.pth"), key=_step)
    if not settings.is_file() or not found:
        raise UserError(
            f"{folder} holds no VideoReward: it needs model_config.json and checkpoint-N/model.pth, as "
            f"`hf download {WEIGHTS.hub}` gets them"
        )
    instruction = read_instruction(folder, TOKENS, published=PUBLISHED)
    with malformed(str(settings), f"give the file of {WEIGHTS.hub}"):
        said = json.loads(settings.read_text(encoding="utf-8"))
        data, scales = said["data_config"], said.get("inference_config")
        if scales is not None:
            scales = {f"{axis}_{kind}": float(scales[f"{axis}_{kind}"]) for axis in AXES for kind in ("mean", "std")}
        most, count = int(data["max_frame_pixels"]), int(data.get("num_frames") or FRAMES)
        adapters = dict(said.get("peft_lora_config") or {})
        state = without_adapters(load_state(found[-1], allow_pickle=allow_pickle), adapters)
    rows = state.get("rm_head.weight")
    outputs, width = rows.shape if rows is not None and rows.ndim == 2 else (1, 1536)
    if outputs not in (1, len(AXES)):
        raise UserError(f"{found[-1]} has a head of {outputs} numbers a token; VideoReward's has 1 or {len(AXES)}")
    head = nn.Linear(width, outputs, bias=False)
    reward = load_token_reward(folder, state, head, TOKENS, source=found[-1], device=device, dtype=dtype)
    told = origin(WEIGHTS, found[-1], reward.network, cache=cache)
    return VideoReward(reward, instruction, scales=scales, most=most, told=told, num_frames=max(2, count // 2 * 2))


def _step(path: Path) -> int:
    number = path.parent.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1
