"""VBench-I2V's dimensions of how a video keeps to the picture it was made from."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vbench_eval.dimensions import Measured, asked_text
from vbench_eval.dimensions.formulas import of_shape, unmeasured
from vbench_eval.profiles import Profile
from vbench_eval.protocols import PictureEncoder
from vbench_eval.video_info import VideoError, VideoInfo

LIKEST, MEAN_STEP, WORST_STEP = 0.4, 0.3, 0.3  # the parts of the value


class KeepsToPicture:
    """0.4 times the largest cosine of a frame and the picture, 0.3 times the mean cosine of neighbouring frames and 0.3
    times the smallest; cosines below 0 are 0. i2v_subject and i2v_background differ in their backbone alone.
    """

    def __init__(self, name: str, profile: Profile, backbone: PictureEncoder) -> None:
        self.name, self.profile, self.backbone = name, profile, backbone

    def start(self, info: VideoInfo) -> _Frames:
        if info.about.picture is None:
            raise VideoError(
                f"{self.name} needs the picture that the video was made from; give --image-folder with a picture named "
                "like its prompt"
            )
        return _Frames(self.backbone, Path(info.about.picture), asked_text(self.name, info.about))


class _Frames:
    @torch.no_grad()
    def __init__(self, encoder: PictureEncoder, path: Path, text: str | None) -> None:
        from PIL import Image

        self._encoder, self._text = encoder, text
        try:
            with Image.open(path) as picture:
                found = encoder.encode_picture(picture.convert("RGB"))
        except (OSError, Image.DecompressionBombError) as error:
            raise VideoError(f"the picture {path} cannot be read: {error}") from error
        self._picture = F.normalize(of_shape(encoder, found, (1, encoder.dim)).float().cpu(), dim=-1)
        self._features: list[Tensor] = []

    @torch.no_grad()
    def add(self, frames: Tensor) -> None:
        found = of_shape(self._encoder, self._encoder.encode(frames), (len(frames), self._encoder.dim))
        self._features += F.normalize(found.float().cpu(), dim=-1).split(1)

    def finish(self) -> Measured:
        if len(self._features) < 2:
            return unmeasured("how frames follow each other needs two frames, the video has one")
        likeness = [_cosine(self._picture, one) for one in self._features]
        steps = [_cosine(a, b) for a, b in pairwise(self._features)]
        if not all(map(math.isfinite, (*likeness, *steps))):
            return unmeasured(f"{self._encoder.name} gave features that are not finite numbers")
        mean = math.fsum(steps) / len(steps)
        score = LIKEST * max(likeness) + MEAN_STEP * mean + WORST_STEP * min(steps)
        extras = {"text": self._text, "likest_frame": likeness.index(max(likeness)), "mean_step": mean}
        return Measured(score, score, extras=extras)


def _cosine(a: Tensor, b: Tensor) -> float:
    found = float(F.cosine_similarity(a, b))
    return found if math.isnan(found) else max(0.0, found)
