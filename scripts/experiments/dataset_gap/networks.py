"""The networks, their noise levels on either path, and what the core asks of a model."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor

from experiments.dataset_gap.recipe import Recipe
from w2sd_video.core import Denoiser, FlowPath, Level, NoisePath
from w2sd_video.core import Path as SamplingPath
from w2sd_video.errors import UserError

TIMESTEPS = 1000


def build_network(recipe: Recipe) -> UNet2DModel:
    """A network without a condition, with random weights."""
    channels = {"in_channels": recipe.channels, "out_channels": recipe.channels}
    return UNet2DModel(sample_size=recipe.size, **channels, **recipe.network)


def load_network(folder: Path) -> UNet2DModel:
    """A network that `save_pretrained` wrote, in float32.

    Raises:
        UserError: there is none, or its files are damaged.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no network; make it with scripts/train_dataset_gap.py")
    try:
        return UNet2DModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    except Exception as error:  # of safetensors, of json and of torch alike
        raise UserError(
            f"{folder} cannot be read ({error}); make it again with scripts/train_dataset_gap.py"
        ) from error


def signal_rates() -> tuple[Tensor, Tensor]:
    """alpha and sigma at each of the 1000 training timesteps of the noise path: DDPM's linear schedule."""
    cumulative = DDPMScheduler(num_train_timesteps=TIMESTEPS).alphas_cumprod
    return cumulative.sqrt(), (1 - cumulative).sqrt()


def sampling_path(name: str) -> SamplingPath:
    """`NoisePath` (the networks predict eps) or `FlowPath` (they predict v = noise - picture)."""
    return NoisePath() if name == "noise" else FlowPath()


def sampling_levels(name: str, num_steps: int) -> list[Level]:
    """The T + 1 levels of a run, noisiest first.

    On the noise path timesteps 999, 999 - 1000 / T, ... (DDIM's "trailing" spacing: every T begins where training ends)
    and 0, the cleanest training level; on the flow path sigma in T equal steps from 1 to 0.
    """
    if name == "flow":
        sigmas = [1 - n / num_steps for n in range(num_steps + 1)]
        return [Level(TIMESTEPS * sigma, 1 - sigma, sigma) for sigma in sigmas]
    cumulative = DDPMScheduler(num_train_timesteps=TIMESTEPS).alphas_cumprod.double()
    steps = [round(TIMESTEPS * (1 - n / num_steps)) - 1 for n in range(num_steps)]
    return [Level(t, cumulative[t].sqrt(), (1 - cumulative[t]).sqrt()) for t in [*steps, 0]]


def denoiser(network: UNet2DModel) -> Denoiser:
    """The network's prediction for latents [B, C, H, W], as `w2sd_video.core` asks for it."""
    return lambda x, level: network(x, level.timestep).sample
