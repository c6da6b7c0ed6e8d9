"""Judges beside VBench's dimensions: anybody's function, or a reward of pictures, with the same journal and statistics.

A judge is measured under a name of its own, `judge_NAME`, never under one of VBench's.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from vbench_eval.errors import UserError
from vbench_eval.video_info import VideoError

if TYPE_CHECKING:
    from torch import Tensor

    from vbench_eval.dimensions import Measured
    from vbench_eval.protocols import VideoJudge
    from vbench_eval.video_info import VideoInfo

PREFIX = "judge_"
PICTURE_REWARDS = ("pickscore", "hps_v2.1", "hps_v2", "clip_t", "aes", "image_reward", "vqascore", "hpsv3")
FROM_FOLDERS = ("hpsv3", "video_reward")  # NAME=FOLDER, with the network's weights, configuration and instruction
FRAMES = 8  # of a video that a reward of pictures looks at


class Judge:
    """A judge as a dimension: it sees the middles of equal parts of the video, and the prompt."""

    backbone: Any

    def __init__(self, name: str, backbone: VideoJudge) -> None:
        self.name, self.backbone = name, backbone

    def start(self, info: VideoInfo) -> _Case:
        if info.about.prompt is None:
            raise VideoError(f"{self.name} needs the prompt; give --prompt-file, which says it")
        return _Case(self.backbone, info.about.prompt)


class SpreadFrames:
    """Keeps every k-th frame, k doubling as often as the kept ones are four times as many as are wanted."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._kept: list[Tensor] = []
        self._seen, self._every = 0, 1

    def add(self, frames: Tensor) -> None:
        for frame in frames:
            if self._seen % self._every == 0:
                self._kept.append(frame.clone())
            self._seen += 1
            if len(self._kept) > 4 * self._wanted:
                self._kept, self._every = self._kept[::2], 2 * self._every

    def frames(self) -> Tensor:
        """Returns the middles of equal parts of what is kept, `[wanted, H, W, 3]`, uint8."""
        import torch

        from vbench_eval.dimensions.semantic import middle_frames

        return torch.stack([self._kept[place] for place in middle_frames(len(self._kept), self._wanted)])


class _Case:
    def __init__(self, judge: VideoJudge, prompt: str) -> None:
        self._judge, self._prompt = judge, prompt
        self._kept = SpreadFrames(judge.num_frames)

    def add(self, frames: Tensor) -> None:
        self._kept.add(frames)

    def finish(self) -> Measured:
        import torch

        from vbench_eval.dimensions import Measured

        with torch.no_grad():
            found = float(self._judge.judge(self._kept.frames(), self._prompt))
        if not math.isfinite(found):
            return Measured(None, None, weight=0.0, reason=f"{self._judge.name} gave a number that is not finite")
        return Measured(found, found, extras={"text": self._prompt})


class PictureJudge:
    """The mean over frames of a reward of pictures: PickScore, HPS, CLIP-T, the aesthetic MLP."""

    num_frames = FRAMES

    def __init__(self, reward: Any, name: str) -> None:
        self.name, self._reward = name, reward

    def judge(self, frames: Tensor, prompt: str) -> float:
        """Returns the mean, in the reward's own unit."""
        return float(self._reward(frames, [prompt] * len(frames)).double().mean())

    def provenance(self) -> dict[str, Any]:
        return {"id": f"{self.name}, mean over {FRAMES} frames", **self._reward.provenance()}


def is_folder_judge(name: str, choice: str) -> bool:
    """Returns whether `name=choice` names a judge of `FROM_FOLDERS` and its folder."""
    return name in FROM_FOLDERS and os.path.isdir(os.path.expanduser(choice))


def how_to_choose() -> str:
    """Returns what a judge may be, for messages."""
    folders = ", ".join(f"{name}=FOLDER" for name in FROM_FOLDERS)
    return f"one of {', '.join(PICTURE_REWARDS)}, {folders}, or NAME=package.module:function"


def load_judge(
    name: str,
    choice: str,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    offline: bool = True,
    allow_pickle: bool = False,
    cache: str | os.PathLike[str] | None = None,
) -> VideoJudge:
    """Returns the judge: of a picture reward's name, of the folder of one in `FROM_FOLDERS`, or of
    "package.module:function", which is given those of `device` and `dtype` that it names.

    Raises UserError for what is none, and Unavailable where a reward's weights are not on this machine.
    """
    from vbench_eval.backbones.registry import called
    from vbench_eval.protocols import VideoJudge

    folder = choice if is_folder_judge(name, choice) else None
    if folder is not None and name == "video_reward":
        from vbench_eval.video_reward import load_video_reward

        return load_video_reward(folder, device=device, dtype=dtype, allow_pickle=allow_pickle, cache=cache)
    if folder is not None or choice in PICTURE_REWARDS:
        from vbench_eval.images.rewards import reward

        network = reward(
            name if folder else choice,
            weights=folder,
            device=device,
            dtype=dtype,
            offline=offline,
            allow_pickle=allow_pickle,
            cache=None if cache is None else os.fspath(cache),
        )
        return PictureJudge(network, name if folder else choice)
    if ":" not in choice:
        raise UserError(f"--judge is {choice!r}; give {how_to_choose()}")
    made = called(choice, {"device": device, "dtype": dtype})
    if not isinstance(made, VideoJudge) or made.num_frames < 1:
        raise UserError(f"{choice} returned a {type(made).__name__}, no judge: see vbench_eval.protocols.VideoJudge")
    return made
