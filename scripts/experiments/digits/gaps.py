"""Does the gap between two predictions point at what the strong one lacks? Asked level by level, on real digits.

Adding `a` times the gap (strong - weak) to the strong prediction changes its squared error least for

    a = E[gap . (noise - strong)] / E[gap . gap],

and the noise may stand for the unknown ideal prediction: given the noisy latent, it differs from it by something of
mean zero. W2SD and auto-guidance push along the gap; where `a` is 0 they move off the best prediction, whatever the
size of the gap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bridges.dit_moe.demo.digits import Digits
from bridges.dit_moe.pipeline import DiTMoEPipeline
from experiments.digits.training import encode, signal_rates
from experiments.engine import markdown
from w2sd_video.pair import Routing

TIMESTEPS = (900, 700, 500, 300, 100)
DRAWS = 3  # of noise per digit

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Predicted noise of latents [N, 4, 8, 8] at timesteps [N] for classes [N]."""


@dataclass(frozen=True)
class Gap:
    """At one level: mean squared errors of both predictions, the gap's root mean square, the best multiple of it to
    add to the strong prediction, and the half width of that number's 95 percent interval.
    """

    timestep: int
    strong_error: float
    weak_error: float
    size: float
    best: float
    margin: float


def predictor(pipe: DiTMoEPipeline, routing: Routing | None) -> Predict:
    """The pipeline's network with a routing of its experts, without guidance."""
    return lambda x, timesteps, labels: pipe.transformer(x, timesteps, labels, routing=routing).sample


def digit_latents(pipe: DiTMoEPipeline, digits: Digits) -> Tensor:
    """Latents [N, 4, 8, 8] of digits as the network knows them."""
    return encode(pipe.vae, digits) * pipe.vae.config.scaling_factor


@torch.no_grad()
def gap_by_level(
    strong: Predict, weak: Predict, latents: Tensor, labels: Tensor, timesteps: Sequence[int] = TIMESTEPS
) -> list[Gap]:
    """The gap at each timestep; noise is drawn DRAWS times per latent, and intervals take the latent as the unit."""
    alphas, sigmas = signal_rates()
    found = []
    for timestep in timesteps:
        sums = []
        for draw in range(DRAWS):
            generator = torch.Generator().manual_seed(DRAWS * timestep + draw)
            noise = torch.randn(latents.shape, generator=generator)
            noisy = alphas[timestep] * latents + sigmas[timestep] * noise
            told = torch.full((len(latents),), timestep)
            one, other = strong(noisy, told, labels).double(), weak(noisy, told, labels).double()
            gap, lack = one - other, noise - one
            terms = (lack.square(), (noise - other).square(), gap.square(), gap * lack)
            sums.append(torch.stack([term.flatten(1).mean(dim=1) for term in terms]))
        strong_error, weak_error, square, product = torch.stack(sums).mean(dim=0)  # each [N]
        best = product.mean() / square.mean()
        deviation = (product - best * square).std() / square.mean() / len(latents) ** 0.5
        numbers = (strong_error.mean(), weak_error.mean(), square.mean().sqrt(), best, 1.96 * deviation)
        found.append(Gap(timestep, *(number.item() for number in numbers)))
    return found


def gap_table(gaps: Sequence[Gap]) -> str:
    """A Markdown table, the noisiest level first."""
    rows = []
    for gap in gaps:
        best = f"{gap.best:+.3f} [{gap.best - gap.margin:+.3f}, {gap.best + gap.margin:+.3f}]"
        sizes = [f"{gap.strong_error:.4f}", f"{gap.weak_error:.4f}", f"{gap.size:.3f}"]
        rows.append([gap.timestep, *sizes, best])
    return markdown(["timestep", "error, strong", "error, weak", "size of the gap", "best multiple to add"], rows)
