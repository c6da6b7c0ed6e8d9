"""VBench's dimensions of meaning: whether a video shows what its prompt says. Each needs the prompt, or words of it."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vbench_eval.dimensions import Measured, asked_text
from vbench_eval.dimensions.formulas import finite_mean, of_shape, unmeasured
from vbench_eval.errors import UserError
from vbench_eval.profiles import Profile, is_vbench
from vbench_eval.protocols import ActionRecogniser, Captioner, Shrinking, TextScorer, VideoTextEncoder
from vbench_eval.video_files import scaled_frames
from vbench_eval.video_info import VideoError, VideoInfo


def text_of(name: str, info: VideoInfo) -> str:
    """Returns what the dimension asks of the video; raises VideoError if nobody says."""
    text = asked_text(name, info.about)
    if text is None:
        source = (
            "--suite or --manifest, whose entries" if name in ("appearance_style", "scene") else "--prompt-file, which"
        )
        raise VideoError(f"{name} needs to know what the video is meant to show; give {source} say so for its prompt")
    return text


def middle_frames(count: int, wanted: int) -> list[int]:
    """Returns the indices of `wanted` frames of `count`: the middles of equal parts; of fewer frames all, and the last
    one again until there are enough.
    """
    parts = min(count, wanted)
    edges = np.linspace(0, count, parts + 1).astype(int).tolist()
    middles = [(start + end - 1) // 2 for start, end in pairwise(edges)]
    return middles + [middles[-1]] * (wanted - parts)


class MiddleFrames:
    """Keeps every frame as small as the network looks at it, until it is known which are the middles of equal parts.

    What a container says of its length cannot be relied on, and some say nothing.
    """

    def __init__(self, network: Shrinking, wanted: int) -> None:
        self._network, self._wanted = network, wanted
        self._small: list[Tensor] = []

    @torch.no_grad()
    def add(self, frames: Tensor) -> None:
        self._small += self._network.shrink(frames).cpu().clone().unbind()  # the chunk is not ours to keep

    def frames(self) -> Tensor:
        """Returns the small frames `[wanted, h, w, 3]`, uint8."""
        return torch.stack([self._small[place] for place in middle_frames(len(self._small), self._wanted)])


class AppearanceStyle:
    """The mean over frames of CLIP's likeness to the style that the prompt suite names; VBench weighs by frames."""

    def __init__(self, name: str, profile: Profile, backbone: TextScorer) -> None:
        self.name, self.profile, self.backbone = name, profile, backbone

    def start(self, info: VideoInfo) -> _Likenesses:
        return _Likenesses(self, text_of(self.name, info))


class _Likenesses:
    def __init__(self, dimension: AppearanceStyle, text: str) -> None:
        self._dimension, self._text = dimension, text
        self._found: list[float] = []

    @torch.no_grad()
    def add(self, frames: Tensor) -> None:
        scorer = self._dimension.backbone
        self._found += of_shape(scorer, scorer.similarities(frames, self._text), (len(frames),)).tolist()

    def finish(self) -> Measured:
        mean = finite_mean(self._found)
        if mean is None:
            return unmeasured(f"{self._dimension.backbone.name} gave likenesses that are not finite numbers")
        last = self._found[-1]
        extras = {"frame_results": self._found, "cur_sim": last, "text": self._text}
        score = last if self._dimension.profile.last_frame else mean
        return Measured(mean, score, weight=float(len(self._found)), extras=extras)


class PromptConsistency:
    """The cosine of ViCLIP's features of eight middle frames and of the prompt: temporal style, overall consistency."""

    def __init__(self, name: str, profile: Profile, backbone: VideoTextEncoder) -> None:
        self.name, self.profile, self.backbone = name, profile, backbone

    def start(self, info: VideoInfo) -> _Meaning:
        return _Meaning(self.backbone, text_of(self.name, info))


class _Meaning:
    def __init__(self, encoder: VideoTextEncoder, text: str) -> None:
        self._encoder, self._text = encoder, text
        self._middle = MiddleFrames(encoder, encoder.num_frames)

    def add(self, frames: Tensor) -> None:
        self._middle.add(frames)

    @torch.no_grad()
    def finish(self) -> Measured:
        encoder = self._encoder
        video = of_shape(encoder, encoder.encode_video(self._middle.frames()), (encoder.dim,)).float().cpu()
        words = of_shape(encoder, encoder.encode_text(self._text), (encoder.dim,)).float().cpu()
        found = float(F.normalize(video, dim=0) @ F.normalize(words, dim=0))
        if not math.isfinite(found):
            return unmeasured(f"{encoder.name} gave features that are not finite numbers")
        return Measured(found, found, extras={"text": self._text})


SURE, TOP = 0.85, 5  # of the five likeliest actions those count that are at least so likely, to four digits


class HumanAction:
    """True if the action that the prompt names is among the likeliest ones that the network is sure of."""

    def __init__(self, name: str, profile: Profile, backbone: ActionRecogniser) -> None:
        self.name, self.profile, self.backbone = name, profile, backbone

    def start(self, info: VideoInfo) -> _Action:
        return _Action(self.backbone, text_of(self.name, info))


class _Action:
    def __init__(self, network: ActionRecogniser, text: str) -> None:
        self._network, self._text = network, text
        self._middle = MiddleFrames(network, network.num_frames)

    def add(self, frames: Tensor) -> None:
        self._middle.add(frames)

    @torch.no_grad()
    def finish(self) -> Measured:
        network = self._network
        found = of_shape(network, network.probabilities(self._middle.frames()), (len(network.labels),)).float().cpu()
        if not bool(found.isfinite().all()):
            return unmeasured(f"{network.name} gave probabilities that are not finite numbers")
        likeliest = found.topk(min(TOP, len(found)))
        seen = {
            network.labels[place]: round(share, 4)
            for share, place in zip(likeliest.values.tolist(), likeliest.indices.tolist(), strict=True)
        }
        right = seen.get(self._text, 0.0) >= SURE
        extras = {"cor_num_per_video": int(right), "text": self._text, "likeliest": seen}
        return Measured(right, float(right), extras=extras)


BEAMS = 3  # of VBench's search for a caption


class Scene:
    """The share of captions, of sixteen middle frames, that have every word of the scene that the prompt suite names.

    In VBench the frame i is captioned by what is seen in frame i // 3: the search has three beams for each frame, to
    which it gives the pictures of the first frames, repeated nine times and cut to their number.
    """

    def __init__(self, name: str, profile: Profile, backbone: Captioner) -> None:
        self.name, self.profile, self.backbone = name, profile, backbone

    def start(self, info: VideoInfo) -> _Captions:
        return _Captions(self, text_of(self.name, info), info)


FILES = (".mp4", ".mov", ".webm", ".mkv", ".m4v", ".avi")


class _Captions:
    """VBench's reader scales frames from the file's own colours, before they are RGB; so a file is read again for its
    few frames, under VBench's profile. What is no file, and every video under another profile, is scaled as it comes.
    """

    def __init__(self, dimension: Scene, text: str, info: VideoInfo) -> None:
        self._dimension, self._text = dimension, text
        path = Path(info.path)
        again = is_vbench(dimension.profile) and path.suffix.lower() in FILES and path.is_file()
        self._path = path if again else None
        self._middle = MiddleFrames(dimension.backbone, dimension.backbone.num_frames)
        self._count = 0

    def add(self, frames: Tensor) -> None:
        self._count += len(frames)
        if self._path is None:
            self._middle.add(frames)

    def _frames(self) -> Tensor:
        if self._path is None:
            return self._middle.frames()
        network = self._dimension.backbone
        return torch.from_numpy(scaled_frames(self._path, middle_frames(self._count, network.num_frames), network.side))

    @torch.no_grad()
    def finish(self) -> Measured:
        frames = self._frames()
        each = BEAMS if self._dimension.profile.shared_captions else 1
        network, seen = self._dimension.backbone, frames[: math.ceil(len(frames) / each)]
        different = network.captions(seen)
        if len(different) != len(seen):
            raise UserError(
                f"{network.name} gave {len(different)} captions for {len(seen)} frames; it must give as many"
            )
        captions = [different[number // each] for number in range(len(frames))]
        right = sum(all(word in caption for word in self._text.split(" ")) for caption in captions)
        score = right / len(captions)
        extras = {"success_frame_count": right, "frame_count": len(captions), "text": self._text, "captions": different}
        return Measured(score, score, weight=float(len(captions)), extras=extras)
