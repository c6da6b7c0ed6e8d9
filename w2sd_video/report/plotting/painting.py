"""Each kind of mark as pixels within its panel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from w2sd_video.report.plotting.contours import contour
from w2sd_video.report.plotting.marks import Area, Arrows, Bars, Contours, Dots, Fan, Line, Mark, Rule
from w2sd_video.report.plotting.sheets import Span

DASH, PAUSE = 7.0, 5.0

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Plate:
    """The part of a picture within a panel's axes: what is painted beyond it is cut off."""

    picture: Image.Image
    box: tuple[int, int, int, int]  # in pixels of the finished picture
    x: Span
    y: Span
    scale: int

    @property
    def size(self) -> tuple[int, int]:
        left, top, right, bottom = self.box
        return (right - left) * self.scale, (bottom - top) * self.scale

    def pixels(self, points: ArrayLike) -> Points:
        """Returns points [N, 2] of the axes as pixels [N, 2] of the plate."""
        xy = np.asarray(points, dtype=float)
        width, height = self.size
        return np.stack([self.x.share(xy[..., 0]) * width, (1 - self.y.share(xy[..., 1])) * height], axis=-1)

    def mask(self) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        mask = Image.new("L", self.size, 0)
        return mask, ImageDraw.Draw(mask)

    def apply(self, mask: Image.Image, colour: str, opacity: float = 1.0) -> None:
        drawn = mask.getbbox()
        if drawn is None:
            return
        shown = mask.crop(drawn)
        if opacity < 1:
            shown = shown.point([round(value * opacity) for value in range(256)])
        left, top = self.box[0] * self.scale, self.box[1] * self.scale
        self.picture.paste(colour, (left + drawn[0], top + drawn[1], left + drawn[2], top + drawn[3]), shown)


def paint(plate: Plate, mark: Mark) -> None:
    """Paints one mark."""
    match mark:
        case Line():
            _line(plate, mark)
        case Fan():
            _fan(plate, mark)
        case Area():
            _area(plate, mark)
        case Dots():
            _dots(plate, mark)
        case Arrows():
            _arrows(plate, mark)
        case Contours():
            _contours(plate, mark)
        case Bars():
            _bars(plate, mark)
        case Rule():
            _rule(plate, mark)


def _line(plate: Plate, mark: Line) -> None:
    points = plate.pixels(_pairs(mark.x, mark.y))
    mask, pen = plate.mask()
    _stroke(pen, points, mark.width * plate.scale, mark.dashed, plate.scale)
    if mark.dots:
        for x, y in points:
            pen.circle((x, y), (1.6 * mark.width + 0.4) * plate.scale, fill=255)
    plate.apply(mask, mark.colour)


def _fan(plate: Plate, mark: Fan) -> None:
    ys = np.asarray(mark.y, dtype=float)
    xs = np.broadcast_to(np.asarray(mark.x, dtype=float), ys.shape)
    for x, y in zip(xs, ys, strict=True):
        mask, pen = plate.mask()
        _stroke(pen, plate.pixels(_pairs(x, y)), mark.width * plate.scale, False, plate.scale)
        plate.apply(mask, mark.colour, mark.opacity)


def _area(plate: Plate, mark: Area) -> None:
    x, y = np.asarray(mark.x, dtype=float), np.asarray(mark.y, dtype=float)
    outline = np.concatenate([_pairs(x, y), [[x[-1], mark.base], [x[0], mark.base]]])
    mask, pen = plate.mask()
    pen.polygon(_flat(plate.pixels(outline)), fill=255)
    plate.apply(mask, mark.colour, mark.opacity)


def _dots(plate: Plate, mark: Dots) -> None:
    mask, pen = plate.mask()
    for x, y in plate.pixels(_pairs(mark.x, mark.y)):
        pen.circle((x, y), mark.size * plate.scale, fill=255)
    plate.apply(mask, mark.colour, mark.opacity)


def _arrows(plate: Plate, mark: Arrows) -> None:
    mask, pen = plate.mask()
    width = mark.width * plate.scale
    for tail, head in zip(plate.pixels(mark.tails), plate.pixels(mark.heads), strict=True):
        along = head - tail
        length = float(np.hypot(*along))
        if length < 1:
            continue
        along = along / length
        across = np.array([-along[1], along[0]])
        tip = min(3.2 * width + 2 * plate.scale, length)
        neck = head - along * tip
        pen.line(_flat(np.stack([tail, neck])), fill=255, width=round(width))
        pen.polygon(_flat(np.stack([head, neck + across * 0.5 * tip, neck - across * 0.5 * tip])), fill=255)
    plate.apply(mask, mark.colour)


def _contours(plate: Plate, mark: Contours) -> None:
    x, y, z = (np.asarray(values, dtype=float) for values in (mark.x, mark.y, mark.z))
    for rank, height in enumerate(sorted(mark.heights)):
        mask, pen = plate.mask()
        for piece in contour(x, y, z, height):
            pen.line(_flat(plate.pixels(piece)), fill=255, width=round(mark.width * plate.scale))
        plate.apply(mask, mark.colour, 0.45 + 0.55 * (rank + 1) / len(mark.heights))


def _bars(plate: Plate, mark: Bars) -> None:
    mask, pen = plate.mask()
    for x, y in _pairs(mark.x, mark.y):
        corners = plate.pixels([[x - mark.width / 2, max(y, mark.base)], [x + mark.width / 2, min(y, mark.base)]])
        pen.rectangle(_flat(corners), fill=255)
    plate.apply(mask, mark.colour)


def _rule(plate: Plate, mark: Rule) -> None:
    mask, pen = plate.mask()
    width, height = plate.size
    if mark.y is not None:
        at = (1 - float(plate.y.share(mark.y))) * height
        _stroke(pen, np.array([[0, at], [width, at]]), mark.width * plate.scale, mark.dashed, plate.scale)
    if mark.x is not None:
        at = float(plate.x.share(mark.x)) * width
        _stroke(pen, np.array([[at, 0], [at, height]]), mark.width * plate.scale, mark.dashed, plate.scale)
    plate.apply(mask, mark.colour)


def _stroke(pen: ImageDraw.ImageDraw, points: Points, width: float, dashed: bool, scale: int) -> None:
    points = points[np.isfinite(points).all(axis=1)]
    pieces = _dashes(points, DASH * scale, PAUSE * scale) if dashed else [points]
    for piece in pieces:
        if len(piece) > 1:
            pen.line(_flat(piece), fill=255, width=max(1, round(width)), joint="curve")


def _dashes(points: Points, dash: float, pause: float) -> Iterator[Points]:
    """The line cut into dashes, each with the corners that fall within it."""
    if len(points) < 2:
        return
    lengths = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    for start in np.arange(0.0, lengths[-1], dash + pause):
        end = min(start + dash, lengths[-1])
        within = lengths[(lengths > start) & (lengths < end)]
        along = np.concatenate([[start], within, [end]])
        yield np.stack([np.interp(along, lengths, points[:, k]) for k in (0, 1)], axis=1)


def _pairs(x: ArrayLike, y: ArrayLike) -> Points:
    return np.stack([np.asarray(x, dtype=float), np.asarray(y, dtype=float)], axis=-1)


def _flat(points: Points) -> Sequence[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points]
