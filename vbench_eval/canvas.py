"""A drawing surface for plots: logical pixels in, a smooth picture of twice their number out, in light or dark."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw

OUT = 2  # pixels per logical pixel in the result, for dense screens
_OVER = 2  # times as many while drawing, since PIL's lines and dots have jagged edges


@dataclass(frozen=True)
class Theme:
    """The colours of a plot; `marks` are those of the methods, in their order."""

    page: str
    text: str
    faint: str
    line: str
    marks: tuple[str, ...]


LIGHT = Theme("#ffffff", "#1b1e24", "#646c7a", "#dfe3e9", ("#2a6fdb", "#c9610c", "#13805f", "#8247c9", "#b3264f"))
DARK = Theme("#1b1e25", "#e8eaee", "#98a0ae", "#2d323c", ("#7fb0ff", "#ffab5e", "#56d3ad", "#c7a2ff", "#ff8aa8"))


class Canvas:
    """Draws in logical pixels, x to the right and y down."""

    def __init__(self, width: int, height: int, theme: Theme) -> None:
        self.width, self.height, self.theme = width, height, theme
        self._scale = OUT * _OVER
        self._image = Image.new("RGB", (width * self._scale, height * self._scale), theme.page)
        self._draw = ImageDraw.Draw(self._image, "RGBA")

    def line(self, start: tuple[float, float], end: tuple[float, float], colour: str, width: float = 1) -> None:
        self._draw.line([self._at(start), self._at(end)], fill=colour, width=round(width * self._scale))

    def dot(self, centre: tuple[float, float], radius: float, colour: str, *, filled: bool = True) -> None:
        fill = colour if filled else self.theme.page
        self._draw.circle(
            self._at(centre), radius * self._scale, fill=fill, outline=colour, width=round(1.5 * self._scale)
        )

    def cloud(self, centre: tuple[float, float], radius: float, colour: str) -> None:
        """A dot that lets others shine through."""
        self._draw.circle(self._at(centre), radius * self._scale, fill=colour + "70")

    def box(self, corner: tuple[float, float], opposite: tuple[float, float], fill: str) -> None:
        self._draw.rectangle([self._at(corner), self._at(opposite)], fill=fill)

    def text(
        self, place: tuple[float, float], text: str, *, size: float = 13, anchor: str = "lm", colour: str | None = None
    ) -> None:
        self._draw.text(
            self._at(place), text, fill=colour or self.theme.text, anchor=anchor, font_size=size * self._scale
        )

    def fit(self, text: str, width: float, size: float = 13) -> str:
        """The text, shortened with dots if it is wider than `width`."""
        if self.measure(text, size) <= width:
            return text
        while text and self.measure(text + "...", size) > width:
            text = text[:-1]
        return text.rstrip() + "..."

    def measure(self, text: str, size: float = 13) -> float:
        return self._draw.textlength(text, font_size=size * self._scale) / self._scale

    def picture(self) -> Image.Image:
        """The finished plot, RGB, OUT pixels per logical pixel."""
        return self._image.resize((self.width * OUT, self.height * OUT), Image.Resampling.LANCZOS)

    def _at(self, place: tuple[float, float]) -> tuple[float, float]:
        return place[0] * self._scale, place[1] * self._scale
