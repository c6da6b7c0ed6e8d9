"""The methods side by side in one labelled video or picture, to be looked at (scores are of the methods' own files)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_PANEL = 256  # smaller videos are enlarged by a whole factor, each pixel a square
MAX_WIDTH = 3840  # wider ones are reduced by a whole factor: many decoders stop at 4096
_GAP = 8
_BACKGROUND = (22, 24, 29)
_TEXT = (236, 238, 242)
_FAINT = (150, 156, 168)


@dataclass(frozen=True)
class Panel:
    """One method's part: its title, a line below it, and its frames `[F, H, W, 3]` uint8 (None: there is nothing to
    show, and `note` says why).
    """

    title: str
    note: str = ""
    frames: NDArray[np.uint8] | None = None


def side_by_side(panels: Sequence[Panel], *, noun: str = "video") -> NDArray[np.uint8]:
    """Returns the panels in a row under their labels, `[F, H', W', 3]` uint8 with even sides; a shorter video holds
    its last frame. `noun` says what a panel without frames lacks.

    At least one panel must have frames, and all that do must be of one size (ValueError).
    """
    videos = [panel.frames for panel in panels if panel.frames is not None]
    sizes = {video.shape[1:3] for video in videos}
    if len(sizes) != 1:
        raise ValueError(
            f"the panels' {noun}s have sizes {sorted(sizes)}; there must be at least one, and all of one size"
        )
    height, width = sizes.pop()
    enlarge, reduce = panel_scale(height, width, len(panels))
    height, width = height * enlarge // reduce, width * enlarge // reduce
    band = _label_height(width)
    total_width = _even(len(panels) * (width + _GAP) + _GAP)
    total_height = _even(band + height + _GAP)
    length = max(len(video) for video in videos)
    out = np.empty((length, total_height, total_width, 3), np.uint8)
    out[:] = np.asarray(_BACKGROUND, np.uint8)
    for number, panel in enumerate(panels):
        left = _GAP + number * (width + _GAP)
        out[:, :band, left : left + width] = _label(panel.title, panel.note, width, band)
        if panel.frames is None:
            out[:, band : band + height, left : left + width] = _label(f"no {noun}", "", width, height)
            continue
        frames = _scaled(panel.frames, enlarge, reduce)
        padding = np.repeat(frames[-1:], length - len(frames), axis=0)
        out[:, band : band + height, left : left + width] = np.concatenate([frames, padding])
    return out


def of_one_size(panels: Sequence[Panel]) -> list[Panel]:
    """Returns the panels with smaller frames enlarged in their own shape to fit the size of the largest, their true
    size in the note.
    """
    sizes = [panel.frames.shape[1:3] for panel in panels if panel.frames is not None]
    if len(set(sizes)) < 2:
        return list(panels)
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    return [
        panel
        if panel.frames is None or panel.frames.shape[1:3] == (height, width)
        else replace(
            panel,
            note=f"{panel.note}, {panel.frames.shape[2]}x{panel.frames.shape[1]}",
            frames=np.stack([_fitted(frame, height, width) for frame in panel.frames]),
        )
        for panel in panels
    ]


def panel_scale(height: int, width: int, count: int) -> tuple[int, int]:
    """Returns the whole factors (enlarge, reduce) by which a panel is shown; at most one of them is not 1."""
    enlarge = max(1, math.ceil(MIN_PANEL / min(height, width)))
    while enlarge > 1 and count * (width * enlarge + _GAP) + _GAP > MAX_WIDTH:
        enlarge -= 1
    reduce = 1
    while count * (width * enlarge // reduce + _GAP) + _GAP > MAX_WIDTH:
        reduce += 1
    return enlarge, reduce


def panel_note(record: Mapping[str, Any]) -> str:
    """Returns the line below a method's title: what it cost (no times: the same run must give the same file), or that
    it failed.
    """
    if record.get("status") != "done":
        return "failed"
    return f"{record['num_evaluations']} evaluations"


def _scaled(frames: NDArray[np.uint8], enlarge: int, reduce: int) -> NDArray[np.uint8]:
    if enlarge > 1:
        return frames.repeat(enlarge, axis=1).repeat(enlarge, axis=2)
    if reduce == 1:
        return frames
    count, height, width = frames.shape[0], frames.shape[1] // reduce, frames.shape[2] // reduce
    cells = frames[:, : height * reduce, : width * reduce].reshape(count, height, reduce, width, reduce, 3)
    return np.stack([np.rint(cell.mean(axis=(1, 3))).astype(np.uint8) for cell in cells])


def _fitted(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps

    smooth = min(height, width) >= MIN_PANEL  # below, pixels are shown as squares
    resampling = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return np.asarray(ImageOps.pad(Image.fromarray(frame), (width, height), method=resampling, color=_BACKGROUND))


def _label_height(width: int) -> int:
    return _even(round(16 + 2.9 * _font_size(width)))


def _font_size(width: int) -> int:
    return max(11, min(40, width // 14))


def _label(title: str, note: str, width: int, height: int) -> NDArray[np.uint8]:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(image)
    size = _font_size(width)
    lines = [(title, size, _TEXT)] + ([(note, round(size * 0.8), _FAINT)] if note else [])
    top = (height - sum(1.25 * line_size for _, line_size, _ in lines)) / 2
    for text, line_size, colour in lines:
        draw.text((width / 2, top), text, fill=colour, font=_fitting(draw, text, line_size, width), anchor="ma")
        top += 1.25 * line_size
    return np.asarray(image)


def _fitting(draw: Any, text: str, size: int, width: int) -> Any:
    from PIL import ImageFont

    font = ImageFont.load_default(size)  # comes with Pillow: no font of the system is needed
    while size > 6 and draw.textlength(text, font=font) > width:
        size -= 1
        font = ImageFont.load_default(size)
    return font


def _even(number: int) -> int:
    return number + number % 2
