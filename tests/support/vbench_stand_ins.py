"""Backbones without weights found by name ("tests.support.vbench_stand_ins:encoder"), for whole runs in tests.

They are fast, deterministic and depend on every pixel; their numbers mean nothing.
"""

import os
import time
from typing import Any

import torch
from torch import Tensor

ALL = {
    "subject_consistency": "tests.support.vbench_stand_ins:encoder",
    "background_consistency": "tests.support.vbench_stand_ins:encoder",
    "motion_smoothness": "tests.support.vbench_stand_ins:interpolator",
    "dynamic_degree": "tests.support.vbench_stand_ins:flow",
    "aesthetic_quality": "tests.support.vbench_stand_ins:scorer",
    "imaging_quality": "tests.support.vbench_stand_ins:scorer",
}


class _StandIn:
    name = "stand-in"

    def provenance(self) -> dict[str, Any]:
        return {"id": f"stand-in {type(self).__name__}"}


class MeanColour(_StandIn):
    """The mean colour of every frame as its features."""

    dim = 3

    def encode(self, frames: Tensor) -> Tensor:
        return frames.float().mean(dim=(1, 2)) + 1


class Brightness(_StandIn):
    low, high = 0.0, 255.0

    def score(self, frames: Tensor) -> Tensor:
        return frames.float().mean(dim=(1, 2, 3))


class GreyDifference(_StandIn):
    """A "flow" to the right by the difference of the pixels."""

    pad_multiple = 8

    def flow(self, a: Tensor, b: Tensor) -> Tensor:
        right = (b - a).mean(dim=1, keepdim=True)
        return torch.cat((right, torch.zeros_like(right)), dim=1)


class Blend(_StandIn):
    pad_multiple = 16

    def midpoint(self, a: Tensor, b: Tensor) -> Tensor:
        return (a + b) / 2


class Slow(MeanColour):
    """Another backbone with the same numbers, and as slow as the test says."""

    def provenance(self) -> dict[str, Any]:
        return {"id": "stand-in slow"}

    def encode(self, frames: Tensor) -> Tensor:
        time.sleep(float(os.environ.get("STAND_IN_SECONDS", "0")))
        return super().encode(frames)


class Failing(Brightness):
    """Raises for dark videos, as a network may that runs out of memory."""

    def score(self, frames: Tensor) -> Tensor:
        scores = super().score(frames)
        if float(scores.mean()) < float(os.environ.get("STAND_IN_FAILS_BELOW", "0")):
            raise RuntimeError("out of memory, said the stand-in")
        return scores


encoder, scorer, flow, interpolator, slow, failing = MeanColour, Brightness, GreyDifference, Blend, Slow, Failing
