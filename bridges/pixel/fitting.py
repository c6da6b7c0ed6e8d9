"""Fitting a noise map to latents of the same pictures in both spaces."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from bridges.pixel.mapped import Mapped, cell_ratio
from w2sd_video.errors import UserError
from w2sd_video.latents.codecs import Codec, resize

CELLS_PER_DIMENSION = 4  # fewer cells than this for each dimension are refused
NO_VARIANCE = 1e-10  # of the largest: a direction of A below it says nothing and is left out of the linear map


class _Sums:
    """First and second moments of paired cells, in float64: thousands of pictures need no more room than one."""

    def __init__(self, ratio: tuple[int, int], dims: tuple[int, int]) -> None:
        self.ratio, self.dims = ratio, dims
        self.num_pictures = self.num_cells = 0
        size = sum(dims)
        self.first = torch.zeros(size, dtype=torch.float64)
        self.second = torch.zeros(size, size, dtype=torch.float64)

    def add(self, a: Tensor, b: Tensor) -> None:
        rows = [F.pixel_unshuffle(grid, side) for grid, side in zip((a, b), self.ratio, strict=True)]
        cells = torch.cat([grid.permute(0, 2, 3, 1).flatten(0, 2).cpu().double() for grid in rows], dim=1)
        self.num_pictures += a.shape[0]
        self.num_cells += cells.shape[0]
        self.first += cells.sum(0)
        self.second += cells.T @ cells

    def covariances(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns those of A, of B, and of B with A."""
        mean = self.first / self.num_cells
        whole = self.second / self.num_cells - torch.outer(mean, mean)
        split = self.dims[0]
        return whole[:split, :split], whole[split:, split:], whole[split:, :split]


def fit(
    pairs: Iterable[tuple[Tensor, Tensor]] | tuple[Tensor, Tensor], *, fingerprints: tuple[str, str] | None = None
) -> Mapped:
    """Returns the semi-orthogonal map nearest to the linear map between paired grids (orthogonal Procrustes).

    `pairs` are grids (a [N, Ca, ha, wa], b [N, Cb, hb, wb]) of the same pictures, one pair or many of one size;
    `fingerprints` name the VAEs they are of. With W the least-squares map of centred cells, b ~ W a, and W = U S V^T,
    P is U V^T. Fitting W first, rather than the cross-covariance alone, is what finds P exactly where B has fewer
    channels than A and those of A are of unequal variance.

    Raises:
        UserError: no pairs, pairs of different sizes, or fewer than 4 cells for each dimension.
    """
    sums: _Sums | None = None
    for a, b in _listed(pairs):
        if a.dim() != 4 or b.dim() != 4 or a.shape[0] != b.shape[0]:
            raise UserError(
                f"a noise map is fitted to grids [N, C, h, w] of the same N pictures; got {list(a.shape)} and "
                f"{list(b.shape)}"
            )
        ratio = cell_ratio(a.shape, b.shape)
        dims = (a.shape[1] * ratio[0] ** 2, b.shape[1] * ratio[1] ** 2)
        sums = sums or _Sums(ratio, dims)
        if (sums.ratio, sums.dims) != (ratio, dims):
            raise UserError(
                f"the pairs differ in their channels or sizes: blocks of {sums.ratio} cells with {sums.dims} "
                f"dimensions first, then {ratio} with {dims}; give pictures of one size"
            )
        sums.add(a, b)
    least = CELLS_PER_DIMENSION * max(sums.dims) if sums is not None else 1
    if sums is None or sums.num_cells < least:
        got = 0 if sums is None else sums.num_cells
        raise UserError(
            f"{got} cells are too few to fit a noise map to; at least {least} are needed: give more pictures"
        )
    return _solve(sums, fingerprints)


def _listed(pairs: Iterable[tuple[Tensor, Tensor]] | tuple[Tensor, Tensor]) -> Iterable[tuple[Tensor, Tensor]]:
    if isinstance(pairs, tuple) and len(pairs) == 2 and isinstance(pairs[0], Tensor) and isinstance(pairs[1], Tensor):
        return [(pairs[0], pairs[1])]
    return pairs  # type: ignore[return-value]


def _solve(sums: _Sums, fingerprints: tuple[str, str] | None) -> Mapped:
    of_a, of_b, across = sums.covariances()
    if not torch.isfinite(of_a).all() or not torch.isfinite(of_b).all():
        raise UserError("the latents are not finite; encode in float32 or bfloat16")
    linear = across @ torch.linalg.pinv(of_a, rtol=NO_VARIANCE, hermitian=True)
    left, _, right = torch.linalg.svd(linear, full_matrices=False)
    p = left @ right
    variance = of_b.trace().item()
    if variance <= 0 or of_a.trace().item() <= 0:
        raise UserError("the latents do not vary: all pictures are one plain colour; give photographs or drawings")
    return Mapped(
        p,
        scale=_deviation(of_b) / _deviation(p @ of_a @ p.T),
        reverse_scale=_deviation(of_a) / _deviation(p.T @ of_b @ p),
        ratio=sums.ratio,
        fingerprints=fingerprints,
        residual=max(0.0, 1 - (linear * across).sum().item() / variance),
        num_pictures=sums.num_pictures,
        num_cells=sums.num_cells,
    )


def _deviation(covariance: Tensor) -> float:
    return math.sqrt(covariance.diagonal().mean().item())


def fit_from_pictures(codec_a: Codec, codec_b: Codec, batches: Iterable[Tensor]) -> Mapped:
    """Returns the map fitted to batches of pixels [N, 3, H, W] in [-1, 1], each side at the size of its codec.

    The codecs' counts of encodings are as they were: they are of the run.

    Raises:
        UserError: as `fit`.
    """

    def pairs() -> Iterable[tuple[Tensor, Tensor]]:
        for pixels in batches:
            a, b = (codec.encode(resize(pixels, codec.height, codec.width)) for codec in (codec_a, codec_b))
            yield a, b

    counts = codec_a.num_encodes, codec_b.num_encodes
    try:
        return fit(pairs(), fingerprints=(codec_a.fingerprint, codec_b.fingerprint))
    finally:
        codec_a.num_encodes, codec_b.num_encodes = counts
