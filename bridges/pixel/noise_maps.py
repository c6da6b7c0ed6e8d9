"""Noise of one latent space as noise of another: P in `z = alpha * b + sigma * P(eps)`.

"mapped" is a semi-orthogonal map fitted to latents of the same pictures in both spaces, "identity" serves two sides of
one space. "fresh" and "fixed" noise has nothing to do with the strong model's: the weak model's answer then carries the
error of estimating x0 from a noise that x_t does not have, which moves samples even where the models are equal.

`Paired` is no map: with it both models answer under noise of their own, so that what such noise does is in both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from bridges.pixel.fitting import fit, fit_from_pictures
from bridges.pixel.mapped import Mapped, seeded_noise
from bridges.pixel.pictures import load_pictures
from bridges.pixel.settings import DRAWS
from w2sd_video.errors import UserError
from w2sd_video.latents.codecs import Codec, same_space

__all__ = [
    "Fixed",
    "Fresh",
    "Identity",
    "Mapped",
    "NoiseMap",
    "Paired",
    "fit",
    "fit_from_pictures",
    "load_pictures",
    "noise_map_of",
]

SUFFIX = ".safetensors"
FRESH_HARMS = (
    "fresh or fixed noise has nothing to do with the strong model's and shifts samples even without a gap; on the "
    "bundled pair the gain of W2SD is gone with it (docs/results.md): fit a map for the two VAEs, or take paired noise"
)


class NoiseMap(Protocol):
    """A map of grid noise. `scale` is std(b) / std(P x0); None where it is measured at every reflected step."""

    @property
    def name(self) -> str: ...

    @property
    def scale(self) -> float | None: ...

    def __call__(self, noise: Tensor, shape: torch.Size) -> Tensor:
        """Returns noise [N, Ca, ha, wa] of A as a grid [N, Cb, hb, wb] (`shape`) of B; it is never renormalised."""
        ...

    def check(self, a: Codec, b: Codec) -> None:
        """Raises UserError where the map does not serve the two sides."""
        ...

    def reset(self) -> None:
        """Begin a run."""
        ...


class Identity:
    """The noise itself, for two sides that share a latent space."""

    name = "identity"
    scale: float | None = 1.0

    def __call__(self, noise: Tensor, shape: torch.Size) -> Tensor:
        if noise.shape != shape:
            raise UserError(
                f"the identity noise map was given a grid {list(noise.shape)} for one of {list(shape)}; "
                "the two sides need equal sizes and channels: fit a noise map, or choose 'fresh'"
            )
        return noise

    def reset(self) -> None:
        """Nothing to begin again."""

    def check(self, a: Codec, b: Codec) -> None:
        """Raises UserError where the two sides do not share a latent space."""
        if not same_space(a, b):
            raise UserError(
                f"the identity noise map serves one latent space, but the VAEs differ (strong {a.fingerprint}, weak "
                f"{b.fingerprint}); fit a noise map, or choose 'fresh'"
            )


class Fresh:
    """New noise at each call, from a CPU generator: the n-th call of every run with one seed gives the same."""

    name = "fresh"
    scale: float | None = None

    def __init__(self, seed: int = 0) -> None:
        self.seed, self._calls = seed, 0

    def __call__(self, noise: Tensor, shape: torch.Size) -> Tensor:
        drawn = seeded_noise(self.seed, self._calls, shape)
        self._calls += 1
        return drawn.to(noise)

    def reset(self) -> None:
        """Begin a run: the next call is its first."""
        self._calls = 0

    def check(self, a: Codec, b: Codec) -> None:
        """Serves any two sides."""


class Fixed:
    """The same noise at each call."""

    name = "fixed"
    scale: float | None = None

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __call__(self, noise: Tensor, shape: torch.Size) -> Tensor:
        return seeded_noise(self.seed, 0, shape).to(noise)

    def reset(self) -> None:
        """Nothing to begin again."""

    def check(self, a: Codec, b: Codec) -> None:
        """Serves any two sides."""


@dataclass
class Paired:
    """Unit noise of both sides' own, for `reflect_in_pairs`: `count` draws a reflection, every second one turned round.

    What noise adds to an estimate is nearly linear in it where noise is high, and cancels in a pair of n and -n: on a
    mixture of two modes a pair is off by .004 (sigma .96 of a flow) to .53 (.64), two draws apart by .11 to 1.3.

    The noise of a picture is of its seed, `seed` + its number in the batch, and of the reflection's number alone: the
    same in batches of any size. `scale` is w (`step.Draws`); None takes it from the sizes of the grids, for latents of
    one scale: noise of a cell that covers r x r others is that of their mean, w = 1 / r. `shared` gives both sides the
    same noise, for one latent space; the `frames` of a video have the noise of the video.
    """

    count: int = DRAWS
    seed: int = 0
    scale: float | None = None
    shared: bool = False
    frames: int = 1
    _calls: int = field(default=0, init=False, repr=False)
    name = "paired"

    def between(self, ours: Codec, theirs: Codec, *, shared: bool, frames: int) -> Paired:
        """These draws between two spaces, at the beginning of a run."""
        cells = [codec.layout.height * codec.layout.width for codec in (ours, theirs)]
        scale = math.sqrt(cells[1] / cells[0]) if self.scale is None else self.scale
        return replace(self, scale=scale, shared=shared, frames=frames)

    def begin(self, ours: Tensor, theirs: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The noise of one reflection, for grids [N, C, h, w] of either side."""
        call, self._calls = self._calls, self._calls + 1
        pairs: list[tuple[Tensor, Tensor]] = []
        for draw in range(self.count):
            if draw % 2:
                one, other = pairs[-1]
                pairs.append((-one, -other))
            else:
                one = self._noise(f"{call} {draw}", ours)
                pairs.append((one, one if self.shared else self._noise(f"{call} {draw} weak", theirs)))
        return pairs

    def _noise(self, name: str, grid: Tensor) -> Tensor:
        count = len(grid) // self.frames
        rows = [seeded_noise(self.seed + i, f"pair {name}", (1, *grid.shape[1:])) for i in range(count)]
        return torch.cat(rows).repeat_interleave(self.frames, 0).to(grid)


def noise_map_of(name: str, seed: int = 0) -> NoiseMap:
    """Returns the noise map called `name`: "identity", "fresh", "fixed", or the file of a fitted one.

    Raises:
        UserError: another name, or a file that is no noise map.
    """
    makers: dict[str, Callable[[], NoiseMap]] = {
        "identity": Identity,
        "fresh": lambda: Fresh(seed),
        "fixed": lambda: Fixed(seed),
    }
    if name in makers:
        return makers[name]()
    if name.endswith(SUFFIX):
        return Mapped.load(name, seed=seed)
    raise UserError(f"the noise map is {name!r}; choose one of {', '.join(makers)}, or a fitted one's file (*{SUFFIX})")
