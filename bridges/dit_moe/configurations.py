"""The named configurations of DiT-MoE and how many parameters they have, by arithmetic (imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from w2sd_video.errors import UserError

TIMESTEP_CHANNELS = 256  # of the sinusoid that tells the network its timestep


@dataclass(frozen=True)
class Configuration:
    """One size of the paper; `flow`: its published weights predict velocities and normalise queries and keys."""

    num_layers: int
    hidden_size: int
    num_attention_heads: int
    flow: bool = False


CONFIGURATIONS = {
    "S/2": Configuration(12, 384, 6),
    "B/2": Configuration(12, 768, 12),
    "L/2": Configuration(24, 1024, 16),
    "XL/2": Configuration(28, 1152, 16, flow=True),
    "G/2": Configuration(40, 1408, 16, flow=True),
}


@dataclass(frozen=True)
class ParameterCounts:
    """`total` parameters, and how many of them are `active`, that is, used for one token."""

    total: int
    active: int


def named(name: str, *, num_experts: int = 8, **changes: Any) -> dict[str, Any]:
    """The arguments of `DiTMoE` for "S/2", "B/2", "L/2", "XL/2" or "G/2" with `changes` put over them.

    >>> network = DiTMoE(**named("S/2", num_experts=16))

    Raises:
        UserError: no configuration of that name.
    """
    if name not in CONFIGURATIONS:
        raise UserError(f"there is no configuration {name!r}; choose one of {', '.join(CONFIGURATIONS)}")
    size = CONFIGURATIONS[name]
    settings = {
        "num_layers": size.num_layers,
        "hidden_size": size.hidden_size,
        "num_attention_heads": size.num_attention_heads,
        "qk_norm": size.flow,
        "num_experts": num_experts,
    }
    return settings | changes


def usual_heads(hidden_size: int) -> int | None:
    """The attention heads of the named configuration of this width; None where there is none."""
    heads = {size.hidden_size: size.num_attention_heads for size in CONFIGURATIONS.values()}
    return heads.get(hidden_size)


def count_parameters(config: Mapping[str, Any]) -> ParameterCounts:
    """The parameters of a `DiTMoE` with this config (every entry it has, `network.config` for one).

    The fixed position embedding is no parameter. Of the routed experts `num_experts_per_tok` are active; the paper's
    71 M for S/2 counts so.
    """
    width, patch = config["hidden_size"], config["patch_size"] ** 2
    head = width // config["num_attention_heads"]
    attention = 4 * width * width + 4 * width + (4 * head if config["qk_norm"] else 0)
    modulation = 6 * (width * width + width)
    expert = 3 * width * config["expert_hidden_size"]
    shared = 3 * width * config["shared_expert_hidden_size"]
    block = attention + modulation + config["num_experts"] * width + config["num_experts"] * expert + shared
    idle = (config["num_experts"] - config["num_experts_per_tok"]) * expert
    ends = patch * config["in_channels"] * width + width  # patches in
    ends += TIMESTEP_CHANNELS * width + width + width * width + width  # timestep
    ends += (config["num_classes"] + 1) * width  # classes and the null class
    ends += 2 * (width * width + width) + patch * config["out_channels"] * (width + 1)  # final modulation, patches out
    total = ends + config["num_layers"] * block
    return ParameterCounts(total, total - config["num_layers"] * idle)
