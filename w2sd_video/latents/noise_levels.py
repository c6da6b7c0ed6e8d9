"""What a scheduler's config says of noise levels, without making the scheduler (imports no torch)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]

# Whose steps `reflected` makes; of other schedulers the commands take the noise levels and step with DDIM or Euler.
REFLECTED = (
    *("DDIMScheduler", "DDIMParallelScheduler", "CogVideoXDDIMScheduler", "EulerDiscreteScheduler"),
    *("FlowMatchEulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"),
)
FARTHEST = 0.1  # in the log of signal to noise, as `reflected` allows two pipelines


def is_flow(scheduler: Config) -> bool:
    """Whether it steps along a flow rather than a noise path."""
    return str(scheduler.get("_class_name")).startswith("FlowMatch") or bool(scheduler.get("use_flow_sigmas"))


def prediction_of(scheduler: Config) -> str:
    """Returns what the network predicts: "epsilon", "v_prediction", "sample" or "flow"."""
    return "flow" if is_flow(scheduler) else str(scheduler.get("prediction_type", "epsilon"))


def log_snr(scheduler: Config) -> list[float]:
    """Returns log(alpha_bar / (1 - alpha_bar)) of every training level of a noise path, clean to noisy, as diffusers
    makes it; clamped at alpha_bar 1e-6 and 1 - 1e-6. Empty for betas of an unknown kind.
    """
    count = int(scheduler.get("num_train_timesteps", 1000))
    first, last = float(scheduler.get("beta_start", 1e-4)), float(scheduler.get("beta_end", 0.02))
    kind = scheduler.get("beta_schedule", "linear")
    if scheduler.get("trained_betas") is not None:
        betas = [float(beta) for beta in scheduler["trained_betas"]]
    elif kind == "linear":
        betas = [first + (last - first) * i / (count - 1) for i in range(count)]
    elif kind == "scaled_linear":
        low, high = math.sqrt(first), math.sqrt(last)
        betas = [(low + (high - low) * i / (count - 1)) ** 2 for i in range(count)]
    elif kind == "squaredcos_cap_v2":
        betas = [min(1 - _cosine((i + 1) / count) / _cosine(i / count), 0.999) for i in range(count)]
    else:
        return []
    products, product = [], 1.0
    for beta in betas:
        product *= 1 - beta
        products.append(product)
    if scheduler.get("rescale_betas_zero_snr"):
        top, bottom = math.sqrt(products[0]), math.sqrt(products[-1])
        products = [((math.sqrt(p) - bottom) * top / (top - bottom)) ** 2 for p in products]
    clamped = [min(max(p, 1e-6), 1 - 1e-6) for p in products]
    return [math.log(p / (1 - p)) for p in clamped]


def same_levels(ours: Config, theirs: Config) -> bool | None:
    """Whether one timestep means one noise level to both; None where the betas are of an unknown kind."""
    if is_flow(ours) or is_flow(theirs):
        return is_flow(ours) == is_flow(theirs)
    tables = log_snr(ours), log_snr(theirs)
    if not all(tables):
        return None
    return len(tables[0]) == len(tables[1]) and all(
        abs(one - other) <= FARTHEST for one, other in zip(*tables, strict=True)
    )


def described(scheduler: Config) -> str:
    """Returns the noise levels in words."""
    if is_flow(scheduler):
        dynamic = ", by size" if scheduler.get("use_dynamic_shifting") else ""
        return f"flow, shift {scheduler.get('flow_shift', scheduler.get('shift', 1.0)):g}{dynamic}"
    text = (
        f"{scheduler.get('beta_schedule', 'linear')} betas {scheduler.get('beta_start', 1e-4):g} to "
        f"{scheduler.get('beta_end', 0.02):g}"
    )
    return text + (", zero terminal SNR" if scheduler.get("rescale_betas_zero_snr") else "")


def grid(scheduler: Config) -> str:
    """Returns how sampling walks through the levels, in words: a setting, which a pair need not share."""
    spacing = scheduler.get("timestep_spacing", "flow" if is_flow(scheduler) else "leading")
    return f"{scheduler.get('_class_name')}, {spacing}"


def _cosine(t: float) -> float:
    return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
