"""LoRAs for the tiny pipelines: adapters with random weights on their networks, and files of both formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.support import tiny

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
CONVOLUTIONS = ["conv1", "conv_in"]


def add_lora(network: nn.Module, name: str, seed: int = 5, *, targets: list[str] | None = None, **config: Any) -> None:
    """Gives the network an adapter whose two factors are random, so that it changes what is predicted."""
    settings = {"r": 4, "lora_alpha": 6, "target_modules": targets or ATTENTION, **config}
    tiny.seeded(seed, lambda: network.add_adapter(LoraConfig(**settings), name))
    generator = tiny.generator(seed)
    for key, parameter in network.named_parameters():
        if "lora_" in key and f".{name}." in key:
            with torch.no_grad():
                parameter.normal_(std=0.4, generator=generator)
        parameter.requires_grad_(False)


def kohya_file(path: Path, network: nn.Module, modules: list[str], seed: int = 5, *, alpha: float = 6.0) -> Path:
    """Writes a LoRA of rank 4 as kohya's trainer names it (lora_unet_..., .lora_down, .lora_up, .alpha)."""
    generator = tiny.generator(seed)
    tensors: dict[str, Tensor] = {}
    for name in modules:
        weight = network.get_submodule(name).weight
        key = "lora_unet_" + name.replace(".", "_")
        down = torch.randn(4, *weight.shape[1:], generator=generator) * 0.4
        up = torch.randn(weight.shape[0], 4, *[1] * (weight.dim() - 2), generator=generator) * 0.4
        tensors.update({f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up})
        tensors[f"{key}.alpha"] = torch.tensor(alpha)
    save_file(tensors, path)
    return path
