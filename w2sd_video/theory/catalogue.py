"""The figures by name, and what the paper (or our own documentation) claims of each. Imports no torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from w2sd_video.errors import UserError

if TYPE_CHECKING:
    from w2sd_video.theory.made import Made


@dataclass(frozen=True)
class Entry:
    """A figure: where it comes from, what is claimed, and the function that makes it ("module:function")."""

    source: str
    claim: str
    maker: str

    def make(self) -> Made:
        module, _, function = self.maker.partition(":")
        make: Callable[[], Made] = getattr(importlib.import_module(f"w2sd_video.theory.figures.{module}"), function)
        return make()


ENTRIES: dict[str, Entry] = {
    "figure-4": Entry(
        "Figure 4",
        "On two modes W2SD shifts the samples towards the one that the strong model lacks.",
        "one_dimension:figure_4",
    ),
    "figure-5": Entry(
        "Figure 5",
        "Reflections draw the paths of samples closer to the mode that both models neglect.",
        "one_dimension:figure_5",
    ),
    "figure-12": Entry(
        "Figures 12 and 13",
        "A positive gap gives gains, none gives plain sampling, a negative one losses.",
        "magnitude:figure_12",
    ),
    "figure-21": Entry(
        "Figure 21",
        "Paths of 5 steps are less smooth, and W2SD still steers them well, as it does at 20.",
        "one_dimension:figure_21",
    ),
    "figure-25": Entry(
        "Figure 25",
        "W2SD corrects the paths of other pairs on a line too.",
        "one_dimension:figure_25",
    ),
    "zero-gap": Entry(
        "App. E.3",
        "With a small step the error of inversion is about zero, so equal models leave a latent as it is.",
        "zero_gap:zero_gap",
    ),
}


def chosen(names: list[str] | None) -> dict[str, Entry]:
    """Returns the figures of these names in the catalogue's order, all of them for None; UserError for another."""
    if names is None:
        return ENTRIES
    if unknown := [name for name in names if name not in ENTRIES]:
        raise UserError(f"there is no figure {unknown[0]!r}; choose from {', '.join(ENTRIES)}")
    return {name: entry for name, entry in ENTRIES.items() if name in names}
