"""The training loop of all bundled networks, which can be stopped at any moment and continued with the same result.

Every random number of step n comes from a generator seeded with (seed, phase, n).
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from w2sd_video.errors import UserError


@dataclass(frozen=True)
class Phase:
    """One stage of training.

    `number` seeds its draws; `horizon` is where its learning rate would reach the floor (None: at its last step), later
    than `steps` for a stage that hands over to another before it has cooled down; `ema` is the moving average's decay.
    """

    number: int
    steps: int
    batch: int
    learning_rate: float
    ema: float
    horizon: int | None = None


def generator_for(seed: int, phase: Phase, step: int) -> torch.Generator:
    """The random numbers of one step, the same however often training was interrupted before it."""
    return torch.Generator().manual_seed((seed * 64 + phase.number) * 1_000_003 + step)


def train(
    name: str,
    phase: Phase,
    networks: nn.Module,
    loss: Callable[[torch.Generator], Tensor],
    folder: Path,
    seed: int,
    quiet: bool = False,
    save_every: float = 60.0,
) -> None:
    """Minimise `loss` over the trainable parameters of `networks`, in place; ends on their moving average.

    Writes `<folder>/<name>.pt` every `save_every` seconds and at the end, and continues from it when it exists.

    Raises:
        UserError: that file was made with another seed or other settings of the phase.
    """
    settings = repr((seed, phase))
    parameters = [p for p in networks.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=phase.learning_rate, weight_decay=1e-3, betas=(0.9, 0.99))
    averages = [p.detach().clone() for p in parameters]
    path = folder / f"{name}.pt"
    first = 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        if state["settings"] != settings:
            raise UserError(
                f"{path} was made with other settings: {state['settings']} -> {settings}; give another --work folder"
            )
        first = state["step"]
        optimizer.load_state_dict(state["optimizer"])
        for p, average, saved, saved_average in zip(
            parameters, averages, state["parameters"], state["averages"], strict=True
        ):
            p.data.copy_(saved)
            average.copy_(saved_average)

    def save(step: int) -> None:
        state = {"settings": settings, "step": step, "optimizer": optimizer.state_dict(), "averages": averages}
        torch.save(state | {"parameters": [p.data for p in parameters]}, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    networks.train()
    saved_at, smooth = time.monotonic(), None
    steps = tqdm(range(first, phase.steps), initial=first, total=phase.steps, desc=name, disable=quiet, mininterval=5)
    for step in steps:
        progress = step / (phase.horizon or phase.steps)
        warm_up = min(1.0, (step + 1) / (0.04 * (phase.horizon or phase.steps)))
        decay = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = phase.learning_rate * warm_up * decay
        value = loss(generator_for(seed, phase, step))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        torch._foreach_lerp_(averages, [p.data for p in parameters], 1 - min(phase.ema, (step + 1) / (step + 10)))
        smooth = value.item() if smooth is None else 0.98 * smooth + 0.02 * value.item()
        steps.set_postfix(loss=f"{smooth:.4f}", refresh=False)
        if time.monotonic() - saved_at > save_every:
            save(step + 1)
            saved_at = time.monotonic()
    if first < phase.steps:
        save(phase.steps)
    for p, average in zip(parameters, averages, strict=True):
        p.data.copy_(average)
    networks.eval()


def round_to_half(network: nn.Module) -> None:
    """Round the parameters to what a float16 file will hold, so that later phases see the weights that are shipped."""
    for p in network.parameters():
        p.data.copy_(p.data.half().float())


def stratified_timesteps(batch: int, generator: torch.Generator) -> Tensor:
    """Training timesteps [batch] of 0 .. 999, one in each of `batch` equal parts."""
    timestep = (torch.arange(batch) + torch.rand(batch, generator=generator)) * (1000 / batch)
    return timestep.long().clamp_max(999)


def noisy_round_trip_loss(vae: Any, draw: Callable[[torch.Generator], Tensor]) -> Callable[[torch.Generator], Tensor]:
    """The error of pictures [B, 3, H, W] in [-1, 1] from `draw` after a round trip.

    The latents are moved a little on the way, which makes a decoder that forgives small errors.
    """

    def loss(generator: torch.Generator) -> Tensor:
        pixels = draw(generator)
        posterior = vae.encode(pixels).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        latents = posterior.mean + 0.1 * posterior.mean.std().detach() * noise
        error = vae.decode(latents).sample - pixels
        return error.square().mean() + 0.2 * error.abs().mean() + 1e-6 * posterior.kl().mean()

    return loss


def normalise_latents(vae: Any, mean: Tensor, std: Tensor) -> None:
    """Fold latents' mean and standard deviation [C] into the 1x1 convolutions around them, in place."""
    channels = len(mean)
    to, back = vae.quant_conv, vae.post_quant_conv
    to.weight.data[:channels] /= std[:, None, None, None]
    to.bias.data[:channels] = (to.bias.data[:channels] - mean) / std
    to.bias.data[channels:] -= 2 * std.log()  # the log-variances shrink with the latents
    back.bias.data += back.weight.data[:, :, 0, 0] @ mean
    back.weight.data *= std[None, :, None, None]


def train_side_by_side(program: str, options: Any, sides: Sequence[str]) -> bool:
    """Runs `scripts/<program> --side SIDE` for each side at once, a process each; False if one did not finish."""
    script = Path(__file__).resolve().parents[1] / program
    command = [sys.executable, str(script), "--work", str(options.work), "--output", str(options.output)]
    command += ["--seed", str(options.seed), *(["--quiet"] if options.quiet else [])]
    processes = [subprocess.Popen([*command, "--side", side]) for side in sides]
    finished = not any([process.wait() for process in processes])  # noqa: C419 wait for all
    if not finished:
        print("error: a side did not finish training; the same command continues it", file=sys.stderr)
    return finished
