"""Long videos as VBench-Long takes them: cut into short clips, each measured by itself, and averaged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vbench_eval.dimensions import Accumulator, Dimension, Measured
from vbench_eval.video_info import VideoError

if TYPE_CHECKING:
    from torch import Tensor

    from vbench_eval.video_info import VideoInfo

LONG = 5.0  # seconds up to which VBench takes a video whole
SECONDS, LONGER = 2, 10  # of a clip, and of one whose action takes time
TAKES_TIME = ("human_action", "temporal_style", "overall_consistency")


def clip_places(frames: int, length: int) -> list[tuple[int, int]]:
    """Returns where clips of `length` frames begin and end: one after the other, the last one as long as the others, so
    that it begins inside the one before; the whole video where it is shorter than a clip.
    """
    if frames < length:
        return [(0, frames)]
    starts = [*range(0, frames - length + 1, length)]
    if frames % length:
        starts.append(frames - length)
    return [(start, start + length) for start in starts]


class InClips:
    """A dimension whose value on a video over five seconds is the mean of its clips' values.

    VBench-Long writes each clip to a file, compressed once more; here the video's own frames are measured. Its defaults
    are kept: no search for cuts, and no weight for how alike the clips are to each other.
    """

    def __init__(self, dimension: Dimension) -> None:
        self.name, self.backbone = dimension.name, dimension.backbone
        self._dimension = dimension

    def start(self, info: VideoInfo) -> Accumulator:
        count = info.declared_frames
        if info.fps <= 0 or (count is not None and count <= LONG * info.fps):
            return self._dimension.start(info)
        if count is None:
            raise VideoError(
                "its container does not say how many frames there are, which cutting it into clips needs; write it as "
                "mp4, or score it without --long"
            )
        seconds = LONGER if self.name in TAKES_TIME else SECONDS
        return _Clips(self._dimension, info, clip_places(count, max(1, int(info.fps) * seconds)))


class _Clips:
    def __init__(self, dimension: Dimension, info: VideoInfo, places: list[tuple[int, int]]) -> None:
        self._dimension, self._info, self._places = dimension, info, places
        self._running: dict[int, Accumulator] = {}
        self._found: list[Measured] = []
        self._seen = 0

    def add(self, frames: Tensor) -> None:
        begin, end = self._seen, self._seen + len(frames)
        for number, (start, stop) in self._touched(begin, end):
            if number not in self._running:
                self._running[number] = self._dimension.start(replace(self._info, declared_frames=stop - start))
            self._running[number].add(frames[max(start, begin) - begin : min(stop, end) - begin])
            if stop <= end:
                self._found.append(self._running.pop(number).finish())
        self._seen = end

    def _touched(self, begin: int, end: int) -> Iterator[tuple[int, tuple[int, int]]]:
        return ((n, place) for n, place in enumerate(self._places) if place[0] < end and place[1] > begin)

    def finish(self) -> Measured:
        if self._seen != self._places[-1][1]:
            raise VideoError(
                f"its container says {self._places[-1][1]} frames and holds {self._seen}, so that its clips are not "
                "where they should be; write it anew, or score it without --long"
            )
        clips: list[dict[str, Any]] = [
            {"frames": list(place), "value": one.value, "reason": one.reason}
            for place, one in zip(self._places, self._found, strict=True)
        ]
        texts = {name: text for one in self._found for name, text in one.extras.items() if name == "text"}
        extras = {"clips": clips, **texts}
        scored = [
            (float(one.value), one.score) for one in self._found if one.value is not None and one.score is not None
        ]
        if len(scored) < len(self._found):
            reason = next(one.reason for one in self._found if one.value is None or one.score is None)
            return Measured(None, None, weight=0.0, extras=extras, reason=f"one of its clips has no value: {reason}")
        value, score = (sum(column) / len(scored) for column in zip(*scored, strict=True))
        return Measured(value, score, extras=extras)
