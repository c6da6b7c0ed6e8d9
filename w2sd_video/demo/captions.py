"""The captions of the toy world: 6 colours x 4 shapes x 5 motions = 120 sentences. Nothing here needs torch."""

from itertools import product
from typing import NamedTuple

COLOURS = ("red", "yellow", "green", "cyan", "blue", "magenta")
SHAPES = ("ring", "square", "triangle", "cross")
MOTIONS = ("moving left", "moving right", "moving up", "moving down", "standing still")


class Attributes(NamedTuple):
    """What one clip shows, as indices into COLOURS, SHAPES and MOTIONS."""

    colour: int
    shape: int
    motion: int

    @property
    def caption(self) -> str:
        return f"a {COLOURS[self.colour]} {SHAPES[self.shape]} {MOTIONS[self.motion]}"


ALL_ATTRIBUTES = tuple(
    Attributes(*indices) for indices in product(range(len(COLOURS)), range(len(SHAPES)), range(len(MOTIONS)))
)
CAPTIONS = tuple(attributes.caption for attributes in ALL_ATTRIBUTES)
MEANT = dict(zip(CAPTIONS, ALL_ATTRIBUTES, strict=True))

DEMO_PROMPTS = (
    "a red ring moving left",
    "a green square moving up",
    "a blue triangle moving right",
    "a yellow cross moving down",
    "a magenta ring standing still",
    "a cyan triangle moving left",
)


def parse_caption(caption: str) -> Attributes:
    """The attributes that a caption of the toy world names.

    Raises:
        ValueError: the sentence is not one of the 120 captions.
    """
    try:
        return MEANT[" ".join(caption.lower().split())]
    except KeyError:
        raise ValueError(
            f"{caption!r} is not a caption of the toy world; it knows sentences such as {DEMO_PROMPTS[0]!r}: "
            f"a COLOUR ({', '.join(COLOURS)}) SHAPE ({', '.join(SHAPES)}) MOTION ({', '.join(MOTIONS)})"
        ) from None
