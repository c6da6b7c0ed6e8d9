"""Pictures of a folder as batches of pixels."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from w2sd_video.errors import UserError

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises for damaged files


def load_pictures(folder: str | os.PathLike[str], height: int, width: int, *, batch_size: int = 8) -> Iterator[Tensor]:
    """Returns batches of pixels [N, 3, height, width] in [-1, 1], float32, in the order of the files' names.

    Each picture is turned as its EXIF data say, put on white where it is transparent, cropped about its centre to the
    aspect of height x width, and resized bicubic and antialiased.

    Raises:
        UserError: no folder, no pictures in it, or files that cannot be read (all of them by name, before the first).
    """
    if height < 1 or width < 1 or batch_size < 1:
        raise UserError(f"height, width and batch_size are {height}, {width} and {batch_size}; they must be at least 1")
    place = Path(folder)
    if not place.is_dir():
        raise UserError(f"there is no folder {place}; give one with pictures ({', '.join(SUFFIXES)})")
    files = sorted(file for file in place.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise UserError(f"the folder {place} holds no pictures ({', '.join(SUFFIXES)})")
    damaged = [file.name for file in files if not _opens(file)]
    if damaged:
        raise _unreadable(place, damaged)
    return _batches(files, (height, width), batch_size)


def _opens(file: Path) -> bool:
    try:
        with Image.open(file):
            return True
    except UNREADABLE:
        return False


def _unreadable(folder: Path, names: Sequence[str]) -> UserError:
    return UserError(f"cannot read these pictures in {folder}: {', '.join(names)}; repair or remove them")


def _batches(files: Sequence[Path], size: tuple[int, int], batch_size: int) -> Iterator[Tensor]:
    for start in range(0, len(files), batch_size):
        yield torch.stack([_pixels(file, size) for file in files[start : start + batch_size]])


def _pixels(file: Path, size: tuple[int, int]) -> Tensor:
    """Returns one picture as [3, H, W] in [-1, 1]."""
    try:
        with Image.open(file) as opened:
            image = _on_white(ImageOps.exif_transpose(opened))
    except UNREADABLE as error:  # a header that reads and data that do not
        raise _unreadable(file.parent, [file.name]) from error
    height, width = size
    scale = min(image.width / width, image.height / height)
    left, top = (image.width - scale * width) / 2, (image.height - scale * height) / 2
    box = (left, top, left + scale * width, top + scale * height)
    resized = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 127.5 - 1


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
        image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).clip(0, 255).round().astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    picture = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
