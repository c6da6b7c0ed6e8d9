"""Models that were trained at some noise levels only (LCM, Lightning, Turbo, DMD ...), asked at any level."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from w2sd_video.core.denoisers import Denoiser
from w2sd_video.core.levels import Level
from w2sd_video.core.paths import Path, like


@dataclass(frozen=True)
class TrainedLevels:
    """The noise levels a model was trained at, and what it is taken to predict at all others.

    A latent x at a level that is not one of them is asked about at the level nearest in noise-to-signal ratio. With
    n = sqrt(alpha^2 + sigma^2), a = alpha / n and s = sigma / n of the two levels, the model is passed the latent of
    the same size x * n' / n, and of what it answers the rotated velocity v = (a' x' / n' - x0') / s' is taken over:
    x0 = a x / n - s v. Of data of mean 0 and variance 1 that is exact however far the level is (v is 0 there), of any
    other it is in error by a term of first order in the distance of the levels; on a level of the model's it is the
    model's own answer, bit for bit. Where the two paths differ the ratio says which level is meant all the same.

    (Held fixed instead, a noise prediction is wrong by as much as it says once levels are a factor of 2 apart, and a
    clean estimate by twice to three times the error of v; measured on mixtures, 4 levels for 50 steps.)

    Attributes:
        levels: in any order; None for all levels of a flow.
        path: the model's own.
        num_train_timesteps: what its timestep is at sigma 1, where `levels` is None.
    """

    levels: tuple[Level, ...] | None
    path: Path
    num_train_timesteps: float = 1000

    def nearest(self, level: Level) -> Level:
        """The trained level with the nearest log(sigma / alpha); of two, the noisier one."""
        kappa = level.kappa
        if self.levels is None:
            sigma = 1.0 if math.isinf(kappa) else kappa / (1.0 + kappa)
            return Level(sigma * self.num_train_timesteps, 1.0 - sigma, sigma)
        if math.isinf(kappa):
            return max(self.levels, key=lambda known: known.kappa)
        return min(self.levels, key=lambda known: (abs(known.log_snr - level.log_snr), -known.kappa))

    def has(self, level: Level) -> bool:
        """Whether a level is one of them, to the rounding of a scheduler's float32."""
        near = self.nearest(level)
        return near.kappa == level.kappa or math.isclose(near.kappa, level.kappa, rel_tol=1e-4)

    def passed(self, x: Tensor, level: Level, near: Level) -> Tensor:
        """The latent that the model is passed for ``x`` at ``level``, to be asked at ``near``."""
        return x * (_size(near) / _size(level))

    def answer(self, prediction: Tensor, x: Tensor, level: Level, near: Level, path: Path) -> Tensor:
        """The native prediction of ``path`` at (x, level), given the model's own for `passed` at ``near``."""
        if path == self.path and self.has(level):
            return prediction
        own = self.passed(x, level, near)
        rotated = self.path.rotated(own, like(prediction, own), near)
        return path.unrotated(x, rotated, level)


def at_trained_levels(denoiser: Denoiser, trained: TrainedLevels, path: Path) -> Denoiser:
    """A denoiser of ``path`` at any level, of one of ``trained.path`` that is asked at the levels it was trained at."""

    def asked(x: Tensor, level: Level) -> Tensor:
        near = trained.nearest(level)
        if path == trained.path and trained.has(level):
            return denoiser(x, near)
        return trained.answer(denoiser(trained.passed(x, level, near), near), x, level, near, path)

    return asked


def _size(level: Level) -> float:
    return math.hypot(level.alpha, level.sigma)
