"""Pictures of a folder or in memory, as RGB."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from vbench_eval.errors import UserError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

Pictures: TypeAlias = "Sequence[Image.Image] | Tensor"
"""Pictures in memory: PIL's of any sizes, or uint8 RGB [N, H, W, 3] or [N, 3, H, W]."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


class PictureError(UserError):
    """A picture cannot be read; the message says why."""


def find_pictures(folder: str | Path) -> list[Path]:
    """The pictures under a folder, by path; hidden files and folders are left out.

    Raises:
        UserError: it is no folder, or holds none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give a folder of pictures ({', '.join(SUFFIXES)})")
    found = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not found:
        raise UserError(f"{folder} holds no pictures; they are found by their endings: {', '.join(SUFFIXES)}")
    return sorted(found)


def read_picture(path: str | Path) -> Image.Image:
    """The picture in a file, RGB, the way up its camera says, without its transparency.

    Raises:
        PictureError: it is damaged, or has more than 8 bits a channel.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            if image.mode not in _EIGHT_BITS:
                raise ValueError(f"its pixels are of kind {image.mode}; convert it to 8 bits a channel")
            upright = ImageOps.exif_transpose(image)
            return (upright or image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # PIL reports damage as any
        raise PictureError(f"{path} cannot be read as a picture: {error}") from error


def as_pictures(pictures: Pictures) -> list[Image.Image]:
    """Pictures in memory as PIL's, RGB.

    Raises:
        UserError: a tensor is not uint8, or not [N, H, W, 3] or [N, 3, H, W]; or something else is given.
    """
    import torch
    from PIL import Image

    if isinstance(pictures, torch.Tensor):
        if pictures.dtype != torch.uint8 or pictures.ndim != 4 or 3 not in (pictures.shape[-1], pictures.shape[1]):
            raise UserError(
                f"the pictures are {pictures.dtype} {list(pictures.shape)}; give uint8 [N, H, W, 3] or [N, 3, H, W]"
            )
        last = pictures if pictures.shape[-1] == 3 else pictures.permute(0, 2, 3, 1)
        return [Image.fromarray(picture) for picture in last.cpu().contiguous().numpy()]
    for picture in pictures:
        if not isinstance(picture, Image.Image):
            raise UserError(f"a picture is a {type(picture).__name__}; give PIL's pictures or a uint8 tensor")
    return [picture.convert("RGB") for picture in pictures]
