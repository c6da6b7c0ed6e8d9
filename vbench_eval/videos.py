"""Anything that holds frames, opened as a `Video`; and the videos of a folder."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbench_eval.errors import UserError
from vbench_eval.pictures import ANIMATIONS, PICTURES, Animation, Colour, PictureFolder, is_moving, pictures_in
from vbench_eval.video_files import VideoFile
from vbench_eval.video_info import CHUNK_BYTES, Video, VideoError, VideoInfo, in_chunks

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
        yield from in_chunks(self.frames(), info.height, info.width, max_bytes=max_bytes, expected=info.declared_frames)

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """See `Video.frames`."""
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


__all__ = ["CHUNK_BYTES", "FramesInMemory", "Video", "VideoError", "VideoInfo", "find_videos", "open_video"]

CONTAINERS = (".mp4", ".mov", ".webm", ".mkv", ".m4v", ".avi")
SUFFIXES = (*CONTAINERS, *ANIMATIONS)


def open_video(path: str | Path, *, background: Colour | None = None) -> Video:
    """Returns the video at `path`: mp4, mov, webm, mkv, m4v, avi, gif, webp, a picture or a folder of pictures. Capital
    letters in the suffix make no difference. What is transparent in pictures shows the `background`, or without one the
    colour that is hidden below, as VBench has it.

    Raises VideoError, saying why, for what cannot be read.
    """
    path = Path(path)
    try:
        return _opened(path, background)
    except OSError as error:
        raise VideoError(error.strerror or str(error)) from error


def _opened(path: Path, background: Colour | None) -> Video:
    if not path.exists():
        raise VideoError("the link leads nowhere" if path.is_symlink() else "there is no such file")
    if not path.is_dir() and not path.is_file():
        raise VideoError("this is no file but a pipe or a device")
    suffix = path.suffix.lower()
    if suffix in ANIMATIONS or (path.is_file() and suffix in PICTURES and is_moving(path)):
        return Animation(path, background)
    if path.is_dir() or suffix in PICTURES:
        return PictureFolder(path, background)
    if suffix in CONTAINERS:
        return VideoFile(path)
    raise VideoError(
        f"{suffix or 'a file without a suffix'} is not read; {', '.join(SUFFIXES)} are, and folders of png"
    )


def find_videos(folder: str | Path) -> list[Path]:
    """Returns the videos of a folder, by name: its video files, and each folder in it that holds pictures only.

    A folder that holds pictures and no video is itself the one video; a file is that file. Hidden entries are passed
    over. An entry that cannot be looked at is among them, so that its scoring says why. Raises UserError if there is no
    such folder.
    """
    folder = Path(folder)
    if not folder.exists():
        raise UserError(f"{folder} does not exist; give a folder of videos or a video")
    if not folder.is_dir():
        return [folder]
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    videos = [
        entry for entry in entries if (_may_be_pictures(entry) if entry.is_dir() else entry.suffix.lower() in SUFFIXES)
    ]
    return videos if videos or not _is_picture_folder(folder) else [folder]


def _may_be_pictures(folder: Path) -> bool:
    try:
        return _is_picture_folder(folder)
    except OSError:
        return True


def _is_picture_folder(folder: Path) -> bool:
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    others = any(entry.is_dir() or entry.suffix.lower() in SUFFIXES for entry in entries)
    return not others and bool(pictures_in(folder))
