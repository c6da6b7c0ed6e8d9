"""What the algorithms lean on: checks, exacter inversions, a bound on the move, noise, and how a reward chooses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor

from w2sd_video.core.denoisers import Denoiser, NoiseSampler
from w2sd_video.core.levels import Level, check_chain
from w2sd_video.core.options import ReflectionConfig
from w2sd_video.core.paths import Path, by_sample

Reward = Callable[[Tensor], Tensor]
"""A number per sample [B], higher is better, of clean estimates [B, ...]."""

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
