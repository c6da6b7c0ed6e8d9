"""The captions of the toy world's single pictures: 6 colours x 4 shapes = 24 sentences. Nothing here needs torch."""

from collections.abc import Sequence
from itertools import product

from w2sd_video.demo.captions import COLOURS, SHAPES

PICTURE_CAPTIONS = tuple(f"a {colour} {shape}" for colour, shape in product(COLOURS, SHAPES))
PICTURE_PROMPTS = (
    "a red ring",
    "a green square",
    "a blue triangle",
    "a yellow cross",
    "a magenta square",
    "a cyan triangle",
    "a blue ring",
    "a red cross",
)
PICTURE_TOKENS = 8  # what the flow pipeline's T5 was trained with: pass it as max_sequence_length


def parse_picture_caption(caption: str) -> tuple[int, int]:
    """The indices into COLOURS and SHAPES that a picture's caption names.

    Raises:
        ValueError: the sentence is not one of the 24 captions.
    """
    try:
        colour, shape = divmod(PICTURE_CAPTIONS.index(" ".join(caption.lower().split())), len(SHAPES))
    except ValueError:
        raise ValueError(
            f"{caption!r} is not a caption of the toy world's pictures; it knows sentences such as "
            f"{PICTURE_PROMPTS[0]!r}: a COLOUR ({', '.join(COLOURS)}) SHAPE ({', '.join(SHAPES)})"
        ) from None
    return colour, shape


def picture_attributes(captions: Sequence[str] = PICTURE_CAPTIONS) -> list[tuple[int, int]]:
    """(colour, shape) of each caption."""
    return [parse_picture_caption(caption) for caption in captions]
