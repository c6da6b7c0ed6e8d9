"""What comes with the code: toys to try a command with, which must never stand in for a model (no torch)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from w2sd_video.demo.captions import parse_caption
from w2sd_video.demo.pictures import parse_picture_caption
from w2sd_video.errors import UserError

PLACES = tuple(Path(__file__).resolve().parents[2] / room for room in ("w2sd_video", "bridges"))
SIZE = 32  # pixels, height and width
NAME_A_MODEL = "name a model for anything else: --preset NAME (--list-presets shows them) or --strong MODEL"


def is_bundled(checkpoint: str | None) -> bool:
    """Whether a checkpoint is one of the bundled toys."""
    if checkpoint is None:
        return False
    path = Path(checkpoint).expanduser()
    return path.is_dir() and any(map(path.resolve().is_relative_to, PLACES))


def said_of(width: int, height: int) -> str:
    """Returns the sentence that every output of a bundled pair has."""
    return f"the bundled toy makes this, small networks for {width}x{height} pixels that come with the code: no model"


def check_captions(prompts: Iterable[str], *, video: bool) -> None:
    """Raises `UserError` for a prompt that the toy world cannot mean."""
    parse = parse_caption if video else parse_picture_caption
    for prompt in prompts:
        try:
            parse(prompt)
        except ValueError as error:
            raise UserError(f"the bundled toy cannot show this: {error}; {NAME_A_MODEL}") from None


def check_toy_size(height: int | None, width: int | None) -> None:
    """Raises `UserError` for a size, in pixels, that the toys do not make; None is their own."""
    for name, size in (("height", height), ("width", width)):
        if size not in (None, SIZE):
            raise UserError(
                f"{name} is {size}; the bundled toy makes {SIZE} x {SIZE} pixels: leave --{name} out, or {NAME_A_MODEL}"
            )
