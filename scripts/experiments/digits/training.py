"""How the bundled networks are trained: the judge, the VAE, then the DiT-MoE, on the train part of the digits only.

Every draw of step n comes from a generator seeded with (seed, phase, n), so that a phase can be stopped and resumed
anywhere.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from bridges.dit_moe.demo.digits import NAMES, NUM_CLASSES, Digits, load, to_pictures
from bridges.dit_moe.network import DiTMoE
from bridges.dit_moe.pipeline import DiTMoEPipeline, build_scheduler
from experiments.digits import components
from experiments.digits.judge import JUDGE as JUDGE_FOLDER
from experiments.digits.judge import Judge, accuracy, classification_loss, save_judge
from experiments.engine import make_folders, set_threads
from experiments.training import (
    Phase,
    noisy_round_trip_loss,
    normalise_latents,
    round_to_half,
    stratified_timesteps,
    train,
)

JUDGE = Phase(1, steps=1500, batch=128, learning_rate=3e-3, ema=0.99)
VAE = Phase(2, steps=600, batch=48, learning_rate=3e-3, ema=0.99)
NETWORK = Phase(3, steps=5000, batch=128, learning_rate=1.5e-3, ema=0.998)

NO_CLASS = 0.10  # share of labels replaced by "no class", for guidance
BALANCE = 0.01  # weight of the load-balancing loss, as in DiT-MoE
LEAST_SIGNAL = 0.01  # alpha^2 below which no level weighs more


def train_judge(digits: Digits, folder: Path, seed: int, phase: Phase, quiet: bool) -> Judge:
    """The classifier, rounded to what its file will hold."""
    torch.manual_seed(seed)
    judge = Judge()
    train("judge", phase, judge, classification_loss(judge, digits, phase.batch), folder, seed, quiet)
    round_to_half(judge)
    return judge


def reconstruction_loss(vae: AutoencoderKL, digits: Digits, batch: int) -> Callable[[torch.Generator], Tensor]:
    """The error of pictures after a round trip through latents that noise has moved a little."""
    pictures = to_pictures(digits.scans) * 2 - 1

    def draw(generator: torch.Generator) -> Tensor:
        return pictures[torch.randint(len(pictures), (batch,), generator=generator)]

    return noisy_round_trip_loss(vae, draw)


def train_vae(digits: Digits, folder: Path, seed: int, phase: Phase, quiet: bool) -> AutoencoderKL:
    """An AutoencoderKL whose latents, times its scaling factor, have zero mean and unit variance per channel."""
    torch.manual_seed(seed + 1)
    vae = components.build_vae()
    train("vae", phase, vae, reconstruction_loss(vae, digits, phase.batch), folder, seed, quiet)
    latents = encode(vae, digits)
    normalise_latents(vae, latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3)) * components.LATENT_SCALE)
    round_to_half(vae)
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKL, digits: Digits) -> Tensor:
    """The VAE's latents of digits, [N, 4, 8, 8], not scaled."""
    pictures = to_pictures(digits.scans) * 2 - 1
    return torch.cat([vae.encode(part).latent_dist.mean for part in pictures.split(256)])


def signal_rates() -> tuple[Tensor, Tensor]:
    """alpha and sigma at each of the 1000 training timesteps."""
    cumulative = build_scheduler("noise").alphas_cumprod
    return cumulative.sqrt(), (1 - cumulative).sqrt()


def diffusion_loss(network: DiTMoE, latents: Tensor, labels: Tensor, batch: int) -> Callable[[torch.Generator], Tensor]:
    """The error of the predicted noise, plus the load-balancing loss that makes all experts learn.

    Levels are weighed as for a velocity, by 1 / alpha^2 up to a bound. Unweighed, a network this small learns no
    classes in the time: they are decided at levels where hardly any of a latent of 256 numbers is signal.
    """
    alphas, sigmas = signal_rates()
    weights = 1 / alphas.square().clamp_min(LEAST_SIGNAL)
    weights /= weights.mean()

    def loss(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(latents), (batch,), generator=generator)
        clean = latents[chosen]
        noise = torch.randn(clean.shape, generator=generator)
        timestep = stratified_timesteps(batch, generator)
        alpha, sigma = (rate[timestep].view(-1, 1, 1, 1) for rate in (alphas, sigmas))
        dropped = torch.rand(batch, generator=generator) < NO_CLASS
        classes = labels[chosen].masked_fill(dropped, NUM_CLASSES)
        with network.recording() as record:
            predicted = network(alpha * clean + sigma * noise, timestep, classes).sample
        errors = (predicted - noise).square().mean(dim=(1, 2, 3))
        return weights[timestep] @ errors / batch + record.balance_loss(BALANCE)

    return loss


def train_network(vae: AutoencoderKL, digits: Digits, folder: Path, seed: int, phase: Phase, quiet: bool) -> DiTMoE:
    """The DiT-MoE on the VAE's latents, rounded to what its file will hold."""
    torch.manual_seed(seed + 2)
    network = components.build_network()
    latents = encode(vae, digits) * vae.config.scaling_factor
    train("network", phase, network, diffusion_loss(network, latents, digits.labels, phase.batch), folder, seed, quiet)
    round_to_half(network)
    return network


def export(output: Path, judge: Judge, vae: AutoencoderKL, network: DiTMoE) -> None:
    """Save a float16 pipeline to `output` and the judge, with its accuracy on digits it never saw, beside it."""
    scheduler = build_scheduler("noise")
    pipe = DiTMoEPipeline(transformer=network, vae=vae, scheduler=scheduler, id2label=dict(enumerate(NAMES)))
    pipe.to(torch.float16).save_pretrained(output)
    parts = {part: load(part) for part in ("train", "test")}
    facts = {f"{part}_accuracy": round(accuracy(judge, digits), 4) for part, digits in parts.items()}
    save_judge(judge, output / JUDGE_FOLDER, **facts)


def run(options: argparse.Namespace) -> int:
    """scripts/train_digits.py."""
    make_folders(options.work, options.output)
    set_threads(options.threads)
    seen = load("train")
    settings = (options.work, options.seed)
    judge = train_judge(seen, *settings, JUDGE, options.quiet)
    vae = train_vae(seen, *settings, VAE, options.quiet)
    network = train_network(vae, seen, *settings, NETWORK, options.quiet)
    export(options.output, judge, vae, network)
    print(f"wrote the pipeline and its judge to {options.output}")
    return 0
