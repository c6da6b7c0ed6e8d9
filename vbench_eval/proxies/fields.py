"""Frames made small for flow, and the flow between two of them: computed once, however many measures ask for it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from vbench_eval.dimensions.averaging import of_shape
from vbench_eval.protocols import FlowEstimator
from vbench_eval.proxies.flow import shorter_side_at_most
from vbench_eval.resizing import pad_to_multiple, unpad

SIDE = 256  # pixels of the shorter side that flow measures work at; smaller frames are taken as they are
LEAST_SIDE = 32  # pixels; of less, nothing would be left without the margin
TOGETHER = 8  # pairs handed to the estimator at a time: 6 MB of float32 frames


@dataclass(frozen=True, eq=False)
class Small:
    """A frame of at most 256 pixels on its shorter side, and what is needed to speak of it at its own size.

    Attributes:
        pixels: `[3, h, w]`, uint8.
        key: equal for equal pixels.
        size: (height, width) of the frame as it came.
    """

    pixels: Tensor
    key: bytes
    size: tuple[int, int]

    @classmethod
    def of(cls, frame: Tensor) -> Small:
        """Returns the small form of a frame `[H, W, 3]`, uint8; a copy, never a view of it."""
        height, width = frame.shape[:2]
        size = shorter_side_at_most(height, width, SIDE)
        pixels = frame.permute(2, 0, 1)
        if size != (height, width):
            pixels = F.interpolate(pixels[None], size, mode="bilinear", align_corners=False, antialias=True)[0]
        pixels = pixels.contiguous()  # which copies, as the channels were last
        key = hashlib.blake2b(pixels.numpy(), digest_size=16, key=repr(size).encode())
        return cls(pixels, key.digest(), (height, width))


class Field:
    """A flow `[2, h, w]` in pixels of the small frames; lives as long as somebody holds it."""

    __slots__ = ("__weakref__", "flow")

    def __init__(self, flow: Tensor) -> None:
        self.flow = flow


class Fields:
    """The flows of one estimator. Those that some measure still holds are not computed again.

    A measure that keeps the fields of one chunk until it is given the next one shares them with all measures that are
    given the same chunk in between. What is held is at most 2.7 times the bytes of the chunk for the flow between
    neighbours and half of that for the flow over two frames, and far less where frames are made small.
    """

    def __init__(self, estimator: FlowEstimator) -> None:
        self.estimator = estimator
        self._held: WeakValueDictionary[tuple[bytes, bytes], Field] = WeakValueDictionary()

    def between(self, pairs: Sequence[tuple[Small, Small]]) -> list[Field]:
        """Returns the flow from the first frame of each pair to its second."""
        keys = [(a.key, b.key) for a, b in pairs]
        found = {key: field for key in keys if (field := self._held.get(key)) is not None}
        missing = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in found}
        wanted = list(missing.items())
        for start in range(0, len(wanted), TOGETHER):
            group = wanted[start : start + TOGETHER]
            flows = self._estimated([pair for _, pair in group])
            for (key, _), flow in zip(group, flows, strict=True):
                found[key] = self._held[key] = Field(flow.clone())
        return [found[key] for key in keys]

    def _estimated(self, pairs: Sequence[tuple[Small, Small]]) -> Tensor:
        befores, afters = (torch.stack([pair[side].pixels for pair in pairs]).float() for side in (0, 1))
        a, pads = pad_to_multiple(befores, self.estimator.pad_multiple)
        b, _ = pad_to_multiple(afters, self.estimator.pad_multiple)
        flow = of_shape(self.estimator, self.estimator.flow(a, b), (len(pairs), 2, *a.shape[-2:]))
        return unpad(flow, pads).float().cpu()


_SHARED: WeakValueDictionary[Any, Fields] = WeakValueDictionary()


def shared_fields(estimator: FlowEstimator) -> Fields:
    """Returns the one `Fields` of that estimator (equal settings are the same estimator), new if nobody holds it."""
    try:
        hash(estimator)
        key: Any = estimator
    except TypeError:
        key = id(estimator)  # its `Fields` keep it alive, so that the number stays its own
    fields = _SHARED.get(key)
    if fields is None:
        fields = _SHARED[key] = Fields(estimator)
    return fields


def interior(pictures: Tensor) -> Tensor:
    """Returns pictures `[..., h, w]` without their margin of max(8, 5 %) pixels, where flow meets what came into view
    from outside.
    """
    height, width = pictures.shape[-2:]
    top, left = (max(8, int(0.05 * side)) for side in (height, width))
    return pictures[..., top : height - top, left : width - left]
