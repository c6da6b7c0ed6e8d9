"""aesthetic_quality and imaging_quality: the mean score of the frames, one by one."""

from __future__ import annotations

import torch
from torch import Tensor

from vbench_eval.dimensions import Measured
from vbench_eval.dimensions.averaging import finite_mean, of_shape, unmeasured
from vbench_eval.profiles import Profile
from vbench_eval.protocols import FrameScorer
from vbench_eval.video_info import VideoInfo


class Quality:
    """The mean over frames of what a frame scorer says, on its nominal scale from 0 to 1 and not clamped to it.

    VBench writes imaging_quality per video as 0..100 and averages it as 0..1; aesthetic_quality is 0..1 in both.
    """

    def __init__(self, name: str, profile: Profile, backbone: FrameScorer) -> None:
        self.name, self.profile, self.backbone = name, profile, backbone

    def start(self, info: VideoInfo) -> _Scores:
        return _Scores(self)


class _Scores:
    def __init__(self, dimension: Quality) -> None:
        self._dimension = dimension
        self._scores: list[float] = []

    @torch.no_grad()
    def add(self, frames: Tensor) -> None:
        scorer = self._dimension.backbone
        self._scores += of_shape(scorer, scorer.score(frames), (len(frames),)).float().tolist()

    def finish(self) -> Measured:
        scorer = self._dimension.backbone
        if not self._scores:
            return unmeasured("the video has no frame")
        mean = finite_mean(self._scores)
        if mean is None:
            return unmeasured(f"{scorer.name} gave scores that are not finite numbers")
        score = (mean - scorer.low) / (scorer.high - scorer.low)
        value = 100 * score if self._dimension.name == "imaging_quality" else score
        extras = {"lowest_frame": min(self._scores), "highest_frame": max(self._scores), "mean_of_scorer": mean}
        return Measured(value, score, extras=extras)
