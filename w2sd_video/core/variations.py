"""What the algorithms lean on (checks, exacter inversions, bounds on the move, how a reward chooses), and what goes
beyond them: cached gaps, and the published code's own inversion.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import final

import torch
from torch import Tensor

from w2sd_video.core.denoisers import Denoiser, GapDenoiser, NoiseSampler
from w2sd_video.core.levels import Level, check_chain
from w2sd_video.core.options import AUTO, ReflectionConfig
from w2sd_video.core.paths import Path, by_sample, like
from w2sd_video.errors import UserError

Reward = Callable[[Tensor], Tensor]
"""A number per sample [B], higher is better, of clean estimates [B, ...]."""

NOT_PLACED = (
    "gap_every is 'auto', which the commands place on a few samples of the run; here give the steps themselves: sample "
    "some with config=config.with_fresh_gaps(num_steps) and on_reflect=GapTurns() of core.placing, whose "
    "steps(config, num_steps) they are; or take an even gap_every such as 2"
)

Still = Callable[[Tensor], Tensor]
"""The mean over its frames of a video's move, of a shape that broadcasts to it."""


def mean_over_frames(move: Tensor) -> Tensor:
    """The mean [B, C, 1, H, W] of a move [B, C, F, H, W]; ValueError for latents that are no video."""
    if move.dim() != 5 or move.shape[2] < 2:
        raise ValueError(
            f"motion_strength is for videos, latents [B, C, F, H, W] of 2 frames or more; got {tuple(move.shape)}"
        )
    return move.mean(dim=2, keepdim=True)


def ready(x: Tensor, levels: Sequence[Level], path: Path) -> Tensor:
    """``x`` in float32 or better; ValueError for levels that are no sampling grid of ``path``, or integers."""
    check_chain(levels)
    path.check(levels)
    if not x.is_floating_point():
        raise ValueError(f"the latent must be a floating-point tensor, got {x.dtype}")
    return x.to(torch.promote_types(x.dtype, torch.float32))


def reflected_steps(levels: Sequence[Level], options: ReflectionConfig, method: str) -> tuple[int, ...]:
    """The steps that a method reflects; ValueError for levels or settings with which it cannot."""
    check_chain(levels)
    options.check_method(method)
    options.check_levels(levels, method)
    return options.steps(len(levels) - 1, method)


def invert(lower: Tensor, start: Level, end: Level, weak: Denoiser, path: Path, *, fixed_point: int = 0) -> Tensor:
    """The latent at ``start`` whose step to ``end`` leads to ``lower``, to first order (Eq. 4) or better.

    Eq. 4 asks the network at ``lower`` for what a step asks it at the latent sought: its error E_t (Eq. 33). Each
    fixed-point iteration asks again at the latent found. Iterations contract by about 1 - kappa_end / kappa_start a
    step where noise dominates and may diverge between modes, so the iterate of the least known residual is kept, sample
    by sample [B, ...]; the last, whose residual is not known, only if the one before it did not diverge.

    Args:
        fixed_point: iterations, an evaluation each; none where they cannot converge (`converges`).
    """
    found = path.step(lower, weak(lower, start), end, start)
    if not fixed_point or not converges(start, end):
        return found
    kept, least = found, torch.full((len(lower),), torch.inf, dtype=lower.dtype, device=lower.device)
    smaller = torch.zeros_like(least, dtype=torch.bool)
    for _ in range(fixed_point):
        after = path.step(lower, weak(found, start), end, start)
        residual = torch.linalg.vector_norm((after - found).reshape(len(lower), -1), dim=1)  # of `found`, [B]
        smaller = residual < least
        kept = torch.where(by_sample(smaller, lower), found, kept)
        least, found = torch.minimum(residual, least), after
    return torch.where(by_sample(smaller, lower), found, kept)


def converges(start: Level, end: Level) -> bool:
    """Whether fixed-point iterations can make the inversion end -> start exact: not from pure noise or clean data."""
    return start.alpha > 0 and end.sigma > 0


def aligned(noise: Tensor, move: Tensor, sign: int) -> Tensor:
    """The noise [B, ...] of each sample, turned round where its cosine with ``move`` has not this sign.

    The same distribution as drawing anew until it has. The push along the move is sqrt(2 / pi) standard deviations of
    the noise, whatever the size of the move.
    """
    along = (noise * move).reshape(len(noise), -1).sum(1) * sign
    return noise * by_sample(torch.where(along < 0, -1.0, 1.0).to(noise.dtype), noise)


def bounded(
    x: Tensor, tilde: Tensor, options: ReflectionConfig, noise_sampler: NoiseSampler, still: Still = mean_over_frames
) -> Tensor:
    """x~ under the options' ``motion_strength``, ``cap`` and ``noise`` (Eq. 35), for latents [B, ...] at one level."""
    if options.motion_strength != 1:
        move = tilde - x
        alike = still(move)
        tilde = x + torch.add(alike, move - alike, alpha=options.motion_strength)
    if options.cap is not None:
        move = tilde - x
        size = torch.linalg.vector_norm(move.reshape(len(x), -1), dim=1) / math.sqrt(move[0].numel())
        size = by_sample(size, x)
        # The comparison is of sizes: the share of one below the cap may be rounded to less than 1.
        capped = torch.addcmul(x, move, options.cap / size.clamp_min(options.cap))
        tilde = torch.where(size > options.cap, capped, tilde)
    return torch.add(tilde, noise_sampler(x), alpha=options.noise) if options.noise else tilde


def reflect_release(
    x: Tensor, start: Level, end: Level, after: Level, strong: Denoiser, weak: Denoiser, path: Path
) -> Tensor:
    """Mode "release", for the published code's images only: its inversion has the coefficients of after -> end, one
    level below end -> start, as DDIMInverseScheduler reads `timesteps[i + 1]` as the level to arrive at."""
    lower = path.step(x, strong(x, start), start, end)
    return path.step(lower, weak(lower, start), after, end)


@final
@dataclass
class CachedGap:
    """W2SD at nearly the price of plain sampling: ``x~ = x + strength * c * g``, g the gap of a sampling step before.

    The setting ``gap_every``, in mode "fused"; sample with `strong`. The gap is ``measured`` at the latent where the
    sampling step asks the strong model anyway, T + lambda / k evaluations, and moves the next k reflections, scaled
    from the level it was measured at to theirs (`Path.gap_growth`). What it changes over the steps between is of first
    order in their size, so that samples differ from those of mode "fused" by a first order too. Equal models move
    nothing, bit for bit. With k 1 this is akin to auto-guidance of the first lambda - 1 steps (Eq. 38), and the same
    but for that scaling on a grid of equal flow steps. Where there is no gap to measure (a weak side in another latent
    space may know no level so noisy), the next step measures it.
    """

    levels: Sequence[Level]
    plain: Denoiser
    measured: GapDenoiser
    path: Path
    options: ReflectionConfig
    _: KW_ONLY
    noise_sampler: NoiseSampler = torch.randn_like
    still: Still = mean_over_frames

    def __post_init__(self) -> None:
        if self.options.gap_every == AUTO:
            raise UserError(NOT_PLACED)
        self.steps = reflected_steps(self.levels, self.options, "w2sd")
        self._asked = {self.levels[i] for i in self.options.gap_steps(len(self.levels) - 1)}
        self._cached: tuple[Level, Tensor] | None = None

    def strong(self, x: Tensor, level: Level) -> Tensor:
        """The prediction of a sampling step; at some of them the gap is measured and kept."""
        if level not in self._asked:
            return self.plain(x, level)
        prediction, gap = self.measured(x, level)
        if gap is not None:
            self._cached = level, gap
        elif (after := self.levels.index(level) + 1) < max(self.steps):
            self._asked.add(self.levels[after])
        return prediction

    def reflect(self, i: int, x: Tensor) -> Tensor | None:
        if i not in self.steps or self._cached is None:
            return None
        start, end = self.levels[i : i + 2]
        level, gap = self._cached
        growth = self.path.gap_growth(start) / self.path.gap_growth(level)
        coefficient = self.options.strength * self.path.gap_coefficient(start, end) * growth
        tilde = torch.add(x, like(gap, x), alpha=coefficient)
        return bounded(x, tilde, self.options, self.noise_sampler, self.still)


@final
class Selector:
    """Which of two models is the stronger one for each sample; the first until a reward has told them apart.

    Rewards no further apart than the threshold are a tie, which keeps what was chosen before (the printed algorithm
    then takes the second model, whatever the rewards said so far). Make a new one for each run.

    Args:
        reward: see `Reward`; called twice a selection, for the estimates of the first and of the second model.
        threshold: eps_r of Alg. 2, in the reward's own units, 0 or more.

    Attributes:
        choices: of each selection so far, whether the second model is the stronger one, [B] booleans on
            the host.

    Raises:
        ValueError: a negative threshold; in a selection, rewards that are not one finite number per sample.
    """

    def __init__(self, reward: Reward, threshold: float = 0.0) -> None:
        if not (math.isfinite(threshold) and threshold >= 0):
            raise ValueError(f"the reward's threshold is {threshold}; it must be 0 or more")
        self._reward, self._threshold = reward, threshold
        self.choices: list[Tensor] = []

    def select(self, first: Tensor, second: Tensor) -> Tensor:
        """Choose by the two models' clean estimates [B, ...]: whether the second is the stronger one, [B]."""
        of_first, of_second = self._rewards(first), self._rewards(second)
        lead = of_second - of_first
        before = self.choices[-1] if self.choices else torch.zeros_like(lead, dtype=torch.bool)
        self.choices.append(torch.where(lead.abs() > self._threshold, lead > 0, before))
        return self.choices[-1]

    def _rewards(self, clean: Tensor) -> Tensor:
        rewards = torch.as_tensor(self._reward(clean)).cpu().double()  # some accelerators have no float64
        if rewards.shape != (len(clean),):
            raise ValueError(
                f"the reward returned shape {tuple(rewards.shape)} for {len(clean)} samples; it must return one number "
                f"for each, ({len(clean)},)"
            )
        if not bool(rewards.isfinite().all()):
            raise ValueError(f"the reward returned {rewards.tolist()}; it must return finite numbers")
        return rewards
