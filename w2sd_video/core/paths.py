"""Paths: how a latent moves between two noise levels while the network's native prediction is held constant.

A step over an interval of levels is affine, ``x_end = keep * x + move * prediction``. Its direction is only the order
of the two ends: noisy to clean denoises, clean to noisy inverts, and with one prediction the two are exact inverses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from w2sd_video.core.levels import Level


class Path(Protocol):
    """What sampling needs of a path; `NoisePath` and `FlowPath` are the two there are."""

    def check(self, levels: Sequence[Level]) -> None: ...

    def coefficients(self, start: Level, end: Level) -> tuple[float, float]: ...

    def gap_coefficient(self, start: Level, end: Level) -> float: ...

    def gap_growth(self, level: Level) -> float: ...

    def native_gap(self, level: Level) -> float: ...

    def clean_coefficient(self, start: Level, end: Level) -> float: ...

    def step(self, x: Tensor, prediction: Tensor, start: Level, end: Level) -> Tensor: ...

    def clean(self, x: Tensor, prediction: Tensor, level: Level) -> Tensor: ...

    def noise(self, x: Tensor, prediction: Tensor, level: Level) -> Tensor: ...

    def renoise(self, x0: Tensor, noise: Tensor, level: Level) -> Tensor: ...

    def rotated(self, x: Tensor, prediction: Tensor, level: Level) -> Tensor: ...

    def unrotated(self, x: Tensor, velocity: Tensor, level: Level) -> Tensor: ...


@final
@dataclass(frozen=True)
class NoisePath:
    """Holds the predicted noise eps constant: DDIM, and Euler on sigmas when alpha is 1 throughout."""

    def check(self, levels: Sequence[Level]) -> None:
        """Raise ValueError if some level has alpha 0, from which eps alone cannot make a step."""
        for i, level in enumerate(levels):
            if level.alpha == 0:
                raise ValueError(
                    f"level {i} is {level}: a noise prediction cannot leave pure noise (alpha 0); "
                    "give the first level a small alpha > 0, or use FlowPath with a velocity prediction"
                )

    def coefficients(self, start: Level, end: Level) -> tuple[float, float]:
        """The (keep, move) of ``keep * x + move * eps``: r = alpha_end / alpha_start, and sigma_end - r sigma_start."""
        keep = end.alpha / start.alpha
        return keep, end.sigma - keep * start.sigma

    def gap_coefficient(self, start: Level, end: Level) -> float:
        """The c of ``x~ - x = c * (eps_weak - eps_strong)``: alpha_start * (kappa_start - kappa_end) (Eq. 5)."""
        return start.sigma - start.alpha * end.sigma / end.alpha

    def gap_growth(self, level: Level) -> float:
        """How eps_weak - eps_strong varies over the levels, up to a factor: alpha * sigma / (alpha^2 + sigma^2).

        Exact, wherever the latent, for two models of Gaussian data of variance 1 whose means differ.
        """
        return level.alpha * level.sigma / (level.alpha**2 + level.sigma**2)

    def native_gap(self, level: Level) -> float:
        """The c of ``eps_weak - eps_strong = c * (x0_weak - x0_strong)``."""
        return -level.alpha / level.sigma

    def clean_coefficient(self, start: Level, end: Level) -> float:
        """The c of ``x~ - x = c * (x0_weak - x0_strong)``: Eq. 5 with eps = (x - alpha * x0) / sigma put in."""
        return self.native_gap(start) * self.gap_coefficient(start, end)

    def step(self, x: Tensor, prediction: Tensor, start: Level, end: Level) -> Tensor:
        """Move ``x`` from ``start`` to ``end`` along eps; any shape, the result has the dtype of ``x``."""
        keep, move = self.coefficients(start, end)
        return torch.add(x * keep, like(prediction, x), alpha=move)

    def clean(self, x: Tensor, prediction: Tensor, level: Level) -> Tensor:
        """The x0 estimate ``(x - sigma * eps) / alpha`` of ``x`` at ``level``."""
        return torch.sub(x, like(prediction, x), alpha=level.sigma) / level.alpha

    def noise(self, x: Tensor, prediction: Tensor, level: Level) -> Tensor:
        """The noise estimate of ``x`` at ``level``: eps itself."""
        return like(prediction, x)

    def renoise(self, x0: Tensor, noise: Tensor, level: Level) -> Tensor:
        """The latent ``alpha * x0 + sigma * noise`` at ``level``."""
        return torch.add(x0 * level.alpha, like(noise, x0), alpha=level.sigma)

    def rotated(self, x: Tensor, prediction: Tensor, level: Level) -> Tensor:
        """The velocity (alpha * eps - sigma * x0) / n that eps says, n = sqrt(alpha^2 + sigma^2); 0 for white data."""
        n = math.hypot(level.alpha, level.sigma)
        return torch.sub(like(prediction, x), x, alpha=level.sigma / n**2) * (n / level.alpha)

    def unrotated(self, x: Tensor, velocity: Tensor, level: Level) -> Tensor:
        """The eps that such a velocity says."""
        n = math.hypot(level.alpha, level.sigma)
        return torch.add(like(velocity, x) * (level.alpha / n), x, alpha=level.sigma / n**2)


@final
@dataclass(frozen=True)
class FlowPath:
    """Holds the predicted velocity v = noise - x0 constant: flow matching with alpha = 1 - sigma."""

    def check(self, levels: Sequence[Level]) -> None:
        """Raise ValueError if some level is off the straight path alpha = 1 - sigma by over 1e-6 (float32 grids)."""
        for i, level in enumerate(levels):
            if abs(level.alpha + level.sigma - 1.0) > 1e-6:
                raise ValueError(
                    f"level {i} is {level}: flow matching needs alpha = 1 - sigma, but they sum to "
                    f"{level.alpha + level.sigma:.8g}; use NoisePath for a variance-preserving schedule"
                )

    def coefficients(self, start: Level, end: Level) -> tuple[float, float]:
        """The (keep, move) of ``x_end = keep * x + move * v``: 1 and sigma_end - sigma_start."""
        return 1.0, end.sigma - start.sigma

    def gap_coefficient(self, start: Level, end: Level) -> float:
        """The c of ``x~ - x = c * (v_weak - v_strong)``: sigma_start - sigma_end (Eq. 5)."""
        return start.sigma - end.sigma

    def gap_growth(self, level: Level) -> float:
        """How v_weak - v_strong varies over the levels, up to a factor: sigma / (alpha^2 + sigma^2).

        Exact, wherever the latent, for two models of Gaussian data of variance 1 whose means differ.
        """
        return level.sigma / (level.alpha**2 + level.sigma**2)

    def native_gap(self, level: Level) -> float:
        """The c of ``v_weak - v_strong = c * (x0_weak - x0_strong)``."""
        return -1.0 / level.sigma

    def clean_coefficient(self, start: Level, end: Level) -> float:
        """The c of ``x~ - x = c * (x0_weak - x0_strong)``: Eq. 5 with v = (x - x0) / sigma put in."""
        return self.native_gap(start) * self.gap_coefficient(start, end)

    def step(self, x: Tensor, prediction: Tensor, start: Level, end: Level) -> Tensor:
        """Move ``x`` from ``start`` to ``end`` along v; any shape, the result has the dtype of ``x``.

        Product and sum are rounded each, as `FlowMatchEulerDiscreteScheduler` does, where one fused operation would
        round once: without reflections a pipeline's own latents are had bit for bit.
        """
        return x + like(prediction, x) * (end.sigma - start.sigma)

    def clean(self, x: Tensor, prediction: Tensor, level: Level) -> Tensor:
        """The x0 estimate ``x - sigma * v`` of ``x`` at ``level``."""
        return torch.sub(x, like(prediction, x), alpha=level.sigma)

    def noise(self, x: Tensor, prediction: Tensor, level: Level) -> Tensor:
        """The noise estimate ``x + alpha * v`` of ``x`` at ``level``."""
        return torch.add(x, like(prediction, x), alpha=level.alpha)

    def renoise(self, x0: Tensor, noise: Tensor, level: Level) -> Tensor:
        """The latent ``alpha * x0 + sigma * noise`` at ``level``."""
        return torch.add(x0 * level.alpha, like(noise, x0), alpha=level.sigma)

    def rotated(self, x: Tensor, prediction: Tensor, level: Level) -> Tensor:
        """The velocity (alpha * eps - sigma * x0) / n that v says, n = sqrt(alpha^2 + sigma^2); 0 for white data."""
        n, total = math.hypot(level.alpha, level.sigma), level.alpha + level.sigma
        return torch.sub(like(prediction, x), x, alpha=(level.sigma - level.alpha) / n**2) * (n / total)

    def unrotated(self, x: Tensor, velocity: Tensor, level: Level) -> Tensor:
        """The v that such a velocity says."""
        n, total = math.hypot(level.alpha, level.sigma), level.alpha + level.sigma
        return torch.add(like(velocity, x) * (total / n), x, alpha=(level.sigma - level.alpha) / n**2)


def like(prediction: Tensor, x: Tensor) -> Tensor:
    """``prediction`` in the dtype of ``x``; ValueError if its shape differs (it would broadcast silently)."""
    if prediction.shape != x.shape:
        raise ValueError(
            f"the network's prediction has shape {tuple(prediction.shape)}, the latent {tuple(x.shape)}; "
            "a denoiser must return one value per latent value (split off a predicted variance first)"
        )
    return prediction.to(x.dtype)


def by_sample(values: Tensor, x: Tensor) -> Tensor:
    """A value per sample [B], to combine with latents [B, ...]."""
    return values.reshape(-1, *[1] * (x.dim() - 1))


def renoised(x: Tensor, start: Level, end: Level, noise: Tensor) -> Tensor:
    """The latent at the noisier level ``end`` of a diffusion that has reached ``x`` at ``start``: q(x_end | x_start).

    ``r * x + sqrt(sigma_end^2 - r^2 sigma_start^2) * noise`` with r = alpha_end / alpha_start, on either path.
    """
    keep = end.alpha / start.alpha
    return torch.add(x * keep, like(noise, x), alpha=math.sqrt(end.sigma**2 - (keep * start.sigma) ** 2))
