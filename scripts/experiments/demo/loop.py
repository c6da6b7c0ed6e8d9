"""A training loop that can be stopped at any moment and continued with the same result."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
