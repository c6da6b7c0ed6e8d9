"""Frames that never were a file, as a video: what a pipeline returns can be scored without the loss of a codec."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from vbench_eval.chunking import in_chunks
from vbench_eval.errors import UserError
from vbench_eval.video_info import CHUNK_BYTES, VideoInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


class FramesInMemory:
    """Frames as a video.

    Args:
        frames: Pillow images of one size; or an array or tensor, `[T, H, W, 3]` or `[T, 3, H, W]` (with a batch of one
            before it, too), uint8 or floats in 0..1, which are rounded to 8 bits as pipelines do when they save them.
        fps: at which they would play; 8 is AnimateDiff's.
        name: stands for the path in reports.

    Raises UserError for anything else. The frames are not copied, and read when they are asked for.
    """

    def __init__(self, frames: Sequence[Any] | NDArray[Any] | Tensor, fps: float = 8.0, name: str = "") -> None:
        if not (math.isfinite(fps) and fps > 0):
            raise UserError(f"fps is {fps}; give the frames per second at which the frames play, such as 8")
        self._images: Sequence[Any] | None = None
        self._array: Tensor | None = None
        if isinstance(frames, Sequence):
            self._images = _images(frames)
            count, (width, height) = len(frames), self._images[0].size
        else:
            self._array = _array(frames)
            count, height, width, _ = self._array.shape
        self.info = VideoInfo(
            path=name,
            fps=float(fps),
            width=width,
            height=height,
            declared_frames=count,
            container="memory",
            codec="none",
            decoder="none",
            average_fps=float(fps),
        )

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[Tensor]:
        """See `Video.chunks`."""
        info = self.info
        yield from in_chunks(
            self._frames(), info.height, info.width, max_bytes=max_bytes, expected=info.declared_frames
        )

    def _frames(self) -> Iterator[NDArray[np.uint8]]:
        import torch

        from vbench_eval.pictures import as_rgb

        if self._images is not None:
            yield from map(as_rgb, self._images)
        if self._array is not None:
            for frame in self._array:
                frame = frame.detach().cpu()
                frame = (frame.float() * 255).round().to(torch.uint8) if frame.is_floating_point() else frame
                yield frame.numpy()


def _images(frames: Sequence[Any]) -> Sequence[Any]:
    from PIL import Image

    if not frames:
        raise UserError("there are no frames; give at least one")
    strangers = {type(frame).__name__ for frame in frames if not isinstance(frame, Image.Image)}
    if strangers:
        raise UserError(
            f"the list of frames holds {', '.join(sorted(strangers))}; give Pillow images, or one array or tensor "
            "[T, H, W, 3] (numpy.stack or torch.stack makes it)"
        )
    sizes = sorted({frame.size for frame in frames})
    if len(sizes) > 1:
        raise UserError(f"the frames have the sizes {sizes[0]} and {sizes[1]}; frames of one video must have one size")
    return frames


def _array(frames: Any) -> Tensor:
    import numpy as np
    import torch

    if isinstance(frames, np.ndarray) and not frames.flags.writeable:
        frames = frames.copy()  # torch warns of a view of memory that may not be written
    tensor = frames if isinstance(frames, torch.Tensor) else torch.as_tensor(frames)
    shape, kind = tuple(tensor.shape), tensor.dtype
    tensor = tensor[0] if tensor.ndim == 5 and shape[0] == 1 else tensor
    if tensor.ndim == 4 and tensor.shape[-1] != 3 and tensor.shape[1] == 3:
        tensor = tensor.permute(0, 2, 3, 1)
    if tensor.ndim != 4 or tensor.shape[-1] != 3 or 0 in tensor.shape:
        raise UserError(f"frames are of shape {shape}; give [T, H, W, 3] or [T, 3, H, W] with at least one frame")
    if kind == torch.uint8:
        return tensor
    if not kind.is_floating_point:
        raise UserError(f"frames are {kind}; give uint8 (0..255) or floats (0..1)")
    low, high = (float(end) for end in torch.aminmax(tensor.detach()))
    if not (low >= 0 and high <= 1):  # false for NaN, too
        raise UserError(f"frames are floats from {low:.4g} to {high:.4g}; floats must be in 0..1 (or give uint8)")
    return tensor
