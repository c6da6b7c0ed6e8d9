"""The pictures that control a video, one for each of its frames: from a video, a folder, or one picture."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2sd_video.errors import UserError
from w2sd_video.gaps.control_images import check_size, read_rgb
from w2sd_video.runs.video_io import read_video

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
ANIMATIONS = (".gif", ".webp")


def read_control_frames(path: str | Path, width: int, height: int, count: int, *, resize: bool = False) -> list[Image]:
    """Returns `count` pictures, RGB and of the output's size in pixels, from what is at `path`.

    A video (or animation) has as many frames as the output, and so has a folder of pictures, which are taken in the
    order of their names (2 before 10); one picture stands for all frames. `resize` is as of `read_control_image`.

    Raises:
        UserError: nothing that can be read, another number of frames, or frames of another size.
    """
    from PIL import Image, ImageOps

    place = Path(path).expanduser()
    frames = _frames(place, count)
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


def _frames(place: Path, most: int) -> list[Image]:
    """The pictures at a place; of more than `most`, one more (a long video is not read to its end)."""
    from PIL import Image

    if place.is_dir():
        shown = (file for file in place.iterdir() if not file.name.startswith("."))
        files = sorted((file for file in shown if file.suffix.lower() in (*PICTURES, ".webp")), key=_order)
        if not files:
            raise UserError(f"the folder {place} holds no pictures; give frames as {', '.join(PICTURES)} files")
        return [read_rgb(file, "control image") for file in files[: most + 1]]
    if place.suffix.lower() in PICTURES:
        return [read_rgb(place, "control image")]
    if place.suffix.lower() in ANIMATIONS:
        return [Image.fromarray(frame) for frame in read_video(place).frames]
    return _decoded(place, most)


def _order(file: Path) -> list[Any]:
    """By the numbers in the name, so that frame 10 comes after frame 2."""
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", file.name)]


def _decoded(place: Path, most: int) -> list[Image]:
    import av

    frames: list[Image] = []
    try:
        with av.open(str(place)) as container:
            if not container.streams.video:
                raise UserError(f"{place} holds no video; give a video, a folder of pictures or one picture")
            for frame in container.decode(container.streams.video[0]):
                frames.append(frame.to_image())
                if len(frames) > most:
                    break
    except (OSError, ValueError) as error:  # av's own errors are of these kinds
        raise UserError(f"cannot read the control video {place} ({error}); give a video or pictures") from error
    if not frames:
        raise UserError(f"{place} holds no frame; give a video, a folder of pictures or one picture")
    return frames
