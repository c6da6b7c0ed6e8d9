"""What a backbone must offer. Anything with these methods will do: nothing needs to be inherited.

Backbones own their preprocessing, their device and their batches; the dimensions own the formulas. They take tensors on
the CPU and may return theirs on any device. Gradients are off while they are called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


@runtime_checkable
class Backbone(Protocol):
    """What all kinds share."""

    name: str

    def provenance(self) -> dict[str, Any]:
        """Returns where the numbers come from, as JSON: id, revision, file, sha256, dtype, device, licence,
        commercial_ok (None where it does not apply or is not known).
        """
        ...


@runtime_checkable
class FrameEncoder(Backbone, Protocol):
    """Frames to feature vectors (DINO, the CLIP image tower)."""

    dim: int

    def encode(self, frames: Tensor) -> Tensor:
        """Returns features `[T, dim]`, float32, not normalised, of frames `[T, H, W, 3]`, uint8 RGB. The result of a
        frame does not depend on the frames beside it (but for rounding).
        """
        ...


@runtime_checkable
class PictureEncoder(FrameEncoder, Protocol):
    """A frame encoder that takes a picture of any size too, prepared in a way of its own (DINO in VBench-I2V)."""

    def encode_picture(self, picture: Image.Image) -> Tensor:
        """Returns the features `[1, dim]`, float32, not normalised, of a picture in RGB."""
        ...


@runtime_checkable
class FrameScorer(Backbone, Protocol):
    """Frames to one number each, in the network's own unit.

    `low` and `high` are the ends of that unit's nominal scale; the dimensions map it to 0..1 without clamping. MUSIQ: 0
    and 100. The LAION linear head: 0 and 10, and `score` returns what the head returns, not divided by anything.
    """

    low: float
    high: float

    def score(self, frames: Tensor) -> Tensor:
        """Returns scores `[T]`, float32, of frames `[T, H, W, 3]`, uint8 RGB."""
        ...


@runtime_checkable
class FlowEstimator(Backbone, Protocol):
    """Two frames to the motion between them (RAFT). The caller pads both sides to `pad_multiple`.

    An estimator may have a number `vbench_side`: padded sides below it have no value under the profile "vbench".
    """

    pad_multiple: int

    def flow(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns `[B, 2, H, W]`: by how many pixels (dx, dy) what is at a pixel of `a` has moved in `b`; both are
        `[B, 3, H, W]`, float32, 0..255.
        """
        ...


@runtime_checkable
class FrameInterpolator(Backbone, Protocol):
    """Two frames to the one halfway between them (AMT). The caller pads both sides to `pad_multiple`."""

    pad_multiple: int

    def midpoint(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns `[B, 3, H, W]` in about 0..1; both `a` and `b` are `[B, 3, H, W]`, float32, 0..1."""
        ...


@runtime_checkable
class TextScorer(Backbone, Protocol):
    """Frames and a text to one number per frame (CLIP's two towers)."""

    def similarities(self, frames: Tensor, text: str) -> Tensor:
        """Returns how like the text each frame is, `[T]`, float32, about 0..1, of frames `[T, H, W, 3]`, uint8 RGB."""
        ...


class Shrinking(Protocol):
    """What looks at few frames of a video, and at little of each."""

    def shrink(self, frames: Tensor) -> Tensor:
        """Returns what the network sees of frames `[T, H, W, 3]`, uint8 RGB: `[T, h, w, 3]`, uint8, each by itself."""
        ...


@runtime_checkable
class VideoTextEncoder(Backbone, Shrinking, Protocol):
    """A video of `num_frames` frames, and a text, to features in one space (ViCLIP)."""

    num_frames: int
    dim: int

    def encode_video(self, frames: Tensor) -> Tensor:
        """Returns the features `[dim]`, float32, not normalised, of shrunk frames `[num_frames, h, w, 3]`, uint8."""
        ...

    def encode_text(self, text: str) -> Tensor:
        """Returns the features `[dim]`, float32, not normalised."""
        ...


@runtime_checkable
class ActionRecogniser(Backbone, Shrinking, Protocol):
    """A video of `num_frames` frames to how likely each of `labels`, in lower case, is what happens in it (UMT)."""

    num_frames: int
    labels: tuple[str, ...]

    def probabilities(self, frames: Tensor) -> Tensor:
        """Returns `[labels]`, float32, 0..1, each by itself, of shrunk frames `[num_frames, h, w, 3]`, uint8."""
        ...


@runtime_checkable
class Captioner(Backbone, Shrinking, Protocol):
    """Pictures, `num_frames` of a video, to captions (Tag2Text); it looks at squares of `side` pixels."""

    num_frames: int
    side: int

    def captions(self, frames: Tensor) -> list[str]:
        """Returns a caption for each of some shrunk frames `[T, h, w, 3]`, uint8 RGB, each by itself."""
        ...


@runtime_checkable
class Detector(Backbone, Protocol):
    """Pictures and phrases to boxes (OWLv2); a box is found where its score is at least `sure`."""

    sure: float

    def detect(self, frames: Tensor, phrases: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Returns for each phrase the best box of each frame `[T, H, W, 3]`, uint8 RGB: scores `[T, phrases]`, 0..1,
        and boxes `[T, phrases, 4]`, (left, top, right, bottom) in one unit along both sides.
        """
        ...


@runtime_checkable
class VideoJudge(Backbone, Protocol):
    """A judge of one's own (HPSv3, VideoScore2, a vision-language model): a video and its prompt to one number, larger
    for better.
    """

    num_frames: int

    def judge(self, frames: Tensor, prompt: str) -> float:
        """Returns the number, in the judge's own unit, of `num_frames` frames `[num_frames, H, W, 3]`, uint8 RGB."""
        ...
