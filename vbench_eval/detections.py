"""Whether an open-vocabulary detector finds what the prompt asks for: measures like four of VBench's, under own names.

VBench's object_class, multiple_objects, color and spatial_relationship come from GRiT, whose words are fixed. Another
detector gives other numbers, so these are judges: `judge_detected_...`, never VBench's names nor in its scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vbench_eval.video_info import About, VideoError

if TYPE_CHECKING:
    from torch import Tensor

    from vbench_eval.dimensions import Measured
    from vbench_eval.protocols import Detector
    from vbench_eval.video_info import VideoInfo

FRAMES = 16
COLOURS = ("white", "red", "pink", "blue", "silver", "purple", "orange", "green", "gray", "yellow", "black", "brown")
LIKE: Mapping[str, str] = {
    "judge_detected_object": "object_class",
    "judge_detected_objects": "multiple_objects",
    "judge_detected_color": "color",
    "judge_detected_relation": "spatial_relationship",
}
"""Each measure, and the dimension whose words of the prompt suite it reads."""
OVERLAP = 0.1  # of two boxes over their union, from which their places are told apart less and less
_DIRECTIONS = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}


def asked_phrases(name: str, about: About) -> tuple[str, ...] | None:
    """Returns what is looked for, None where the suite says nothing of the kind about the prompt: an object; two or
    more; an object in the asked color and in all others; two objects and the direction of one from the other.
    """
    words = about.words.get(LIKE[name])
    if not isinstance(words, Mapping):
        return None
    if name in ("judge_detected_object", "judge_detected_objects"):
        given = str(words.get("object") or "")
        parts = given.split(" and ") if name == "judge_detected_objects" else [given]
        return tuple(part.strip() for part in parts) if given else None
    if name == "judge_detected_color":
        color = str(words.get("color") or "")
        thing = " ".join(word for word in (about.prompt or "").split() if word not in ("a", "an", color))
        same = {color, {"grey": "gray"}.get(color, color)}
        others = [f"{other} {thing}" for other in COLOURS if other not in same]
        return (f"{color} {thing}", *others) if color and thing else None
    relation = words.get("spatial_relationship", words)
    if not isinstance(relation, Mapping) or not {"object_a", "object_b", "relationship"} <= set(relation):
        return None
    return tuple(str(relation[key]) for key in ("object_a", "object_b", "relationship"))


def relation_score(direction: str, first: Sequence[float], second: Sequence[float]) -> float:
    """Returns how much the first box (left, top, right, bottom) lies on that side of the second: 0 if it does not, 1 if
    they hardly overlap, else 0.1 over their overlap. VBench's own rule takes left for right, and top for bottom.
    """
    side = next((side for side in _DIRECTIONS if side in direction.split()), None)
    if side is None:
        raise VideoError(f"the relation is {direction!r}; known are those with {', '.join(_DIRECTIONS)}")
    axis, sign = _DIRECTIONS[side]
    apart = [(second[n] + second[n + 2] - first[n] - first[n + 2]) / 2 for n in (0, 1)]
    if sign * apart[axis] <= abs(apart[1 - axis]):
        return 0.0
    shared = math.prod(max(0.0, min(first[n + 2], second[n + 2]) - max(first[n], second[n])) for n in (0, 1))
    areas = [math.prod(max(0.0, box[n + 2] - box[n]) for n in (0, 1)) for box in (first, second)]
    union = sum(areas) - shared
    overlap = shared / union if union > 0 else 0.0
    return 1.0 if overlap < OVERLAP else OVERLAP / overlap


class Detected:
    """One of these measures over sixteen frames, evenly spread."""

    backbone: Any

    def __init__(self, name: str, backbone: Detector) -> None:
        self.name, self.backbone = name, backbone

    def start(self, info: VideoInfo) -> _Frames:
        phrases = asked_phrases(self.name, info.about)
        if phrases is None:
            raise VideoError(f"{self.name} needs the words of the prompt suite; give --suite or --manifest")
        return _Frames(self, phrases)


class _Frames:
    def __init__(self, dimension: Detected, phrases: tuple[str, ...]) -> None:
        from vbench_eval.judges import SpreadFrames

        self._dimension, self._phrases = dimension, phrases
        self._kept = SpreadFrames(FRAMES)

    def add(self, frames: Tensor) -> None:
        self._kept.add(frames)

    def finish(self) -> Measured:
        import torch

        from vbench_eval.dimensions import Measured

        name, detector = self._dimension.name, self._dimension.backbone
        relation = name == "judge_detected_relation"
        phrases = self._phrases[:2] if relation else self._phrases
        with torch.no_grad():
            scores, boxes = detector.detect(self._kept.frames(), phrases)
        extras: dict[str, Any] = {"text": ", ".join(self._phrases)}
        if not bool(scores.isfinite().all() and boxes.isfinite().all()):
            return Measured(None, None, 0.0, extras, f"{detector.name} gave scores or boxes that are not finite")
        sure = scores >= detector.sure
        if name == "judge_detected_color":
            seen = sure.any(dim=1)
            extras["frames_with_object"] = int(seen.sum())
            if not bool(seen.any()):
                return Measured(None, None, 0.0, extras, f"{detector.name} found the object in no frame, in no color")
            found = float((scores[seen].argmax(dim=1) == 0).double().mean())
        elif relation:
            each = [
                relation_score(self._phrases[2], *pair) if bool(both.all()) else 0.0
                for pair, both in zip(boxes.tolist(), sure, strict=True)
            ]
            found = math.fsum(each) / len(each)
        else:
            found = float(sure.all(dim=1).double().mean())
        return Measured(found, found, extras=extras)
