"""The pictures that control a video, one for each of its frames: from a video, a folder, or one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from w2sd_video.errors import UserError
from w2sd_video.gaps.control_images import BLACK, check_size
from w2sd_video.runs.video_io import read_video

if TYPE_CHECKING:
    from PIL.Image import Image


def read_control_frames(path: str | Path, width: int, height: int, count: int, *, resize: bool = False) -> list[Image]:
    """Returns `count` pictures, RGB and of the output's size in pixels, from what is at `path`.

    A video (or animation) has as many frames as the output, and so has a folder of pictures, which are taken in the
    order of their names (2 before 10); one picture stands for all frames. `resize` is as of `read_control_image`.

    Raises:
        UserError: nothing that can be read, another number of frames, or frames of another size.
    """
    from PIL import Image, ImageOps

    try:  # of more than asked for, one more: a long video is not read to its end
        read = read_video(Path(path).expanduser(), most=count + 1, background=BLACK)
    except UserError as error:
        raise UserError(
            f"cannot read the control video: {error}; give a video, a folder of pictures or one picture"
        ) from None
    frames = [Image.fromarray(frame) for frame in read.frames]
    if len(frames) == 1:
        frames = frames * count
    if len(frames) != count:
        has = f"more than {count}" if len(frames) > count else f"{len(frames)}"
        raise UserError(
            f"{path} has {has} frames and the output {count}; give --num-frames the same number, a control video of "
            f"{count} frames, or one picture for all of them"
        )
    if resize:
        return [ImageOps.fit(frame, (width, height), Image.Resampling.LANCZOS) for frame in frames]
    for number, frame in enumerate(frames):
        check_size(frame, width, height, f"frame {number} of {path}")
    return frames
