"""The two latent spaces of a plan: their codecs, and the noise map between them, taken, read or fitted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bridges.pixel.command.presets import NOISE_MAP
from bridges.pixel.command.request import BridgePlan
from bridges.pixel.fitting import fit_from_pictures
from bridges.pixel.mapped import Mapped, cell_ratio
from bridges.pixel.noise_maps import NoiseMap, noise_map_of
from w2sd_video.errors import UserError
from w2sd_video.latents.codecs import Codec, same_space
from w2sd_video.latents.layouts import Layout
from w2sd_video.latents.vaes import factor_of

CELLS, LEAST_PICTURES = 4096, 4  # what a map is fitted to, at least
FRESH_WARNING = (
    "fresh noise has nothing to do with the strong model's, which shifts samples even without a gap; it is for at most "
    "half of the steps: fit a map, or lower --reflections"
)
FIXED_WARNING = "fixed noise has nothing to do with the strong model's, which shifts samples even without a gap"


@dataclass(frozen=True)
class Spaces:
    """The codecs of the strong and of the weak side."""

    strong: Codec
    weak: Codec

    @property
    def one(self) -> bool:
        """Whether latents, and their noise, are the same thing on both sides."""
        sizes = [(codec.height, codec.width) for codec in (self.strong, self.weak)]
        return same_space(self.strong, self.weak) and sizes[0] == sizes[1]

    @property
    def cells(self) -> int:
        """Cells (or blocks of cells) of one picture that a noise map maps."""
        grids = [(codec.height // codec.factor, codec.width // codec.factor) for codec in (self.strong, self.weak)]
        cell_ratio(*grids)
        return min(math.prod(grid) for grid in grids)

    @property
    def pictures_to_fit(self) -> int:
        return max(LEAST_PICTURES, math.ceil(CELLS / self.cells))

    def description(self) -> dict[str, Any]:
        """What run.json says of them."""
        return {
            role: {name: value for name, value in codec.description().items() if name != "layout"}
            for role, codec in (("strong", self.strong), ("weak", self.weak))
        }


def spaces_of(plan: BridgePlan, strong_vae: Any, weak_vae: Any) -> Spaces:
    """Returns the spaces of two VAEs (tiny ones where the plan says so) at the sizes of the plan."""

    def codec(vae: Any, height: int, width: int) -> Codec:
        factor = factor_of(vae)
        layout = Layout("image", vae.config.latent_channels, height // factor, width // factor)
        return Codec(vae, layout, tiled=plan.tiled, chunk=max(1, 4 * 1024**2 // (height * width)))

    return Spaces(codec(strong_vae, plan.height, plan.width), codec(weak_vae, plan.weak_height, plan.weak_width))


@dataclass(frozen=True)
class ChosenMap:
    """A noise map, where it comes from, in words, and whether it was fitted now."""

    noise_map: NoiseMap
    origin: str
    fitted: bool = False

    def description(self) -> dict[str, Any]:
        """What run.json says of it."""
        names = ("scale", "residual", "ratio", "fingerprints", "num_pictures", "num_cells")
        known = {name: getattr(self.noise_map, name, None) for name in names}
        return {
            "name": self.noise_map.name,
            "origin": self.origin,
            **{name: value for name, value in known.items() if value is not None},
        }

    def sentence(self) -> str:
        """What the terminal and the page say of it."""
        residual = getattr(self.noise_map, "residual", None)
        unexplained = "" if residual is None else f"; it leaves {residual:.1%} of the weak side's variance unexplained"
        return f"noise map: {self.origin}{unexplained}"


def known_map(plan: BridgePlan, spaces: Spaces) -> ChosenMap | None:
    """Returns the map that the plan names, or for "auto" the one that is there already: identity in one space, else the
    preset's, else the one that an earlier run fitted in this folder; None where it has to be fitted.

    Raises:
        UserError: the map named does not serve these two spaces.
    """
    if plan.noise_map != "auto":
        chosen = noise_map_of(plan.noise_map, plan.seed)
        chosen.check(spaces.strong, spaces.weak)
        origin = f"of {plan.noise_map}" if isinstance(chosen, Mapped) else plan.noise_map
        return ChosenMap(chosen, origin)
    if spaces.one:
        return ChosenMap(noise_map_of("identity"), "identity (both sides share one latent space)")
    for path, origin in ((plan.preset_map, "the preset's"), (plan.output / NOISE_MAP, "fitted before, in this folder")):
        if path is not None and path.is_file():
            found = _fitting(path, spaces, plan.seed)
            if found is not None:
                return ChosenMap(found, origin)
    return None


def _fitting(path: Path, spaces: Spaces, seed: int) -> Mapped | None:
    """The map in a file, where it serves these spaces at their sizes."""
    found = Mapped.load(path, seed=seed)
    grids = [(codec.height // codec.factor, codec.width // codec.factor) for codec in (spaces.strong, spaces.weak)]
    try:
        found.check(spaces.strong, spaces.weak)
        return found if cell_ratio(*grids) == found.ratio else None
    except UserError:
        return None


def fitted_map(spaces: Spaces, pictures: Iterable[Tensor], path: Path, origin: str) -> ChosenMap:
    """Returns the map fitted to batches of pixels [N, 3, H, W] in [-1, 1], after saving it at `path`."""
    found = fit_from_pictures(spaces.strong, spaces.weak, pictures)
    found.save(path)
    return ChosenMap(found, origin.format(count=found.num_pictures), fitted=True)


def warn_of_noise(plan: BridgePlan, note: Callable[[str], None]) -> None:
    """Says what fresh and fixed noise do to samples, where the plan asks for them."""
    if plan.noise_map == "fixed":
        note(FIXED_WARNING)
    elif plan.noise_map == "fresh" and 2 * plan.reflections > plan.steps:
        note(f"{FRESH_WARNING} (got {plan.reflections} of {plan.steps})")
