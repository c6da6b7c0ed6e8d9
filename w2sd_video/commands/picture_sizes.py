"""How large pictures are: what is given, else the preset's or the pipeline's own size, checked (imports no torch)."""

from __future__ import annotations

from w2sd_video.commands.checked_values import whole
from w2sd_video.errors import UserError
from w2sd_video.loading.describe import Description

MAX_SIZE = 8192


def checked_sizes(
    height: int | None,
    width: int | None,
    default_height: int | None,
    default_width: int | None,
    files: Description,
) -> tuple[int, int]:
    """Returns height and width in pixels.

    Raises:
        UserError: not known and not given, out of range, or no multiple of what the pipeline makes.
    """
    found = []
    for name, given, default in (("height", height, default_height), ("width", width, default_width)):
        value = next((size for size in (given, default, files.own_size) if size is not None), None)
        if value is None:
            raise UserError(
                f"how large pictures of {files.given} are is not known before it is fetched; give --height and "
                "--width, such as 1024 for Flux and SDXL, 512 for SD 1.5"
            )
        size = whole(value, 0, name, 8, MAX_SIZE)
        check_multiple(name, size, files.multiple)
        found.append(size)
    return found[0], found[1]


def check_multiple(name: str, size: int, multiple: int | None, remedy: str = "") -> None:
    """Raises `UserError` unless the size is a multiple (None: not known yet), naming the nearest two that are."""
    if multiple is not None and size % multiple:
        near = max(multiple, size // multiple * multiple)
        raise UserError(
            f"{name} is {size}; it must be a multiple of {multiple}: use {near} or {near + multiple}{remedy}"
        )
