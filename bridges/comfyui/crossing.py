"""Strong and weak models of different latent spaces: they meet in pixels, through ComfyUI's VAEs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.model_sampling
import torch
from torch import Tensor

from bridges.comfyui.guiders import W2SDGuider
from bridges.comfyui.sampling import Grid
from bridges.pixel.step import Bridge, gap_in_pairs, reflect_in_pairs
from w2sd_video.core.denoisers import Denoiser
from w2sd_video.core.levels import Level
from w2sd_video.core.options import ReflectionConfig
from w2sd_video.core.sampling import CustomReflection
from w2sd_video.core.variations import CachedGap
from w2sd_video.errors import UserError


class BridgeGuider(W2SDGuider):
    """A W2SD guider whose weak side has a latent space of its own; pictures only, and the sampler's mode fused.

    Each reflection decodes what the strong model expects, and both models answer that picture anew under ``draws``
    draws of noise (`reflect_in_pairs`): 1 + draws strong and ``draws`` weak evaluations, 4 decodings and 4 encodings.
    A cached gap saves the first of these, and all of them where it is not measured anew.
    """

    def __init__(self, strong: Any, strong_vae: Any, weak_vae: Any, draws: int = 1) -> None:
        super().__init__(strong)
        self.vaes, self.draws = (strong_vae, weak_vae), draws

    def check_weak(self, model: Any) -> None:
        """Any model will do."""

    def weak_latents(self, noise: Tensor) -> Tensor:
        if noise.ndim != 4:
            raise UserError(
                f"W2SD Bridge Guider is for pictures, and these latents are of shape {tuple(noise.shape)}; for videos "
                "use models of one latent space with W2SD Guider"
            )
        ours, theirs = self.vaes[0].spacial_compression_decode(), self.vaes[1].spacial_compression_encode()
        size = [side * ours for side in noise.shape[2:]]
        if any(side % theirs for side in size):
            raise UserError(
                f"pictures of {size[1]}x{size[0]} have no latents of the weak model, whose VAE works in steps of "
                f"{theirs} pixels; choose a width and height that are multiples of it"
            )
        channels = self.weak.model_patcher.model.latent_format.latent_channels
        return torch.zeros(noise.shape[0], channels, *(side // theirs for side in size))

    def crossing(
        self, grid: Grid, strong: Denoiser, config: ReflectionConfig, seed: int | None, sampling: Denoiser
    ) -> CustomReflection | CachedGap:
        """The reflections of a run, as core's loop asks for them; ``sampling`` is the strong model as it samples."""
        if config.mode != "fused":
            raise UserError(
                f"the W2SD sampler's mode is {config.mode!r}; across latent spaces both models are asked at one "
                'latent: set mode "fused"'
            )
        ours = _Autoencoder(self.vaes[0], self.inner_model, self.reload)
        theirs = _Autoencoder(self.vaes[1], self.weak.inner_model, self.reload)
        bridge = Bridge(ours, theirs, _Draws(self.draws, seed or 0))
        weak = _Weak(self.weak, lambda: self._weak_options, seed)

        if config.gap_every is not None:

            def measured(x: Tensor, level: Level) -> tuple[Tensor, Tensor | None]:
                prediction = sampling(x, level)
                reflecting = prediction if self.reflect_cfg is None else strong(x, level)
                found = gap_in_pairs(x, level, strong, weak, grid.path, bridge=bridge, prediction=reflecting)
                return prediction, None if found is None else found.latent * grid.path.native_gap(level)

            return CachedGap(grid.seen, sampling, measured, grid.path, config)

        def reflect(x: Tensor, start: Level, end: Level) -> Tensor | None:
            crossed = reflect_in_pairs(x, start, end, strong, weak, grid.path, bridge=bridge, strength=config.strength)
            return None if crossed is None else crossed.latent

        return CustomReflection(grid.seen, reflect, config)

    def reload(self) -> None:
        """Has both models back where they are evaluated, if the VAEs took their place."""
        models = {
            each.model: each.model.current_patcher or each for each in (self.weak.model_patcher, self.model_patcher)
        }
        comfy.model_management.load_models_gpu([*models.values()])


class _Grids:
    """ComfyUI's latents of pictures are grids already."""

    def grid(self, latents: Tensor) -> Tensor:
        return latents

    latents = grid


@dataclass(frozen=True)
class _Autoencoder:
    """A VAE between pictures [N, 3, H, W] from 0 to 1 and the latents of a model."""

    vae: Any
    model: Any
    reload: Callable[[], None]
    layout: _Grids = field(default_factory=_Grids)

    def encode(self, pixels: Tensor) -> Tensor:
        latents = self.vae.encode(pixels.movedim(1, -1))
        self.reload()
        return self.model.process_latent_in(latents.to(pixels))

    def decode(self, grid: Tensor) -> Tensor:
        pixels = self.vae.decode(self.model.process_latent_out(grid))
        self.reload()
        return pixels.to(grid).movedim(-1, 1)

    def encode_pair(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self.encode(torch.cat([one, other])).chunk(2)
        return first, second

    def decode_pair(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self.decode(torch.cat([one, other])).chunk(2)
        return first, second


class _Draws:
    """Noise of both sides' own, the same for the same seed; every second draw is the one before turned round."""

    scale = None

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self._generator = torch.Generator().manual_seed(seed)

    def begin(self, ours: Tensor, theirs: Tensor) -> Sequence[tuple[Tensor, Tensor]]:
        return list(self._pairs(ours, theirs))

    def _pairs(self, ours: Tensor, theirs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        pair = ours, theirs
        for k in range(self.count):
            pair = (-pair[0], -pair[1]) if k % 2 else (self._like(ours), self._like(theirs))
            yield pair

    def _like(self, x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=self._generator).to(x)


@dataclass(frozen=True)
class _Weak:
    """The weak model by noise-to-signal ratios, at the scale its network sees."""

    guider: Any
    options: Callable[[], Any]
    seed: int | None

    def nearest(self, kappa: float) -> Level | None:
        sampling = self.guider.inner_model.model_sampling
        if isinstance(sampling, comfy.model_sampling.CONST):
            sigma = 1.0 if math.isinf(kappa) else kappa / (1.0 + kappa)
            return Level(sigma, 1.0 - sigma, sigma)
        if not float(sampling.sigma_min) <= kappa <= float(sampling.sigma_max) * (1 + 1e-6):
            return None
        alpha = (kappa**2 + float(sampling.sigma_data) ** 2) ** -0.5
        return Level(kappa, alpha, kappa * alpha)

    def clean(self, grid: Tensor, level: Level) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        flow = isinstance(self.guider.inner_model.model_sampling, comfy.model_sampling.CONST)
        latents = grid if flow else grid / level.alpha
        sigma = latents.new_full((len(latents),), level.timestep)
        return self.guider(latents, sigma, self.options(), self.seed)
