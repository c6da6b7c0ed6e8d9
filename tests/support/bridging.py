"""Two latent spaces over one picture space, with models of them that are exact: ground truth for the pixel bridge.

A picture is a row of pixels: two of content, a mixture of modes at (-4, 0) and (4, 0) of standard deviation 1, and any
number of detail, noise of standard deviation .5. A space's latents are the pixels turned and scaled by 1 / 4.1 (about
the pixels' standard deviation), so that everything can be said in pixels. All of it is float64; latents are [n, D],
their grids [n, D, 1, 1].

And quick calls of `tiny`'s pipelines.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from experiments.theory.mixtures import Mixture
from torch import Tensor

from bridges.pixel.noise_maps import Mapped
from bridges.pixel.step import Bridge, reflect_through_pixels
from tests.support import tiny
from w2sd_video import ModelSpec
from w2sd_video.core import CustomReflection, Denoiser, Level, Path, ReflectionConfig, sample
from w2sd_video.hosting.cross_latent import LevelTable

STRONG_LEFT, WEAK_LEFT = 0.25, 0.1  # masses of the left mode
DETAIL_STD = 0.5
PIXEL_STD = 4.1
Reflect = Callable[..., Any]


def sdxl_levels() -> tuple[Level, ...]:
    """The 1000 levels SDXL was trained at, from clean to noisy."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    products = (1 - betas).cumprod(0).tolist()
    return tuple(Level(t, product**0.5, (1 - product) ** 0.5) for t, product in enumerate(products))


VP_TABLE, FLOW_TABLE = LevelTable(sdxl_levels(), 1000), LevelTable(None, 1000)


class Cells:
    """The layout: latents [n, D] are grids of one cell."""

    def grid(self, latents: Tensor) -> Tensor:
        return latents[:, :, None, None]

    def latents(self, grid: Tensor) -> Tensor:
        return grid[:, :, 0, 0]


@dataclass
class Space:
    """Latents as a linear function of pixels: `basis` [D, pixels] has orthonormal rows; fewer than pixels lose some.

    `after` is what the decoder does to the picture besides, `encoded` is what was encoded last.
    """

    basis: Tensor
    scale: float = 1 / PIXEL_STD
    after: Callable[[Tensor], Tensor] = lambda pixels: pixels
    layout: Cells = field(default_factory=Cells)
    encoded: Tensor | None = None

    def encode(self, pixels: Tensor) -> Tensor:
        self.encoded = torch.einsum("dp,nphw->ndhw", self.basis, pixels) * self.scale
        return self.encoded

    def decode(self, grid: Tensor) -> Tensor:
        return self.after(torch.einsum("dp,ndhw->nphw", self.basis, grid) / self.scale)

    def encode_pair(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        return self.encode(one), self.encode(other)

    def decode_pair(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        return self.decode(one), self.decode(other)

    def pixels(self, latents: Tensor) -> Tensor:
        """The clean picture [n, pixels] of latents [n, D]."""
        return latents @ self.basis / self.scale


@dataclass(frozen=True)
class PictureModel:
    """The exact model of a space's latents; those of its dimensions after the first two pixels are detail."""

    space: Space
    left: float
    std: float = 1.0

    def clean(self, x: Tensor, level: Level) -> Tensor:
        """E[x0 | x at level]: in pixels, where the noise is 1 / scale times as large."""
        basis, scale = self.space.basis, self.space.scale
        seen = basis.abs().sum(0) > 0  # pixels that this space knows
        pixels, there = x @ basis / scale, Level(level.timestep, level.alpha, level.sigma / scale)
        content = Mixture(((-4.0, 0.0), (4.0, 0.0)), (self.left, 1 - self.left), self.std)
        parts = [content.clean(pixels[:, :2], there)]
        if pixels.shape[1] > 2:
            detail = Mixture(((0.0,) * (pixels.shape[1] - 2),), (1.0,), DETAIL_STD)
            parts.append(detail.clean(pixels[:, 2:], there) * seen[2:])
        return torch.cat(parts, 1) @ basis.T * scale

    denoiser = Mixture.denoiser


@dataclass(frozen=True)
class WeakSide:
    """A model as the weak side of a bridge."""

    model: PictureModel
    path: Path
    table: LevelTable = VP_TABLE

    def nearest(self, kappa: float) -> Level | None:
        return self.table.nearest(kappa)

    def clean(self, grid: Tensor, level: Level) -> Tensor:
        return self.model.clean(grid[:, :, 0, 0], level)[:, :, None, None]


@dataclass(frozen=True)
class Clamped(WeakSide):
    """A weak side that stands in with its noisiest level where it knows none so noisy."""

    def nearest(self, kappa: float) -> Level | None:
        assert self.table.levels is not None
        return self.table.nearest(kappa) or self.table.levels[-1]


@dataclass(frozen=True)
class Echo:
    """The weak model without any opinion: it answers the b that its space was last given."""

    space: Space
    table: LevelTable = VP_TABLE

    def nearest(self, kappa: float) -> Level | None:
        return self.table.nearest(kappa)

    def clean(self, grid: Tensor, level: Level) -> Tensor:
        assert self.space.encoded is not None
        return self.space.encoded


@dataclass(frozen=True)
class Linear:
    """The noise map that the two spaces really have: P = `matrix` [Db, Da], and w."""

    matrix: Tensor
    scale: float | None

    def __call__(self, noise: Tensor, shape: torch.Size) -> Tensor:
        return torch.einsum("ba,nahw->nbhw", self.matrix, noise)


def rotation(angle: float) -> Tensor:
    return torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)


def orthogonal(dims: int, seed: int) -> Tensor:
    """A random orthogonal matrix [dims, dims]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(dims, dims, generator=generator, dtype=torch.float64)).Q


def true_map(a: Space, b: Space) -> Linear:
    return Linear(b.basis @ a.basis.T, b.scale / a.scale)


def starts(dims: int = 2, n: int = 1024) -> Tensor:
    """Normal starting noise [n, dims], evenly spread: counts are good to about 1 / n."""
    uniform = torch.quasirandom.SobolEngine(dims, scramble=True, seed=0).draw(n, dtype=torch.float64)
    return torch.special.ndtri(uniform.clamp(1e-9, 1 - 1e-9))


def bridged_sample(
    x: Tensor,
    levels: Sequence[Level],
    strong: Denoiser,
    weak: Any,
    path: Path,
    bridge: Bridge,
    *,
    num_reflections: int | None = None,
    reflect: Reflect = reflect_through_pixels,
) -> tuple[Tensor, list[int]]:
    """The sample, and the steps whose reflection was left out."""
    skipped: list[int] = []

    def reflected(x: Tensor, start: Level, end: Level) -> Tensor | None:
        crossing = reflect(x, start, end, strong, weak, path, bridge=bridge)
        if crossing is None:
            skipped.append(list(levels).index(start))
            return None
        return crossing.latent

    reflection = CustomReflection(levels, reflected, ReflectionConfig(num_reflections, "fused"))
    return sample(x, levels, strong, path, reflect=reflection), skipped


def shift(one: Tensor, other: Tensor) -> float:
    """The root mean square over pictures of the distance in pixels."""
    return (one - other).square().sum(1).mean().sqrt().item()


# -- quick calls of tiny pipelines -------------------------------------------------------------------------------------

STEPS = 6
UNGUIDED = ModelSpec(guidance=1.0)
CALLS: dict[str, dict[str, Any]] = {
    "flux": tiny.FLUX_CALL,
    "sdxl": {**tiny.IMAGE_CALL, "guidance_scale": 3.0},
    "sd15": {**tiny.IMAGE_CALL, "guidance_scale": 3.0},
    "animatediff_sdxl": {**tiny.ANIMATEDIFF_CALL, "guidance_scale": 3.0},
}


@functools.cache
def pipeline(kind: str, seed: int = 1) -> Any:
    """One of `tiny`'s pipelines; tests leave them as they found them."""
    return getattr(tiny, kind)(seed)


def call(pipe: Any, kind: str, prompt: Any = "a red cat", **more: Any) -> Tensor:
    settings = {"num_inference_steps": STEPS, "output_type": "latent", "generator": tiny.generator()}
    return torch.as_tensor(pipe(prompt, **{**settings, **CALLS[kind], **more})[0])


def mapped(scale: float = 1.0) -> Mapped:
    """A noise map between the tiny pipelines' spaces of 4 channels."""
    turn = torch.linalg.qr(torch.randn(4, 4, generator=tiny.generator(3), dtype=torch.float64)).Q
    return Mapped(turn, scale)


def rounding(latents: Tensor, evaluations: int, scale: float) -> float:
    """What float32 may add: each evaluation rounds its latent and its prediction to 6e-8 of the largest value, and
    guidance passes a difference on up to (2 scale - 1)-fold."""
    return evaluations * 2 * (2 * scale - 1) * 6e-8 * float(latents.abs().max())
