"""Backbones without weights: tables whose answers are known by hand, and stand-ins for whole runs, found by name.

A table goes by the number that a frame carries. The stand-ins ("tests.support.vbench_backbones:encoder") are fast,
deterministic and depend on every pixel; their numbers mean nothing."""

import os
import re
import time
from typing import Any

import torch
from torch import Tensor

from vbench_eval.dimensions import Measured, build
from vbench_eval.profiles import Profile, get_profile
from vbench_eval.video_info import VideoInfo


def numbered(count: int, height: int = 16, width: int = 16) -> Tensor:
    """Frames `[T, H, W, 3]` filled with their own number."""
    return torch.arange(count, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, height, width, 3).clone()


def number_of(frame: Tensor) -> int:
    """The number that every value of the frame is, on whatever scale it was drawn from 0..255."""
    assert frame.min() == frame.max()
    return round(float(frame.max()))


def info(fps: float = 8.0, *, directory: bool = False, average_fps: float | None = None) -> VideoInfo:
    return VideoInfo(
        path="a prompt-0.mp4",
        fps=fps,
        width=16,
        height=16,
        declared_frames=None,
        container="mp4",
        codec="h264",
        decoder="stub",
        directory=directory,
        average_fps=fps if average_fps is None else average_fps,
    )


class Stub:
    name = "stub"

    def provenance(self) -> dict:
        return {"id": "stub"}


class TableEncoder(Stub):
    """The n-th frame has the n-th feature."""

    def __init__(self, features: list[list[float]] | Tensor) -> None:
        self.features = torch.as_tensor(features, dtype=torch.float32)
        self.dim = self.features.shape[1]

    def encode(self, frames: Tensor) -> Tensor:
        return self.features[[number_of(frame) for frame in frames]]


class TableScorer(Stub):
    def __init__(self, scores: list[float], low: float, high: float) -> None:
        self.scores, self.low, self.high = torch.tensor(scores), low, high

    def score(self, frames: Tensor) -> Tensor:
        return self.scores[[number_of(frame) for frame in frames]]


class TableFlow(Stub):
    """Everything moves by the vector that belongs to the earlier frame; remembers which pairs were asked for."""

    pad_multiple = 8

    def __init__(self, vectors: dict[int, tuple[float, float]] | None = None) -> None:
        self.vectors = vectors or {}
        self.pairs: list[tuple[int, int]] = []

    def flow(self, a: Tensor, b: Tensor) -> Tensor:
        self.pairs.append((number_of(a), number_of(b)))
        vector = torch.tensor(self.vectors.get(number_of(a), (0.0, 0.0)))
        return vector.reshape(1, 2, 1, 1).expand(1, 2, *a.shape[-2:])


class ErringInterpolator(Stub):
    """The number halfway between two frames' numbers, too bright by `error` grey levels."""

    pad_multiple = 16

    def __init__(self, error: float = 0.0) -> None:
        self.error = error
        self.pairs: list[tuple[int, int]] = []

    def midpoint(self, a: Tensor, b: Tensor) -> Tensor:
        first, last = number_of(a * 255), number_of(b * 255)
        self.pairs.append((first, last))
        # A quarter of a level more: x / 255 * 255 may fall below x by rounding, and would then be cut to x - 1.
        return torch.full_like(a, ((first + last) / 2 + self.error + 0.25) / 255)


def measure(
    name: str,
    frames: Tensor,
    backbone: object = None,
    *,
    profile: Profile | str = "vbench",
    about: VideoInfo | None = None,
    cuts: list[int] | None = None,
) -> Measured:
    """One dimension of one video, its frames handed over in pieces cut before the given frames."""
    profile = get_profile(profile) if isinstance(profile, str) else profile
    accumulator = build(name, profile, backbone).start(about or info())
    for piece in torch.tensor_split(frames, cuts or []):
        if len(piece):
            piece = piece.clone()
            accumulator.add(piece)
            piece.fill_(123)  # it is the giver's again, who may use it for the next frames
    return accumulator.finish()


def noise(count: int, height: int, width: int) -> Tensor:
    """Frames [count, height, width, 3], uint8, the same at every call."""
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (count, height, width, 3), generator=generator, dtype=torch.uint8)


ALL = {
    "subject_consistency": "tests.support.vbench_backbones:encoder",
    "background_consistency": "tests.support.vbench_backbones:encoder",
    "motion_smoothness": "tests.support.vbench_backbones:interpolator",
    "dynamic_degree": "tests.support.vbench_backbones:flow",
    "aesthetic_quality": "tests.support.vbench_backbones:scorer",
    "imaging_quality": "tests.support.vbench_backbones:scorer",
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
    """Another backbone with the same numbers, and from the second video on as slow as the test says."""

    def __init__(self) -> None:
        self._begun = False

    def provenance(self) -> dict[str, Any]:
        return {"id": "stand-in slow"}

    def encode(self, frames: Tensor) -> Tensor:
        time.sleep(float(os.environ.get("STAND_IN_SECONDS", "0")) if self._begun else 0)
        self._begun = True
        return super().encode(frames)


class Failing(Brightness):
    """Raises for dark videos, as a network may that runs out of memory."""

    def score(self, frames: Tensor) -> Tensor:
        scores = super().score(frames)
        if float(scores.mean()) < float(os.environ.get("STAND_IN_FAILS_BELOW", "0")):
            raise RuntimeError("out of memory, said the stand-in")
        return scores


encoder, scorer, flow, interpolator, slow, failing = MeanColour, Brightness, GreyDifference, Blend, Slow, Failing


DAMAGES = ("missing", "renamed", "extra", "shape")


def damaged(state: dict[str, Tensor], damage: str, key: str, own: str | None = None) -> tuple[dict[str, Tensor], str]:
    """The state of nearly this network, and what a refusal of it says; `own` is the key's name in our module."""
    state, own, shape = dict(state), re.escape(own or key), re.escape(str(list(state[key].shape)))
    if damage == "shape":
        state[key] = torch.zeros(7)
        return state, rf"{own} is \[7\], not {shape}"
    stranger, _, last = key.rpartition(".")
    stranger = f"{stranger}.other_{last}"
    if damage != "missing":
        state[stranger] = state[key]
    if damage != "extra":
        del state[key]
    return state, f"missing: {own}" if damage == "missing" else re.escape(stranger)
