"""How the networks and their judge are trained and written.

The three sides of a path start from the same weights and see the same noise, levels and movements of pictures in each
step: what differs between them is how many pictures of the minority there are.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from experiments.dataset_gap.cifar import load_source
from experiments.dataset_gap.judge import JUDGE, Judge, judging_loss, save_judge, verdicts
from experiments.dataset_gap.networks import TIMESTEPS, build_network, signal_rates
from experiments.dataset_gap.pictures import Pictures, augmented
from experiments.dataset_gap.recipe import PATHS, SIDES, Recipe
from experiments.engine import chosen, make_folders, set_threads
from experiments.training import round_to_half, train


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


def export_judge(output: Path, recipe: Recipe, judge: Judge, unseen: Pictures) -> None:
    """Save the judge to `output/judge`, with how many unseen pictures of each kind it names rightly."""
    right = {kind: list(counts) for kind, counts in verdicts(judge.eval(), unseen).items()}
    save_judge(judge, output / JUDGE, majority=recipe.majority, minority=recipe.minority, right_of_unseen=right)


def export_network(output: Path, path: str, side: str, network: UNet2DModel) -> None:
    """Save a network to `output/<path>/<side>`."""
    nn.Module.half(network).save_pretrained(output / path / side)


def run(options: argparse.Namespace) -> int:
    """scripts/train_dataset_gap.py."""
    paths = chosen(options.paths, PATHS, "path")
    recipe, split = load_source(options.cifar_dir)
    make_folders(options.work, options.output)
    set_threads(options.threads)
    judge = train_judge(recipe, split.seen, options.work, options.seed, options.device, options.quiet)
    export_judge(options.output, recipe, judge, split.unseen)
    settings = {"seed": options.seed, "device": options.device, "quiet": options.quiet}
    for path in paths:
        for side in SIDES:
            network = train_network(recipe, split.seen, path, side, options.work, **settings)
            export_network(options.output, path, side, network)
    print(f"wrote the networks and their judge to {options.output}")
    return 0
