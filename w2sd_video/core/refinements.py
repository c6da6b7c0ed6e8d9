"""Settings of a reflection beyond the paper's: which steps are reflected, and how far one may move a latent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from w2sd_video.core.levels import Level
from w2sd_video.core.paths import Path
from w2sd_video.core.reflection import Denoiser, Together, reflect, reflect_fused, reflect_release

MOST_FIXED_POINTS = 2

Draw = Callable[[Tensor], Tensor]
"""Standard normal noise of the shape, dtype and device of a latent."""


@dataclass(frozen=True)
class Refinements:
    """What may differ from Algorithm 1 in the reflections of a run; as given here, nothing does.

    Attributes:
        every: reflect each k-th of the steps that would be reflected, from the noisiest on; 1 is all. Saves 2
            evaluations a step left out.
        window: the part of the sampling steps, as fractions from the noisiest step (0) to the end (1), outside which
            none is reflected; step i of T counts as i / T. Early reflections decide what a sample becomes.
        fixed_point: iterations, 0 to 2, that bring an inversion in mode "paper" nearer to exact: an evaluation of the
            weak model each. The iterate with the least known residual is kept, sample by sample. No iteration where
            none converges: from pure noise, and from clean data. May do harm below about 20 steps.
        noise: k of Eq. 35 as the standard deviation, in latent units, of noise added to each x~; a study of what
            errors of inversion cost (Table 14). Eq. 35 puts k inside a coefficient so small that the k of Table 14
            could not matter; here it is absolute.
        cap: the most that a reflection may move a sample, as the root mean square of x~ - x in latent units; a longer
            move is shortened to it. For weak models whose score has no bound where the strong model's samples are.

    Raises:
        ValueError: a value outside these ranges.
    """

    every: int = 1
    window: tuple[float, float] = (0.0, 1.0)
    fixed_point: int = 0
    noise: float = 0.0
    cap: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise ValueError(f"every is {self.every!r}; it must be a whole number of steps, 1 (all of them) or more")
        window = tuple(self.window)
        if len(window) != 2 or not 0 <= window[0] < window[1] <= 1:
            raise ValueError(
                f"window is {self.window!r}; it must be two fractions of the steps, such as (0.0, 0.5) for the "
                "noisier half"
            )
        object.__setattr__(self, "window", window)
        whole = isinstance(self.fixed_point, int) and not isinstance(self.fixed_point, bool)
        if not (whole and 0 <= self.fixed_point <= MOST_FIXED_POINTS):
            raise ValueError(
                f"fixed_point is {self.fixed_point!r}; it must be 0, 1 or 2 (more iterations diverge at few steps)"
            )
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise ValueError(f"noise is {self.noise}; it must be a standard deviation, 0 (none) or more")
        if self.cap is not None and not (math.isfinite(self.cap) and self.cap > 0):
            raise ValueError(f"cap is {self.cap}; it must be a root mean square above 0, or None for no cap")

    def check(self, mode: str) -> None:
        """Raise ValueError for settings that reflections of this mode have not."""
        if self.fixed_point and mode != "paper":
            raise ValueError(
                f'fixed_point refines the inversion of mode "paper", and mode {mode!r} is not made of one; '
                "leave fixed_point at 0"
            )

    def check_steps_only(self, sampler: str) -> None:
        """Raise ValueError unless all that differs is which steps are reflected."""
        if replace(self, every=1, window=(0.0, 1.0)) != Refinements():
            raise ValueError(
                f"fixed_point, noise and cap are of W2SD's move, which {sampler} does not make; leave them out"
            )

    def steps(self, num_steps: int, num_reflections: int) -> tuple[int, ...]:
        """The reflected ones of T steps, of which the first lambda would be."""
        first, end = (math.ceil(edge * num_steps - 1e-9) for edge in self.window)
        return tuple(range(first, min(end, num_reflections), self.every))

    @property
    def anywhere(self) -> Refinements:
        """These settings of the move alone, for every step."""
        return replace(self, every=1, window=(0.0, 1.0))

    def moved(self, x: Tensor, tilde: Tensor, draw: Draw) -> Tensor:
        """x~ under `cap` and `noise`, for latents [B, ...] at one level."""
        if self.cap is not None:
            move = tilde - x
            size = torch.linalg.vector_norm(move.reshape(len(x), -1), dim=1) / math.sqrt(move[0].numel())
            size = size.reshape(-1, *[1] * (x.dim() - 1))
            # The comparison is of sizes: the share of one below the cap may be rounded to less than 1.
            tilde = torch.where(size > self.cap, torch.addcmul(x, move, self.cap / size.clamp_min(self.cap)), tilde)
        return torch.add(tilde, draw(x), alpha=self.noise) if self.noise else tilde


AS_PRINTED = Refinements()


def reflected_latent(
    x: Tensor,
    levels: Sequence[Level],
    strong: Denoiser,
    weak: Denoiser,
    path: Path,
    *,
    mode: str = "paper",
    strength: float = 1.0,
    refinements: Refinements = AS_PRINTED,
    together: Together | None = None,
    draw: Draw = torch.randn_like,
) -> Tensor:
    """The reflected latent x~ of one step from ``levels[0]`` to ``levels[1]``, in any mode, with its refinements.

    Arguments as for `w2sd`; mode "release" needs ``levels[2]``.
    """
    start, end = levels[:2]
    if mode == "fused":
        tilde = reflect_fused(x, start, end, strong, weak, path, strength=strength, together=together)
    else:
        if mode == "release":
            tilde = reflect_release(x, start, end, levels[2], strong, weak, path)
        else:
            tilde = reflect(x, start, end, strong, weak, path, fixed_point=refinements.fixed_point)
        tilde = tilde if strength == 1 else torch.lerp(x, tilde, float(strength))
    return refinements.moved(x, tilde, draw)


@final
class Lagging:
    """The strong model's prediction of the main step before, in place of its own in each reflection.

    An approximation that saves one evaluation for each reflection: that prediction is of another latent at a noisier
    level, so equal models no longer leave a latent as it is. Make a new one for each run.
    """

    def __init__(self) -> None:
        self._last: Tensor | None = None

    def remembering(self, strong: Denoiser) -> Denoiser:
        """The denoiser of the main steps, whose predictions are kept."""

        def remembered(x: Tensor, level: Level) -> Tensor:
            self._last = strong(x, level)
            return self._last

        return remembered

    def recalled(self, strong: Denoiser) -> Denoiser:
        """The denoiser of the reflections: the last prediction, whatever it is asked; before any, its own."""
        return lambda x, level: strong(x, level) if self._last is None else self._last


def num_evaluations(
    num_steps: int, reflected: Sequence[int] | int, *, fixed_points: int = 0, lagging: bool = False
) -> int:
    """The evaluations of a W2SD run (a guided evaluation counts once): T + 2 lambda, and what refinements change.

    Args:
        num_steps: T.
        reflected: the reflected steps (`Refinements.steps`), or how many there are, from the noisiest.
        fixed_points: fixed-point iterations of the whole run.
        lagging: whether the strong model's predictions in reflections are those of the steps before.
    """
    steps = range(reflected) if isinstance(reflected, int) else reflected
    saved = sum(step > 0 for step in steps) if lagging else 0
    return num_steps + 2 * len(steps) + fixed_points - saved
