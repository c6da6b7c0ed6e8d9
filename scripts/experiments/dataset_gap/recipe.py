"""What is trained on which pictures: the digits' recipe, whose weights are bundled, and that of CIFAR-10 (App. E.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.training import Phase

STRIDES = {"weak": 10, "strong": 2, "ideal": 1}
"""A side is trained on every n-th picture of the minority and all of the majority: 10:1, 2:1 and 1:1."""

SIDES = tuple(STRIDES)
PATHS = ("noise", "flow")


@dataclass(frozen=True)
class Augmentation:
    """How far pictures are moved in training: degrees, share of the size, share of the width; and whether mirrored."""

    turn: float = 0.0
    resize: float = 0.0
    shift: float = 0.0
    mirror: bool = False


@dataclass(frozen=True)
class Recipe:
    """A pair of classes, a network for them, a judge of them, and how long both are trained.

    Attributes:
        majority, minority: what the two classes are called.
        size, channels: of a picture.
        network: settings of diffusers' `UNet2DModel`, beside size and channels.
        judge_width: channels of the judge's first layer.
        least_signal: alpha^2 below which no level of the noise path weighs more in the loss.
    """

    name: str
    majority: str
    minority: str
    size: int
    channels: int
    network: Mapping[str, Any]
    judge_width: int
    judge_phase: Phase
    network_phase: Phase
    augmentation: Augmentation = field(default_factory=Augmentation)
    least_signal: float = 0.02


DIGITS = Recipe(
    name="digits",
    majority="two",
    minority="eight",
    size=8,
    channels=1,
    network={
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "norm_num_groups": 8,
        "add_attention": False,
    },
    judge_width=24,
    judge_phase=Phase(1, steps=1500, batch=96, learning_rate=3e-3, ema=0.99),
    network_phase=Phase(2, steps=3000, batch=64, learning_rate=2e-3, ema=0.998),
    augmentation=Augmentation(turn=6.0, resize=0.05, shift=0.03),
)

CIFAR = Recipe(
    name="cifar",
    majority="horse",
    minority="automobile",
    size=32,
    channels=3,
    network={
        "block_out_channels": (128, 256, 256),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 64,
        "dropout": 0.1,
    },
    judge_width=64,
    judge_phase=Phase(1, steps=10_000, batch=96, learning_rate=2e-3, ema=0.999),
    network_phase=Phase(2, steps=100_000, batch=128, learning_rate=2e-4, ema=0.9995),
    augmentation=Augmentation(mirror=True),
)
