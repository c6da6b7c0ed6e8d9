"""Noise levels: points (timestep, alpha, sigma) of a diffusion with x = alpha * x0 + sigma * noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Level:
    """One noise level: a latent at it is ``alpha * x0 + sigma * noise``.

    Numbers are kept as Python floats (tensor and NumPy scalars are converted here, once), so that a sampling loop
    never has to read a coefficient back from a device.

    Args:
        timestep: the timestep passed to the network; the scheduler's own number, an int or a float.
        alpha: signal scale, finite and >= 0 (0 only for pure noise).
        sigma: noise scale, finite and >= 0 (0 only for clean data); alpha and sigma are not both 0.

    Raises:
        ValueError: alpha or sigma is negative or not finite, or both are 0.
    """

    timestep: float | int
    alpha: float
    sigma: float

    def __post_init__(self) -> None:
        timestep = self.timestep.item() if hasattr(self.timestep, "item") else self.timestep
        object.__setattr__(self, "timestep", timestep)
        object.__setattr__(self, "alpha", float(self.alpha))
        object.__setattr__(self, "sigma", float(self.sigma))
        numbers = (timestep, self.alpha, self.sigma)
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError(f"a noise level needs finite numbers, got {self}")
        if self.alpha < 0 or self.sigma < 0 or self.alpha == self.sigma == 0:
            raise ValueError(f"a noise level needs alpha >= 0 and sigma >= 0, not both 0, got {self}")

    @property
    def kappa(self) -> float:
        """The noise-to-signal ratio sigma / alpha; infinite for pure noise."""
        return math.inf if self.alpha == 0 else self.sigma / self.alpha

    @property
    def log_snr(self) -> float:
        """The log signal-to-noise ratio 2 log(alpha / sigma); -inf for pure noise, +inf for clean data."""
        if self.sigma == 0:
            return math.inf
        return -math.inf if self.alpha == 0 else 2.0 * (math.log(self.alpha) - math.log(self.sigma))


def check_chain(levels: Sequence[Level]) -> None:
    """Check that ``levels`` is a sampling grid: at least two levels, sigma / alpha strictly decreasing.

    Raises:
        ValueError: naming the level that does not come after the one before it.
    """
    if len(levels) < 2:
        raise ValueError(
            f"a sampling grid needs at least 2 levels (the start and the end of one step), got {len(levels)}"
        )
    for i in range(len(levels) - 1):
        start, end = levels[i], levels[i + 1]
        if not start.kappa > end.kappa:
            raise ValueError(
                f"levels must run from noisy to clean with sigma/alpha strictly decreasing, but level {i} is {start} "
                f"(sigma/alpha {start.kappa:.6g}) and level {i + 1} is {end} (sigma/alpha {end.kappa:.6g}); "
                "sort the levels noisiest first and drop repeated ones"
            )
