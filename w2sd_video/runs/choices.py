"""Which side Algorithm 2 took as the strong one, selection by selection: as text, and drawn (imports no torch)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from w2sd_video.runs.video_io import write_bytes

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

CHOICES = "choices.png"
STRONG, WEAK = "s", "w"  # letters of a record's "choices": the side that was taken as the strong one
MOST_ROWS = 60  # of a picture; the counts are of all
COLOURS = {STRONG: "#1f4e9c", WEAK: "#e08a1e"}
NAMES = {STRONG: "the strong side", WEAK: "the weak side"}

_CELL_HEIGHT, _LABEL, _SHARE, _MARGIN = 18, 230, 64, 16
_TOP, _BARS, _BELOW = 84, 60, 54


def as_text(choices: Sequence[Sequence[bool]]) -> str:
    """Returns a letter per selection of a run of one sample: the side that was taken as the strong one.

    `choices` are those of `Run.choices`: per selection and sample, whether it was the second side, the weak one.
    """
    return "".join(WEAK if chosen[0] else STRONG for chosen in choices)


def check_text(text: object) -> None:
    """Raises ValueError for what is not made of such letters."""
    if not isinstance(text, str) or not set(text) <= {STRONG, WEAK}:
        raise ValueError(f"choices are {text!r}, not letters {STRONG} and {WEAK}")


def share_weak(texts: Sequence[str]) -> float:
    """Returns the share of selections, 0 to 1, in which the weak side was taken as the strong one."""
    letters = "".join(texts)
    return letters.count(WEAK) / len(letters) if letters else 0.0


def write_choices(path: Path, rows: Mapping[str, str], steps: Sequence[int], *, noun: str = "picture") -> None:
    """Writes the choices as a PNG; as `draw_choices`."""
    from PIL import Image

    buffer = io.BytesIO()
    picture = draw_choices(rows, steps, noun=noun).quantize(64, dither=Image.Dither.NONE)
    picture.save(buffer, "PNG", optimize=True)
    write_bytes(path, buffer.getvalue())


def draw_choices(rows: Mapping[str, str], steps: Sequence[int], *, noun: str = "picture") -> Image:
    """Returns the choices as a picture: a row for each of `rows`, whose texts are those of `as_text`, a column for each
    of the reflected `steps`, the share of the weak side beside every row and below every column.

    A text may be shorter than the steps, of a call that was ended early. Of more than MOST_ROWS the first are drawn.
    """
    from PIL import Image, ImageDraw

    texts = list(rows.values())
    columns = max([len(steps), 1, *map(len, texts)])
    labels = [*map(str, steps), *[""] * (columns - len(steps))]
    cell = max(9, min(26, 780 // columns))
    shown = list(rows.items())[:MOST_ROWS]
    left = _MARGIN + _LABEL
    right, bottom = left + cell * columns, _TOP + _CELL_HEIGHT * len(shown)
    width = max(right + _SHARE + _MARGIN, 720)
    picture = Image.new("RGB", (width, bottom + _BARS + _BELOW), "white")
    draw = ImageDraw.Draw(picture)
    _head(draw, texts, len(shown), noun)
    draw.text((right + 8, _TOP - 10), "weak", fill="black", anchor="lm", font_size=12)
    for number, (label, text) in enumerate(shown):
        y = _TOP + _CELL_HEIGHT * number
        draw.text((left - 8, y + 9), _fitting(draw, label), fill="black", anchor="rm", font_size=12)
        for column, letter in enumerate(text):
            x = left + cell * column
            draw.rectangle([x, y, x + cell - 2, y + _CELL_HEIGHT - 2], fill=COLOURS[letter])
        draw.text((right + 8, y + 9), f"{share_weak([text]):.0%}", fill="black", anchor="lm", font_size=12)
    _bars(draw, texts, labels, left, cell, bottom)
    return picture


def _head(draw: ImageDraw, texts: Sequence[str], shown: int, noun: str) -> None:
    letters = "".join(texts)
    title = "w2sd-auto: the side that the reward took as the strong one"
    draw.text((_MARGIN, 20), title, fill="black", anchor="lm", font_size=17)
    x = float(_MARGIN)
    for letter, name in NAMES.items():
        share = letters.count(letter) / len(letters) if letters else 0.0
        said = f"{name}: {letters.count(letter)} of {len(letters)} ({share:.0%})"
        draw.rectangle([x, 41, x + 14, 55], fill=COLOURS[letter])
        draw.text((x + 20, 48), said, fill="black", anchor="lm", font_size=13)
        x += 44 + draw.textlength(said, font_size=13)
    if shown < len(texts):
        said = f"the first {shown} of {len(texts)} {noun}s; counts are of all"
        draw.text((_MARGIN, 68), said, fill="#646c7a", anchor="lm", font_size=12)


def _bars(draw: ImageDraw, texts: Sequence[str], labels: Sequence[str], left: int, cell: int, top: int) -> None:
    """The share of the weak side at each step, as bars on a scale from none to all, and the steps' numbers."""
    base, height = top + _BARS, _BARS - 14
    right = left + cell * len(labels)
    for share in (0, 0.5, 1):
        y = base - height * share
        draw.line([(left, y), (right - 2, y)], fill="black" if share == 0 else "#dddddd")
        draw.text((right + 8, y), f"{share:.0%}", fill="#646c7a", anchor="lm", font_size=11)
    draw.text((left - 8, base - height / 2), "weak side, share of all", fill="black", anchor="rm", font_size=12)
    every = max(1, -(-24 // cell))  # a number needs 24 pixels
    for column, label in enumerate(labels):
        x, here = left + cell * column, [text[column] for text in texts if column < len(text)]
        if share := share_weak(here):
            draw.rectangle([x, base - height * share, x + cell - 2, base - 1], fill=COLOURS[WEAK])
        if column % every == 0:
            draw.text((x + cell / 2 - 1, base + 12), label, fill="black", anchor="mm", font_size=12)
    said = "reflected step (0 is the noisiest)"
    draw.text(((left + right) / 2, base + 34), said, fill="black", anchor="mm", font_size=13)


def _fitting(draw: ImageDraw, label: str) -> str:
    """The label, its middle left out where it is too long: its end says which of a prompt's it is."""
    text, cut = label, len(label)
    while draw.textlength(text, font_size=12) > _LABEL - 12:
        cut -= 1
        text = f"{label[: cut * 3 // 4]}...{label[len(label) - cut // 4 :]}"
    return text
