"""What is known of a video before its frames are read, and how a bad one is told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

CHUNK_BYTES = 64 << 20
SAMPLED_FPS = 8  # at about which dynamic_degree looks at a video


def sampling_interval(fps: float) -> int:
    """Returns k where every k-th frame is kept; 12 frames per second give 2 (1.5 is rounded to even), 20 give 2."""
    return max(1, round(fps / SAMPLED_FPS))


class VideoError(ValueError):
    """A video that cannot be read; the message is the reason, for a person. Other videos go on."""


@dataclass(frozen=True)
class About:
    """What a video is meant to show.

    Attributes:
        prompt: letter for letter; None where nobody says.
        words: by dimension what VBench's prompt suite adds to the prompt ("auxiliary_info").
        picture: the path of the picture that the video was made from, for those made from one.
    """

    prompt: str | None = None
    words: Mapping[str, Any] = field(default_factory=dict)
    picture: str | None = None


@dataclass(frozen=True)
class VideoInfo:
    """What the file says of itself.

    Attributes:
        path: as given; the name of frames in memory.
        fps: frames per second as the container states them, which is what OpenCV reports and VBench uses; 0 where it
            states none.
        width, height: of the frames as they are given out.
        declared_frames: how many the container claims; None where it claims nothing.
        container, codec, decoder: "mp4", "h264", "pyav 18.1.0".
        colour: the stream's colour tags by ffmpeg's names ("colorspace", "color_range", ...), untagged ones left out.
        variable_rate: whether the frames are not equally spaced in time.
        directory: whether it is a folder of pictures, whose frames VBench does not sub-sample.
        average_fps: frames per second by the frames' own times; `fps` where both agree to 1 percent or there are no
            times. In mkv and webm of a variable rate the two differ.
        about: what it is meant to show, for the dimensions that judge that; not of the file, and in no report.
    """

    path: str
    fps: float
    width: int
    height: int
    declared_frames: int | None
    container: str
    codec: str
    decoder: str
    colour: Mapping[str, str] = field(default_factory=dict)
    variable_rate: bool = False
    directory: bool = False
    average_fps: float = 0.0
    about: About = field(default_factory=About)

    def as_json(self) -> dict[str, Any]:
        facts = {**asdict(self), "colour": dict(self.colour)}
        del facts["about"]
        return facts


class Video(Protocol):
    """A source of frames that can be read more than once."""

    info: VideoInfo

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Gives all frames in order, one by one, as uint8 `[H, W, 3]` RGB (imports no torch). Raises VideoError where
        the video cannot be read further.
        """
        ...

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[Tensor]:
        """Gives all frames in order, as uint8 `[n, H, W, 3]` RGB with n >= 1.

        Holds at most `max_bytes` of frames at a time (the chunk before, still in the caller's hands, included), but
        always the two frames it takes to go on. Raises VideoError where the video cannot be read further.
        """
        ...


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
            # Where a GPU is in use, memory that it can read by itself; the allocator keeps and reuses it.
            pinned = torch.cuda.is_initialized()
            chunk, filled = torch.empty((capacity, height, width, 3), dtype=torch.uint8, pin_memory=pinned), 0
        chunk[filled].numpy()[:] = frame
        filled += 1
        if filled == capacity:
            yield chunk
            chunk = None
    if chunk is not None:
        yield chunk[:filled]
    if index < 0:
        raise VideoError("it holds no frame")
