"""Pictures that control: read, brought to the size of the output, and their edges (Canny, 1986)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vbench_eval.pictures import Colour, VideoError, read_picture
from w2sd_video.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

Field = NDArray[np.float32]
# Of the four directions a gradient is rounded to (across, down-right, down, down-left): the neighbour (row, column).
NEIGHBOURS = ((0, 1), (1, 1), (1, 0), (1, -1))


BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def read_control_image(path: str | Path, width: int, height: int, *, resize: bool = False) -> Image:
    """Returns the picture in a file as RGB, of the size of the output in pixels.

    `resize` allows another size: the picture is scaled to cover the output, and what is over is cut off evenly, so
    that proportions stay.

    Raises:
        UserError: no picture there, or one of another size.
    """
    from PIL import Image, ImageOps

    picture = read_rgb(path, "control image")
    if resize:
        return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    check_size(picture, width, height, str(path))
    return picture


def read_rgb(path: str | Path, what: str, background: Colour = BLACK) -> Image:
    """Returns the picture in a file as RGB, the way up its camera says; what is transparent shows the `background`.

    Raises:
        UserError: there is no picture, several, or one that cannot be read.
    """
    from PIL import Image

    try:
        return Image.fromarray(read_picture(path, background=background)[0])
    except VideoError as error:
        raise UserError(f"cannot read the {what} {str(path)!r}: {error}; give a picture file") from error


def check_size(picture: Image, width: int, height: int, name: str = "the control image") -> None:
    """Raises `UserError` for a picture that has not the size of the output, in pixels."""
    if picture.size != (width, height):
        raise UserError(
            f"{name} is {picture.width} x {picture.height} pixels and the output {width} x {height}; give a control "
            "image of the output's size, ask for it to be resized, or make an output of its size"
        )


def canny_edges(picture: Image, *, low: float = 100.0, high: float = 200.0, sigma: float = 1.0) -> Image:
    """Returns the edges of a picture, white and one pixel wide on black, RGB, as Canny ControlNets take them.

    Args:
        picture: of any mode; its luma (0 to 255) counts.
        low: an edge goes on through gradients above this,
        high: and must have one above this somewhere. Both in units of Sobel's 3 x 3 filters, which answer a step of
            height h with 4 h.
        sigma: of the Gaussian that smooths first, in pixels; 0 leaves the picture as it is.

    Raises:
        UserError: thresholds that are not 0 <= low <= high, or a negative sigma.
    """
    from PIL import Image
    from scipy import ndimage

    if not 0 <= low <= high < math.inf:
        raise UserError(f"low is {low:g} and high is {high:g}; thresholds must be 0 <= low <= high")
    if not 0 <= sigma < math.inf:
        raise UserError(f"sigma is {sigma:g}; it must be 0 (no smoothing) or more")
    luma = np.asarray(picture.convert("RGB").convert("L"), dtype=np.float32)
    smooth = ndimage.gaussian_filter(luma, sigma, mode="nearest", radius=math.ceil(3 * sigma)) if sigma else luma
    ridges = _ridges(ndimage.sobel(smooth, 1, mode="nearest"), ndimage.sobel(smooth, 0, mode="nearest"))
    eight = np.ones((3, 3), bool)
    edges = ndimage.binary_propagation(ridges > high, structure=eight, mask=ridges > low)
    return Image.fromarray(np.where(edges, np.uint8(255), np.uint8(0))).convert("RGB")


def _ridges(across: Field, down: Field) -> Field:
    """The gradient's size where it is largest along its own direction, 0 elsewhere; of two equals the first counts."""
    # Rounded, so that equals are equal whatever the order of their sums.
    size = np.round(np.hypot(across, down), 2).astype(np.float32)
    turns = np.round(np.arctan2(down, across) / (math.pi / 4)).astype(int) % 4
    padded = np.pad(size, 1)
    height, width = size.shape
    kept = np.zeros_like(size)
    for direction, (row, column) in enumerate(NEIGHBOURS):
        after = padded[1 + row : 1 + row + height, 1 + column : 1 + column + width]
        before = padded[1 - row : 1 - row + height, 1 - column : 1 - column + width]
        largest = (turns == direction) & (size >= after) & (size > before)
        kept[largest] = size[largest]
    return kept
