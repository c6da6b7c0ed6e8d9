"""How the networks and their judge are trained; every draw of step n comes from a generator of (seed, phase, n).

The three sides of a path start from the same weights and see the same noise, levels and movements of pictures in each
step: what differs between them is how many pictures of the minority there are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import UNet2DModel
from torch import Tensor

from experiments.dataset_gap.judge import Judge, judging_loss
from experiments.dataset_gap.networks import TIMESTEPS, build_network, signal_rates
from experiments.dataset_gap.pictures import Pictures, augmented
from experiments.dataset_gap.recipe import Recipe
from experiments.demo.loop import round_to_half, train


def train_judge(recipe: Recipe, seen: Pictures, folder: Path, seed: int, device: str, quiet: bool) -> Judge:
    """The classifier, rounded to what its file will hold."""
    torch.manual_seed(seed)
    judge = Judge(recipe.channels, recipe.size, recipe.judge_width).to(device)
    loss = judging_loss(judge, seen, recipe)
    train(f"{recipe.name}-judge", recipe.judge_phase, judge, loss, folder, seed, quiet)
    round_to_half(judge)
    return judge.cpu()


def drawn(pictures: Pictures, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """A batch of both classes in their proportion (the count of the minority is within 1 of it), moved a little."""
    batch = recipe.network_phase.batch
    share = len(pictures.minority) / len(pictures.both)
    rare = (torch.arange(batch) + torch.rand((), generator=generator)) / batch < share
    place = torch.rand(batch, generator=generator)
    common = pictures.majority[(place * len(pictures.majority)).long()]
    scarce = pictures.minority[(place * len(pictures.minority)).long()]
    return augmented(torch.where(rare[:, None, None, None], scarce, common), recipe.augmentation, generator)


def spread(batch: int, generator: torch.Generator) -> Tensor:
    """Numbers [batch] in 0 .. 1, one in each of `batch` equal parts, in random order."""
    values = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    return values[torch.randperm(batch, generator=generator)]


def noise_loss(network: UNet2DModel, pictures: Pictures, recipe: Recipe) -> Callable[[torch.Generator], Tensor]:
    """The error of the predicted noise; levels weigh as for a velocity, by 1 / alpha^2 up to a bound.

    Unweighed, a network this small learns the proportion of the classes badly: it shows at levels where the noise is
    nearly all there is.
    """
    alphas, sigmas = signal_rates()
    weights = 1 / alphas.square().clamp_min(recipe.least_signal)
    weights /= weights.mean()
    device = network.device

    def loss(generator: torch.Generator) -> Tensor:
        clean = drawn(pictures, recipe, generator)
        noise = torch.randn(clean.shape, generator=generator)
        timestep = (spread(len(clean), generator) * TIMESTEPS).long().clamp_max(TIMESTEPS - 1)
        alpha, sigma = (rate[timestep].view(-1, 1, 1, 1) for rate in (alphas, sigmas))
        predicted = network((alpha * clean + sigma * noise).to(device), timestep.to(device)).sample
        errors = (predicted - noise.to(device)).square().mean(dim=(1, 2, 3))
        return weights[timestep].to(device) @ errors / len(clean)

    return loss


def flow_loss(network: UNet2DModel, pictures: Pictures, recipe: Recipe) -> Callable[[torch.Generator], Tensor]:
    """The error of the predicted velocity noise - picture, all levels alike."""
    device = network.device

    def loss(generator: torch.Generator) -> Tensor:
        clean = drawn(pictures, recipe, generator)
        noise = torch.randn(clean.shape, generator=generator)
        level = spread(len(clean), generator)
        sigma = level.view(-1, 1, 1, 1)
        predicted = network(((1 - sigma) * clean + sigma * noise).to(device), (TIMESTEPS * level).to(device)).sample
        return (predicted - (noise - clean).to(device)).square().mean()

    return loss


LOSSES = {"noise": noise_loss, "flow": flow_loss}


def train_network(
    recipe: Recipe, seen: Pictures, path: str, side: str, folder: Path, *, seed: int, device: str, quiet: bool
) -> UNet2DModel:
    """The network of one side on one path, rounded to what its file will hold."""
    torch.manual_seed(seed)  # the same for all sides
    network = build_network(recipe).to(device)
    loss = LOSSES[path](network, seen.of_side(side), recipe)
    train(f"{recipe.name}-{path}-{side}", recipe.network_phase, network, loss, folder, seed, quiet)
    round_to_half(network)
    return network.cpu()
