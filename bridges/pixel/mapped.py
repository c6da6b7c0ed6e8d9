"""The fitted noise map: a semi-orthogonal matrix from the channels of a cell in one space to those in another."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vbench_eval.files import write_bytes
from w2sd_video.errors import UserError
from w2sd_video.latents.codecs import Codec

FORMAT, VERSION = "w2sd-noise-map", "1"
SAVED = ("ratio", "scale", "reverse_scale", "fingerprints", "residual", "num_pictures", "num_cells")


@dataclass(frozen=True, eq=False)
class Mapped:
    """Each cell's (or block of cells') channels through one semi-orthogonal matrix, so that white noise stays white.

    `matrix` is P [Cb * q * q, Ca * p * p], float64, with `ratio` = (p, q): blocks of p x p cells of A belong to blocks
    of q x q cells of B (one of them is 1). P P^T = I, or P^T P = I where B has the more dimensions: the directions of B
    that P does not reach then get unit noise that is drawn once from `seed` and is the same at each step.

    `scale` is std(b) / std(P a) over the pictures it was fitted to and `reverse_scale` the same from B to A; `residual`
    is the share of b's variance that the best linear map of a leaves unexplained: 0 says the spaces are one up to that
    map, 1 that a cell of A says nothing of its cell in B.
    """

    matrix: Tensor
    scale: float | None
    ratio: tuple[int, int] = (1, 1)
    fingerprints: tuple[str, str] | None = None  # of the codecs of A and B
    reverse_scale: float | None = None
    residual: float | None = None
    num_pictures: int = 0
    num_cells: int = 0
    seed: int = 0
    name = "mapped"

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", self.matrix.detach().to("cpu", torch.float64))
        if self.matrix.dim() != 2 or not torch.isfinite(self.matrix).all():
            raise UserError("the matrix of a noise map must have two dimensions and finite numbers; fit it again")
        if 1 not in self.ratio or min(self.ratio) < 1 or not all(0 < s < math.inf for s in self._scales()):
            raise UserError(
                f"a noise map has a ratio of blocks with a 1 in it and scales above 0; got {self.ratio}, {self.scale} "
                f"and {self.reverse_scale}; fit it again"
            )
        wide = self.matrix if self.matrix.shape[0] <= self.matrix.shape[1] else self.matrix.T
        error = (wide @ wide.T - torch.eye(len(wide), dtype=torch.float64)).abs().max().item()
        if error > 1e-6:
            raise UserError(
                f"the noise map is not semi-orthogonal (off by {error:.1e}): white noise would not stay "
                "white; fit it again"
            )

    def __call__(self, noise: Tensor, shape: torch.Size) -> Tensor:
        """Returns noise [N, Ca, ha, wa] of A as a grid [N, Cb, hb, wb] (`shape`) of B.

        Raises:
            UserError: grids whose channels or ratio of sizes are not those the map was fitted to.
        """
        ratio = cell_ratio(noise.shape, shape)
        dims = (shape[1] * ratio[1] ** 2, noise.shape[1] * ratio[0] ** 2)
        if ratio != self.ratio or dims != tuple(self.matrix.shape):
            raise UserError(
                f"the noise map is for blocks of {self.ratio[0]} x {self.ratio[0]} cells onto {self.ratio[1]} x "
                f"{self.ratio[1]} ({self.matrix.shape[1]} to {self.matrix.shape[0]} dimensions), but the grids are "
                f"{list(noise.shape)} and {list(shape)}; fit one at these sizes"
            )
        p = self.matrix.to(noise.device, noise.dtype)
        mapped = torch.einsum("ba,nahw->nbhw", p, F.pixel_unshuffle(noise, ratio[0]))
        if p.shape[0] > p.shape[1]:
            own = seeded_noise(self.seed, 0, mapped.shape).to(noise)
            mapped = mapped + own - torch.einsum("ba,ca,nchw->nbhw", p, p, own)
        return F.pixel_shuffle(mapped, ratio[1])

    def _scales(self) -> list[float]:
        return [scale for scale in (self.scale, self.reverse_scale) if scale is not None]

    def reset(self) -> None:
        """Nothing to begin again: the directions that P does not reach have the same noise in every run of a seed."""

    def reversed(self) -> Mapped:
        """Returns the map from B to A: the transpose."""
        prints = self.fingerprints
        return replace(
            self,
            matrix=self.matrix.T.contiguous(),
            scale=self.reverse_scale,
            reverse_scale=self.scale,
            ratio=(self.ratio[1], self.ratio[0]),
            fingerprints=None if prints is None else (prints[1], prints[0]),
            residual=None,
        )

    def check(self, a: Codec, b: Codec) -> None:
        """Raises UserError where the map was fitted for other VAEs than those of the codecs `a` (strong) and `b`."""
        dims = (b.channels * self.ratio[1] ** 2, a.channels * self.ratio[0] ** 2)
        if self.fingerprints is None:
            if dims != tuple(self.matrix.shape):
                raise UserError(
                    f"the noise map takes {self.matrix.shape[1]} dimensions to {self.matrix.shape[0]}; these VAEs have "
                    f"{dims[1]} and {dims[0]}: fit it for them"
                )
            return
        got = (a.fingerprint, b.fingerprint)
        if got == self.fingerprints:
            return
        again = "fit it again with these VAEs (fit_from_pictures, or w2sd bridge fit)"
        if (got[1], got[0]) == self.fingerprints:
            raise UserError(
                "the noise map was fitted the other way round (weak to strong); use its reversed(), or "
                "fit one this way round (w2sd bridge fit)"
            )
        sides = [
            f"the {side} side's is {mine}, fitted was {fitted}"
            for side, mine, fitted in zip(("strong", "weak"), got, self.fingerprints, strict=True)
            if mine != fitted
        ]
        raise UserError(
            f"the noise map was fitted for other VAEs: {' and '.join(sides)}; {again}. A tiny VAE, and one loaded as "
            "float16, count as others"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file: the matrix, and all else in its metadata.

        Raises:
            UserError: a map that does not know the VAEs it was fitted for; nobody could check it.
        """
        from safetensors.torch import save

        if self.fingerprints is None:
            raise UserError(
                "the noise map does not know its VAEs; give fit(..., fingerprints=(a, b)) or fit_from_pictures"
            )
        known = {name: json.dumps(getattr(self, name)) for name in SAVED}
        metadata = {"format": FORMAT, "version": VERSION, **known}
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, save({"matrix": self.matrix.contiguous()}, metadata))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, seed: int = 0) -> Mapped:
        """Returns the map that `save` wrote.

        Raises:
            UserError: no such file, a damaged one, or one that is something else.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise UserError(f"there is no noise map at {path}; fit one (fit_from_pictures) and save it there")
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise UserError(f"{path} is not a noise map (no format {FORMAT!r} in its header); fit one")
                if metadata.get("version") != VERSION:
                    raise UserError(
                        f"the noise map {path} has version {metadata.get('version')}, not {VERSION}; fit it again"
                    )
                known = {name: json.loads(metadata[name]) for name in SAVED}
                known["ratio"], known["fingerprints"] = tuple(known["ratio"]), tuple(known["fingerprints"])
                return cls(file.get_tensor("matrix"), seed=seed, **known)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"the noise map {path} is damaged ({error}); fit it again") from error


def cell_ratio(a: Sequence[int], b: Sequence[int]) -> tuple[int, int]:
    """Returns (p, q): blocks of p x p cells of grids [N, C, h, w] of shape `a` belong to q x q of shape `b`.

    Raises:
        UserError: where neither divides the other, or not alike in height and width.
    """
    (ha, wa), (hb, wb) = a[-2:], b[-2:]
    if ha % hb == 0 and wa == ha // hb * wb:
        return ha // hb, 1
    if hb % ha == 0 and wb == hb // ha * wa:
        return 1, hb // ha
    raise UserError(
        f"the grids are {ha} x {wa} and {hb} x {wb}; a noise map needs one to be a whole multiple of the other, alike "
        "in height and width: choose such sizes, or paired noise, which needs no map"
    )


def seeded_noise(seed: int, call: int | str, shape: Sequence[int]) -> Tensor:
    """Returns unit noise of `shape` on the CPU in float32; a row is the same in a batch of any size.

    The seed is hashed: a pipeline whose generator has the same one starts from other noise.
    """
    digest = hashlib.sha256(f"noise map {seed} {call}".encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.stack([torch.randn(tuple(shape[1:]), generator=generator) for _ in range(shape[0])])
