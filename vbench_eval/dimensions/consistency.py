"""subject_consistency and background_consistency: how alike each frame is to the one before and to the first."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vbench_eval.dimensions import Measured
from vbench_eval.dimensions.averaging import finite_mean, of_shape, unmeasured
from vbench_eval.profiles import Profile
from vbench_eval.protocols import FrameEncoder
from vbench_eval.video_info import VideoInfo


class Consistency:
    """Frame features f_t compared by cosine: s_t = (max(0, f_{t-1}.f_t) + max(0, f_0.f_t)) / 2 for t >= 1; the video's
    value is their mean, its weight their number. The two dimensions differ in their backbone alone.
    """

    def __init__(self, name: str, profile: Profile, backbone: FrameEncoder) -> None:
        self.name, self.profile, self.backbone = name, profile, backbone

    def start(self, info: VideoInfo) -> _Pairs:
        return _Pairs(self)


class _Pairs:
    def __init__(self, dimension: Consistency) -> None:
        self._dimension = dimension
        self._first: Tensor | None = None  # unit features [1, dim] of the first frame and of the last one seen
        self._last: Tensor | None = None
        self._similarities: list[float] = []

    @torch.no_grad()
    def add(self, frames: Tensor) -> None:
        encoder = self._dimension.backbone
        features = of_shape(encoder, encoder.encode(frames), (len(frames), encoder.dim))
        features = F.normalize(features.float().cpu(), dim=-1)
        if self._first is None or self._last is None:
            self._first = self._last = features[:1].clone()
            features = features[1:]
        if not len(features):
            return
        before = torch.cat([self._last, features[:-1]])
        # Cosines of vectors that are unit already, as upstream: a zero vector stays zero and is like nothing.
        to_previous = F.cosine_similarity(before, features).clamp(min=0).tolist()
        to_first = F.cosine_similarity(self._first, features).clamp(min=0).tolist()
        self._similarities += [(p + f) / 2 for p, f in zip(to_previous, to_first, strict=True)]
        self._last = features[-1:].clone()

    def finish(self) -> Measured:
        pairs = self._similarities
        if not pairs:
            return unmeasured("consistency needs two frames, the video has one")
        mean = finite_mean(pairs)
        if mean is None:
            return unmeasured(f"{self._dimension.backbone.name} gave features that are not finite numbers")
        lowest = min(range(len(pairs)), key=pairs.__getitem__)
        extras = {
            "video_sim": sum(pairs),
            "cnt_per_video": len(pairs),
            "lowest_pair": pairs[lowest],
            "lowest_pair_frame": lowest + 1,  # the second frame of the pair, counted from 0
        }
        return Measured(mean, mean, weight=float(len(pairs)), extras=extras)
