"""Frames, one by one, into chunks of bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from vbench_eval.video_info import VideoError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

MAX_PIXELS = 1 << 26  # of a frame: 8192x8192, 201 MB as RGB. A damaged or hostile header may claim any size


def check_size(height: int, width: int) -> None:
    """Raises VideoError for frames without an area or beyond MAX_PIXELS."""
    if height < 1 or width < 1:
        raise VideoError(f"its frames are {width}x{height}")
    if height * width > MAX_PIXELS:
        raise VideoError(
            f"its frames are {width}x{height}, {height * width / 1e6:.0f} megapixels; at most {MAX_PIXELS / 1e6:.0f} "
            "are read: scale the video down"
        )


def in_chunks(
    frames: Iterable[NDArray[np.uint8]], height: int, width: int, *, max_bytes: int, expected: int | None = None
) -> Iterator[Tensor]:
    """Gives frames `[H, W, 3]` as tensors `[n, H, W, 3]`, uint8, n >= 1.

    A chunk takes half of `max_bytes`, for the caller still holds one while the next is filled; never less than a frame,
    and not more than the `expected` number of frames. Raises VideoError for a frame of another size, and for no frame
    at all.
    """
    import torch

    capacity = max(1, max_bytes // (2 * height * width * 3))
    capacity = min(capacity, max(1, expected)) if expected is not None else capacity
    chunk, filled, index = None, 0, -1
    for index, frame in enumerate(frames):
        if frame.shape != (height, width, 3):
            raise VideoError(
                f"its frame {index} is {frame.shape[1]}x{frame.shape[0]}, the first one {width}x{height}; "
                "frames of one video must have one size"
            )
        if chunk is None:
            chunk, filled = torch.empty((capacity, height, width, 3), dtype=torch.uint8), 0
        chunk[filled].numpy()[:] = frame
        filled += 1
        if filled == capacity:
            yield chunk
            chunk = None
    if chunk is not None:
        yield chunk[:filled]
    if index < 0:
        raise VideoError("it holds no frame")
