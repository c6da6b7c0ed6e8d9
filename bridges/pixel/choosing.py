"""Which noise the reflections of a bridged pair have: through a map that is named, known or fitted, or in pairs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from bridges.pixel.fitting import fit_from_pictures
from bridges.pixel.mapped import Mapped, cell_ratio
from bridges.pixel.noise_maps import NoiseMap, noise_map_of
from bridges.pixel.presets import NOISE_MAP
from bridges.pixel.settings import UNEXPLAINED, UNRELATED
from w2sd_video.commands.plan import Plan
from w2sd_video.errors import UserError
from w2sd_video.latents.codecs import Codec, same_space
from w2sd_video.latents.layouts import Layout
from w2sd_video.latents.vaes import factor_of

CELLS, LEAST_PICTURES = 4096, 4  # what a map is fitted to, at least


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
    def grids(self) -> list[tuple[int, int]]:
        return [(codec.height // codec.factor, codec.width // codec.factor) for codec in (self.strong, self.weak)]

    @property
    def pictures_to_fit(self) -> int:
        """How many pictures have enough cells (or blocks of cells) that a noise map maps."""
        cell_ratio(*self.grids)
        return max(LEAST_PICTURES, math.ceil(CELLS / min(math.prod(grid) for grid in self.grids)))

    def description(self) -> dict[str, Any]:
        """What run.json says of them."""
        return {
            role: {name: value for name, value in codec.description().items() if name != "layout"}
            for role, codec in (("strong", self.strong), ("weak", self.weak))
        }


def spaces_of(plan: Plan, strong_vae: Any, weak_vae: Any) -> Spaces:
    """Returns the spaces of two VAEs (tiny ones where the plan says so) at the sizes of the plan."""

    def codec(vae: Any, height: int, width: int) -> Codec:
        factor = factor_of(vae)
        layout = Layout("image", vae.config.latent_channels, height // factor, width // factor)
        return Codec(vae, layout, tiled=plan.own.tiled, chunk=max(1, 4 * 1024**2 // (height * width)))

    return Spaces(
        codec(strong_vae, plan.height, plan.width), codec(weak_vae, plan.own.weak_height, plan.own.weak_width)
    )


@dataclass(frozen=True)
class Fit:
    """A noise map and where it comes from, in words; `paired` where it gives no noise, and at most the scale w."""

    noise_map: NoiseMap | None
    origin: str
    paired: bool = False

    def description(self) -> dict[str, Any]:
        """What run.json says of it."""
        names = ("scale", "residual", "ratio", "fingerprints", "num_pictures", "num_cells")
        known = {name: getattr(self.noise_map, name, None) for name in names}
        return {
            "name": "paired" if self.paired or self.noise_map is None else self.noise_map.name,
            "origin": self.origin,
            **{name: value for name, value in known.items() if value is not None},
        }

    def sentence(self) -> str:
        """What the terminal and the page say of it."""
        residual = getattr(self.noise_map, "residual", None)
        unexplained = "" if residual is None else f"; it leaves {residual:.1%} of the weak side's variance unexplained"
        if residual is not None and residual > UNEXPLAINED:
            why = "so noise is paired" if self.paired else "too much to carry noise: --noise-map paired needs no map"
            unexplained += f", more than {UNEXPLAINED:.0%}, {why}"
        if residual is not None and residual > UNRELATED:
            unexplained += f"; above {UNRELATED:.0%} nothing was gained where it was measured: compare with zero-gap"
        return f"{'noise' if self.paired else 'noise map'}: {self.origin}{unexplained}"

    def chosen(self, draws: int) -> Fit:
        """The same for "auto": paired, where the plan has draws for it, if the spaces are too far from linearly related
        for the map to carry noise.
        """
        residual = getattr(self.noise_map, "residual", None)
        return replace(self, paired=draws > 0 and residual is not None and residual > UNEXPLAINED)


def known_map(plan: Plan, spaces: Spaces) -> Fit | None:
    """Returns the map that the plan names, or for "auto" the one that is there already: identity in one space, else the
    preset's, else the one that an earlier run fitted in this folder; None where it has to be fitted. Where no map can
    be, as of such sizes, noise is paired.

    Raises:
        UserError: the map named does not serve these two spaces.
    """
    name = plan.own.noise_map
    if name == "paired":
        return Fit(None, "paired, of both models' own", paired=True)
    if name != "auto":
        chosen = noise_map_of(name, plan.seed)
        chosen.check(spaces.strong, spaces.weak)
        return Fit(chosen, f"of {name}" if isinstance(chosen, Mapped) else name)
    if spaces.one:
        return Fit(noise_map_of("identity"), "identity (both sides share one latent space)")
    try:
        cell_ratio(*spaces.grids)
    except UserError:
        return Fit(None, "paired, as no map takes grids of such sizes to each other", paired=True)
    for path, origin in (
        (plan.own.preset_map, "the preset's"),
        (plan.output / NOISE_MAP, "fitted before, in this folder"),
    ):
        if path is not None and path.is_file() and (found := _serving(path, spaces, plan.seed)) is not None:
            return Fit(found, origin).chosen(plan.reflection.draws)
    return None


def _serving(path: Path, spaces: Spaces, seed: int) -> Mapped | None:
    """The map in a file, where it serves these spaces at their sizes."""
    found = Mapped.load(path, seed=seed)
    try:
        found.check(spaces.strong, spaces.weak)
        return found if cell_ratio(*spaces.grids) == found.ratio else None
    except UserError:
        return None


def fitted_map(spaces: Spaces, pictures: Iterable[Tensor], path: Path, origin: str) -> Fit:
    """Returns the map fitted to batches of pixels [N, 3, H, W] in [-1, 1], after saving it at `path`."""
    found = fit_from_pictures(spaces.strong, spaces.weak, pictures)
    found.save(path)
    return Fit(found, origin.format(count=found.num_pictures))
