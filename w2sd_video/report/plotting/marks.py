"""What can be drawn in a panel, in the units of its axes. A label puts a mark into the sheet's legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Line:
    """A curve through points x [N], y [N]; `dots` marks each point."""

    x: ArrayLike
    y: ArrayLike
    colour: str
    label: str | None = None
    width: float = 2.0
    dashed: bool = False
    dots: bool = False


@dataclass(frozen=True)
class Fan:
    """Many thin curves: x [M] and y [N, M], or x [N, M] too."""

    x: ArrayLike
    y: ArrayLike
    colour: str
    label: str | None = None
    opacity: float = 0.35
    width: float = 1.2


@dataclass(frozen=True)
class Area:
    """The area between y [N] and `base` over x [N]."""

    x: ArrayLike
    y: ArrayLike
    colour: str
    label: str | None = None
    base: float = 0.0
    opacity: float = 0.2


@dataclass(frozen=True)
class Dots:
    """Points x [N], y [N]."""

    x: ArrayLike
    y: ArrayLike
    colour: str
    label: str | None = None
    size: float = 2.5
    opacity: float = 0.6


@dataclass(frozen=True)
class Arrows:
    """Arrows from tails [N, 2] to heads [N, 2]."""

    tails: ArrayLike
    heads: ArrayLike
    colour: str
    label: str | None = None
    width: float = 2.0


@dataclass(frozen=True)
class Contours:
    """Lines of equal height of z [Y, X] over x [X] and y [Y], fainter for lower heights."""

    x: ArrayLike
    y: ArrayLike
    z: ArrayLike
    heights: Sequence[float]
    colour: str
    label: str | None = None
    width: float = 1.6


@dataclass(frozen=True)
class Bars:
    """Upright bars of one group: centres x [N], tops y [N], from `base`."""

    x: ArrayLike
    y: ArrayLike
    colour: str
    label: str | None = None
    width: float = 0.8
    base: float = 0.0


@dataclass(frozen=True)
class Rule:
    """A line across the whole panel, level at `y` or upright at `x`."""

    colour: str
    y: float | None = None
    x: float | None = None
    label: str | None = None
    dashed: bool = True
    width: float = 1.4


@dataclass(frozen=True)
class Note:
    """Words at a place; `anchor` as PIL's ("mm" is centred)."""

    x: float
    y: float
    text: str
    colour: str = "#222222"
    anchor: str = "mm"
    size: float = 12.0


Mark = Line | Fan | Area | Dots | Arrows | Contours | Bars | Rule | Note
