"""From a sheet to a picture: drawn at three times its size and brought down, which smooths every edge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

from w2sd_video.report.plotting.marks import Area, Bars, Contours, Dots, Mark, Note
from w2sd_video.report.plotting.painting import Plate, paint
from w2sd_video.report.plotting.sheets import Panel, Sheet, Span, extent, span

SCALE = 3
EDGE, GAP = 16, 14  # around the sheet, between panels
TITLE, PANEL_TITLE, LABEL, TICK, LEGEND = 19, 14, 13, 12, 13.5  # sizes of letters
INK, GRID = "#1a1a1a", "#e6e6e6"


def font(size: float) -> FreeTypeFont:
    """Returns the font that Pillow brings along, at `size` pixels of the finished picture. It knows Latin letters."""
    found = ImageFont.load_default(size * SCALE)
    assert isinstance(found, FreeTypeFont), "Pillow was built without FreeType"
    return found


def draw(sheet: Sheet) -> Image.Image:
    """Returns the finished picture, RGB."""
    columns = max(len(row) for row in sheet.rows)
    width = EDGE * 2 + columns * sheet.panel[0] + (columns - 1) * GAP
    title = _wrapped(sheet.title, TITLE, width - 2 * EDGE)
    keys = _rows_of_keys(_keys(sheet), width - 2 * EDGE)
    top = EDGE + len(title) * (TITLE + 7) + 6
    bottom = top + len(sheet.rows) * (sheet.panel[1] + GAP)
    height = bottom + len(keys) * 24 + (EDGE - 4 if keys else 2)
    picture = Image.new("RGB", (width * SCALE, height * SCALE), "white")
    pen = ImageDraw.Draw(picture)
    for k, words in enumerate(title):
        _text(pen, (width / 2, EDGE + TITLE / 2 + k * (TITLE + 7)), words, TITLE, "mm")
    fitted = [[_Fitted.of(panel) for panel in row] for row in sheet.rows]
    lefts = [max(row[k].left for row in fitted if k < len(row)) for k in range(columns)]
    for down, row in enumerate(fitted):
        indent = (columns - len(row)) * (sheet.panel[0] + GAP) / 2  # a shorter row stands in the middle
        for right, panel in enumerate(row):
            corner = (EDGE + indent + right * (sheet.panel[0] + GAP), top + down * (sheet.panel[1] + GAP))
            _panel(picture, pen, panel, corner, sheet.panel, lefts[right])
    for k, line in enumerate(keys):
        _legend(picture, pen, line, width, bottom + 10 + 24 * k)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class _Fitted:
    """A panel with its axes settled, and how much room its numbers on the left take."""

    panel: Panel
    x: Span
    y: Span
    left: float

    @classmethod
    def of(cls, panel: Panel) -> _Fitted:
        xs, ys = extent(panel.marks)
        x, y = span(panel.x, xs), span(panel.y, ys)
        numbers = max((font(TICK).getlength(words) / SCALE for _, words in y.ticks), default=0.0)
        return cls(panel, x, y, numbers + 10 + (LABEL + 8 if panel.y.label else 0))


def _panel(
    picture: Image.Image,
    pen: ImageDraw.ImageDraw,
    fitted: _Fitted,
    corner: tuple[float, float],
    size: tuple[int, int],
    left: float,
) -> None:
    panel, (x0, y0) = fitted.panel, corner
    box = (
        round(x0 + left),
        round(y0 + PANEL_TITLE + 10),
        round(x0 + size[0] - 8),
        round(y0 + size[1] - TICK - 8 - (LABEL + 5 if panel.x.label else 0)),
    )
    plate = Plate(picture, box, fitted.x, fitted.y, SCALE)
    middle = (box[0] + box[2]) / 2
    letters = _fitting(panel.title, PANEL_TITLE, size[0] - 4)
    # A title wider than the axes is centred on the panel, so that it stays within it.
    wide = font(letters).getlength(panel.title) / SCALE > (box[2] - box[0])
    _text(pen, (x0 + size[0] / 2 if wide else middle, y0 + PANEL_TITLE / 2 + 2), panel.title, letters, "mm")
    for value, words in fitted.x.ticks:
        place = box[0] + float(fitted.x.share(value)) * (box[2] - box[0])
        pen.line(_scaled([(place, box[1]), (place, box[3])]), fill=GRID, width=SCALE)
        _text(pen, (place, box[3] + 5 + TICK / 2), words, TICK, "mm")
    for value, words in fitted.y.ticks:
        place = box[3] - float(fitted.y.share(value)) * (box[3] - box[1])
        pen.line(_scaled([(box[0], place), (box[2], place)]), fill=GRID, width=SCALE)
        _text(pen, (box[0] - 6, place), words, TICK, "rm")
    for mark in panel.marks:
        if isinstance(mark, Note):
            at = plate.pixels(np.array([[mark.x, mark.y]]))[0] / SCALE + np.array(box[:2])
            _text(pen, (float(at[0]), float(at[1])), mark.text, mark.size, mark.anchor, mark.colour)
        else:
            paint(plate, mark)
    pen.line(_scaled([(box[0], box[1]), (box[0], box[3]), (box[2], box[3])]), fill=INK, width=SCALE)
    if panel.x.label:
        letters = _fitting(panel.x.label, LABEL, box[2] - box[0] + left)
        _text(pen, (middle, y0 + size[1] - LABEL / 2), panel.x.label, letters, "mm")
    if panel.y.label:
        _upright(picture, (x0 + LABEL / 2 + 1, (box[1] + box[3]) / 2), panel.y.label, box[3] - box[1] + 30)


def _keys(sheet: Sheet) -> list[Mark]:
    """The first mark of each label, in order."""
    found: dict[str, Mark] = {}
    for row in sheet.rows:
        for panel in row:
            for mark in panel.marks:
                label = None if isinstance(mark, Note) else mark.label
                if label is not None:
                    found.setdefault(label, mark)
    return list(found.values())


def _key_width(mark: Mark) -> float:
    assert not isinstance(mark, Note) and mark.label is not None
    return 34 + font(LEGEND).getlength(mark.label) / SCALE + 22


def _rows_of_keys(keys: Sequence[Mark], width: float) -> list[list[Mark]]:
    rows: list[list[Mark]] = []
    for mark in keys:
        if rows and sum(map(_key_width, rows[-1])) + _key_width(mark) <= width:
            rows[-1].append(mark)
        else:
            rows.append([mark])
    return rows


def _legend(picture: Image.Image, pen: ImageDraw.ImageDraw, keys: Sequence[Mark], width: float, y: float) -> None:
    x = (width - sum(map(_key_width, keys)) + 22) / 2
    for mark in keys:
        assert not isinstance(mark, Note) and mark.label is not None
        if isinstance(mark, Area | Bars):
            strength = mark.opacity if isinstance(mark, Area) else 1.0
            mixed = Image.blend(Image.new("RGB", (1, 1), "white"), Image.new("RGB", (1, 1), mark.colour), strength)
            pen.rectangle(_scaled([(x, y - 6), (x + 26, y + 6)]), fill=mixed.getpixel((0, 0)))
        elif isinstance(mark, Dots):
            pen.circle((x * SCALE + 13 * SCALE, y * SCALE), 4 * SCALE, fill=mark.colour)
        else:
            ends = [(x, y), (x + 26, y)]
            dashed = getattr(mark, "dashed", False)
            for a, b in ((0, 8), (18, 26)) if dashed else ((0, 26),):
                pen.line(_scaled([(x + a, y), (x + b, y)]), fill=mark.colour, width=round(2.6 * SCALE))
            if getattr(mark, "dots", False):
                pen.circle((x * SCALE + 13 * SCALE, y * SCALE), 3.6 * SCALE, fill=mark.colour)
            if isinstance(mark, Contours):
                pen.ellipse(_scaled([(ends[0][0] + 4, y - 6), (ends[1][0] - 4, y + 6)]), fill="white")
                pen.ellipse(_scaled([(x + 4, y - 6), (x + 22, y + 6)]), outline=mark.colour, width=round(2 * SCALE))
        _text(pen, (x + 32, y), mark.label, LEGEND, "lm")
        x += _key_width(mark)


def _text(
    pen: ImageDraw.ImageDraw,
    at: tuple[float, float],
    words: str,
    size: float,
    anchor: str,
    colour: str = INK,
) -> None:
    pen.text((at[0] * SCALE, at[1] * SCALE), words, fill=colour, anchor=anchor, font=font(size))


def _upright(picture: Image.Image, at: tuple[float, float], words: str, room: float) -> None:
    letters = font(_fitting(words, LABEL, room))
    length = round(letters.getlength(words))
    plate = Image.new("L", (length + 4, round((LABEL + 6) * SCALE)), 0)
    ImageDraw.Draw(plate).text((2, plate.height / 2), words, fill=255, anchor="lm", font=letters)
    turned = plate.rotate(90, expand=True)
    corner = (round(at[0] * SCALE - turned.width / 2), round(at[1] * SCALE - turned.height / 2))
    picture.paste(INK, (*corner, corner[0] + turned.width, corner[1] + turned.height), turned)


def _fitting(words: str, size: float, room: float) -> float:
    """The size of letters, at most `size`, at which the words fit."""
    while size > 8 and font(size).getlength(words) / SCALE > room:
        size -= 0.5
    return size


def _wrapped(words: str, size: float, room: float) -> list[str]:
    lines: list[str] = []
    for word in words.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font(size).getlength(longer) / SCALE <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _scaled(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x * SCALE, y * SCALE) for x, y in points]
