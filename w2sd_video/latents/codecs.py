"""Between pixels and a pipeline's latents: `Codec`, with the VAE's scale and shift and the pipeline's layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from w2sd_video.errors import UserError
from w2sd_video.latents.layouts import Layout, layout_of
from w2sd_video.latents.spaces import LatentSpace, compare_spaces, config_of
from w2sd_video.latents.vaes import (
    computing_vae,
    execution_device,
    factor_of,
    fingerprint_of,
    kind_of,
    scale_and_shift,
)

__all__ = ["Codec", "Layout", "codec_of", "fingerprint_of", "resize", "same_space"]


class Codec:
    """E and D between pixels [N, 3, H, W] in [-1, 1] and the grid [N, C, h, w] of a pipeline's latents.

    Latents are the posterior's mean (never a sample), `(mean - shift) * scale`. Both ways run without gradients, in the
    VAE's dtype on the device it runs on, `chunk` pictures at a time (None: all), in the VAE's own tiles if `tiled`.
    What comes back is float32 on the device of what was given. A float16 VAE that overflows there (`force_upcast`) is
    kept once more in float32; the pipeline's own is never changed.

    `num_encodes` and `num_decodes` count the uses of E and D: one for `encode` and `decode`, two for a pair.

    Raises:
        UserError: a VAE that is not one of images, or whose channels are not those of the layout.
    """

    def __init__(self, vae: Any, layout: Layout, *, chunk: int | None = None, tiled: bool = False) -> None:
        if chunk is not None and chunk < 1:
            raise UserError(f"chunk is {chunk}; it must be at least 1 picture (or None: all at once)")
        self.kind = kind_of(vae)
        self.layout, self.chunk, self.tiled = layout, chunk, tiled
        self.channels: int = vae.config.latent_channels
        self.factor = factor_of(vae)
        self.num_encodes = self.num_decodes = 0
        if self.channels != layout.channels:
            raise UserError(
                f"the {self.kind} has {self.channels} latent channels and the pipeline's latents {layout.channels}; "
                "give the VAE (or the tiny VAE) of the pipeline's own family"
            )
        if tiled and self.kind == "AutoencoderTiny" and (self.channels, self.factor) != (4, 8):
            raise UserError(
                f"the tiles of AutoencoderTiny are made for 4 channels and 8 pixels a cell, not {self.channels} and "
                f"{self.factor}; leave tiled out (a tiny VAE needs a quarter of the memory) and give chunk=1"
            )
        self._own = vae
        self._vae = computing_vae(vae)
        self._scale, self._shift = scale_and_shift(vae)

    @property
    def height(self) -> int:
        """Of the pixels, as is `width`; the pipeline's own height may be a little more (Flux rounds down)."""
        return self.layout.height * self.factor

    @property
    def width(self) -> int:
        return self.layout.width * self.factor

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that name the latent space (`fingerprint_of`); the first asking takes a second."""
        return fingerprint_of(self._own)

    @property
    def space(self) -> LatentSpace:
        return LatentSpace(config_of(self._own), weights=lambda: self.fingerprint)

    def encode(self, pixels: Tensor) -> Tensor:
        """Returns the grid [N, C, h, w] of pixels [N, 3, H, W] in [-1, 1]; H and W are multiples of `factor`.

        Raises:
            UserError: pixels of another shape.
        """
        checked = self._checked_pixels(pixels)
        self.num_encodes += 1
        return self._each(self._encode, checked)

    def decode(self, grid: Tensor) -> Tensor:
        """Returns the pixels [N, 3, H, W] of a grid [N, C, h, w], about in [-1, 1] and not clamped.

        Raises:
            UserError: a grid with other channels.
        """
        checked = self._checked_grid(grid)
        self.num_decodes += 1
        return self._each(self._decode, checked)

    def encode_pair(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Returns `encode` of both, in one batch where it fits `chunk`."""
        checked = self._checked_pixels(one), self._checked_pixels(other)
        self.num_encodes += 2
        return self._both(self._encode, *checked)

    def decode_pair(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Returns `decode` of both, in one batch where it fits `chunk`."""
        checked = self._checked_grid(one), self._checked_grid(other)
        self.num_decodes += 2
        return self._both(self._decode, *checked)

    def description(self) -> dict[str, Any]:
        """What a run says of it: plain values, for JSON."""
        return {
            "class": self.kind,
            "channels": self.channels,
            "factor": self.factor,
            "height": self.height,
            "width": self.width,
            "layout": self.layout.kind,
            "dtype": str(self._vae.dtype).removeprefix("torch."),
            "chunk": self.chunk,
            "tiled": self.tiled,
            "scale": _plain(self._scale),
            "shift": _plain(self._shift),
            "fingerprint": self.fingerprint,
        }

    def _checked_pixels(self, pixels: Tensor) -> Tensor:
        if pixels.dim() != 4 or pixels.shape[1] != 3 or pixels.shape[2] % self.factor or pixels.shape[3] % self.factor:
            raise UserError(
                f"the pixels are {list(pixels.shape)}; this codec encodes [N, 3, H, W] with H and W multiples of "
                f"{self.factor}: resize them first"
            )
        return pixels

    def _checked_grid(self, grid: Tensor) -> Tensor:
        if grid.dim() != 4 or grid.shape[1] != self.channels:
            raise UserError(
                f"the grid is {list(grid.shape)}; this codec decodes [N, {self.channels}, h, w]: "
                "make one of the pipeline's latents with layout.grid"
            )
        return grid

    def _both(self, one_way: Callable, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        # Kernels depend on the batch: chunks of the same sizes keep equal arguments equal.
        whole = self.chunk is None or one.shape[0] + other.shape[0] <= self.chunk
        if not whole or one.shape[1:] != other.shape[1:]:
            return self._each(one_way, one), self._each(one_way, other)
        ours, theirs = self._each(one_way, torch.cat([one, other])).split([one.shape[0], other.shape[0]])
        return ours, theirs

    @torch.no_grad()
    def _each(self, one_way: Callable, given: Tensor) -> Tensor:
        device = execution_device(self._own)
        if self._vae is not self._own:
            self._vae.to(device)
        with self._tiling():
            parts = [one_way(part.to(device)).to(given.device) for part in given.split(self.chunk or len(given))]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _encode(self, pixels: Tensor) -> Tensor:
        out = self._vae.encode(pixels.to(self._vae.dtype))
        # A posterior (KL), or the latents themselves under one of two names (Tiny, DC).
        mean = out.latent_dist.mode() if hasattr(out, "latent_dist") else next(iter(out.values()))
        return (mean.float() - self._shift.to(mean.device)) * self._scale.to(mean.device)

    def _decode(self, grid: Tensor) -> Tensor:
        latents = grid.float() / self._scale.to(grid.device) + self._shift.to(grid.device)
        return self._vae.decode(latents.to(self._vae.dtype), return_dict=False)[0].float()

    @contextmanager
    def _tiling(self) -> Iterator[None]:
        if not self.tiled or self._vae.use_tiling:
            yield
            return
        self._vae.enable_tiling()
        try:
            yield
        finally:
            self._vae.disable_tiling()


def codec_of(
    pipe: Any,
    latents_shape: Sequence[int],
    height: int,
    width: int,
    num_frames: int | None = None,
    *,
    vae: Any = None,
    chunk: int | None = None,
    tiled: bool = False,
) -> Codec:
    """Returns the codec of a pipeline's latents, of `latents_shape`, for pictures of height x width pixels.

    `vae` takes the place of `pipe.vae`: a tiny one of the same family (taesdxl, taef1), or another of its latent space.

    Raises:
        UserError: a pipeline without an image VAE, latents of an unknown layout, or a VAE that does not fit them.
    """
    own = getattr(pipe, "vae", None)
    if own is None and vae is None:
        raise UserError(f"the {type(pipe).__name__} has no VAE; load it with one, or give vae")
    chosen = vae if vae is not None else own
    factor = factor_of(chosen)
    expected = factor_of(own) if own is not None else getattr(pipe, "vae_scale_factor", factor)
    if factor != expected:
        raise UserError(
            f"the {kind_of(chosen)} has {factor} pixels to a cell and the pipeline {expected}; "
            "give the VAE (or the tiny VAE) of the pipeline's own family"
        )
    layout = layout_of(pipe, latents_shape, height, width, num_frames)
    if layout.kind != "packed" and (layout.height, layout.width) != (height // factor, width // factor):
        raise UserError(
            f"the latents {list(latents_shape)} are a grid of {layout.height} x {layout.width}; {height} x {width} "
            f"pixels make {height // factor} x {width // factor}: give the height and width that the pipeline was "
            "called with"
        )
    return Codec(chosen, layout, chunk=chunk, tiled=tiled)


def same_space(one: Codec, other: Codec) -> bool:
    """Whether latents mean the same to both: equal VAE weights, scale and shift. Then no bridge is needed."""
    return one is other or compare_spaces(one.space, other.space).same_latents


def resize(pixels: Tensor, height: int, width: int) -> Tensor:
    """Returns pixels [N, 3, H, W] as [N, 3, height, width], bicubic and antialiased; the same tensor at equal size."""
    if tuple(pixels.shape[-2:]) == (height, width):
        return pixels
    return F.interpolate(pixels, (height, width), mode="bicubic", antialias=True, align_corners=False)


def _plain(numbers: Tensor) -> float | list[float]:
    values = [float(f"{value:.7g}") for value in numbers.flatten().tolist()]  # float32 numbers, as they were written
    return values[0] if len(values) == 1 else values
