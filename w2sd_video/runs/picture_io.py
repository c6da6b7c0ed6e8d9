"""Pictures to files and back: png, with the settings inside the file.

A picture is a uint8 RGB array `[H, W, 3]`. A file appears under its final name only when complete. The same picture
and settings give the same bytes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbench_eval import pictures
from vbench_eval.files import write_bytes
from w2sd_video.errors import UserError
from w2sd_video.runs.tasks import Medium
from w2sd_video.runs.video_io import settings_in

CHUNK = "parameters"  # the text chunk that programs for generated pictures look at


@dataclass(frozen=True)
class Picture:
    """A picture read back: pixels `[H, W, 3]` uint8 RGB, and the settings found in the file ({} if none)."""

    pixels: NDArray[np.uint8]
    metadata: dict[str, Any] = field(default_factory=dict)


def write_picture(path: str | Path, pixels: NDArray[np.uint8], metadata: Mapping[str, Any] | None = None) -> None:
    """Writes pixels `[H, W, 3]` (uint8 RGB) as a png, losslessly; the metadata goes in as JSON, in a text chunk
    `parameters`.

    Raises UserError for other arrays and other kinds of file, OSError if the disk refuses.
    """
    from PIL import Image, PngImagePlugin

    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UserError(f"cannot write a picture to {path.name!r}; give a name that ends in .png")
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise UserError(f"the picture is {pixels.dtype} {pixels.shape}; give uint8 [H, W, 3] with at least one pixel")
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text(CHUNK, json.dumps(dict(metadata or {}), ensure_ascii=True))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=chunks)
    write_bytes(path, buffer.getvalue())


def read_picture(path: str | Path) -> Picture:
    """Returns the pixels and settings of what `write_picture` wrote, or of any other picture, the way up its camera
    says, without its transparency.

    Raises UserError if there is no such picture there.
    """
    try:
        pixels, info = pictures.read_picture(path)
    except pictures.VideoError as error:
        raise UserError(f"{path} cannot be read as a picture: {error}") from error
    return Picture(pixels, settings_in(info.get(CHUNK, "")))


def _write_only_frame(path: Path, frames: NDArray[np.uint8], settings: Mapping[str, Any]) -> None:
    if len(frames) != 1:
        raise ValueError(f"a picture is one frame; got {len(frames)}")
    write_picture(path, frames[0], settings)


PICTURES = Medium("picture", ".png", write=_write_only_frame, read=lambda path: read_picture(path).pixels[None])
"""What `runs.perform` writes for a run of pictures."""
