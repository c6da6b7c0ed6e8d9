"""Rows of one network call with LoRA scales of their own: both sides of a LoRA gap at once, or samples of one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from w2sd_video.errors import UserError
from w2sd_video.gaps.loras import Rows, in_order, samples_in
from w2sd_video.hosting.conditioning import Conditioning, counting_halves
from w2sd_video.hosting.sides import Resolved, Side

NOT_BY_ROW = ("img_ids", "txt_ids", "image_rotary_emb")  # positions, which all rows share


def check_loras(now: Resolved, batch: int) -> None:
    """Raises `UserError` for LoRA scales by sample that are not `batch`, or a scale that comes from elsewhere too."""
    value = now.settings.get("loras")
    if value is None:
        return
    count = samples_in(value)
    if count not in (None, batch):
        raise UserError(
            f"loras has scales for {count} samples, and this call makes {batch} (prompts times images per prompt); "
            "give one for each, or one number for all"
        )
    for name, argument in now.conditioning.conditional.items():
        scale = argument.get("scale", 1) if name.endswith("attention_kwargs") and isinstance(argument, dict) else 1
        if scale != 1:
            raise UserError(
                f"the call scales LoRAs by {name} ({scale}), which overwrites the scale of every layer; set the scale "
                "with the pipeline's set_adapters instead"
            )


def by_sample(now: Resolved, guidances: Sequence[float], x: Tensor) -> Mapping[str, Any]:
    """The settings of a side for evaluating it at `x` [B, ...], LoRA scales by sample as scales by row."""
    value = now.settings.get("loras")
    if isinstance(value, Rows) or samples_in(value) is None:
        return now.settings
    return {**now.settings, "loras": Rows((value,), len(x), _halves(now.conditioning, guidances), x.device)}


def in_one_batch(strong: Side, weak: Side, now: Resolved, weak_now: Resolved, guidances: Sequence[float]) -> bool:
    """Whether one call of the network can evaluate both sides: they differ in LoRA scales, guidance at most besides.

    `guidances` are those that the strong side is asked at.
    """
    alike = replace(strong, settings={}, guidance=None) == replace(weak, settings={}, guidance=None)
    others = [{name: v for name, v in side.settings.items() if name != "loras"} for side in (strong, weak)]
    guided = now.conditioning.guided
    return (
        alike
        and others[0] == others[1]
        and strong.settings.get("loras") != weak.settings.get("loras")
        and now.conditioning.control is None  # its outputs are computed for one side
        and in_order(now.network)
        and counting_halves(guided, guidances) == counting_halves(guided, [weak_now.guidance])
    )


def side_by_side(strong: Resolved, weak: Resolved, x: Tensor, guidances: Sequence[float]) -> Resolved:
    """Both sides as one, to be evaluated at `x` [B, ...] twice: the first B rows are the strong side's.

    `guidances` are those that the strong side is asked at.
    """
    conditioning = strong.conditioning
    halves = _halves(conditioning, [*guidances, weak.guidance])
    rows = Rows((strong.settings.get("loras"), weak.settings.get("loras")), len(x), halves, x.device)
    return replace(strong, conditioning=_twice(conditioning), settings={**strong.settings, "loras": rows})


def _halves(conditioning: Conditioning, guidances: Sequence[float]) -> int:
    """How many halves of guidance are in one call of the network."""
    both = len(counting_halves(conditioning.guided, guidances)) == 2
    return 2 if both and conditioning.doubled is not None else 1


def _twice(conditioning: Conditioning) -> Conditioning:
    """The same for every latent twice: all of them, and all of them again, within each half of guidance."""
    batch = conditioning.latent_shape[0]

    def repeated(arguments: dict[str, Any] | None, halves: int) -> dict[str, Any] | None:
        if arguments is None:
            return None
        return {name: _repeated(name, value, batch, halves) for name, value in arguments.items()}

    conditional = repeated(conditioning.conditional, 1)
    assert conditional is not None
    return replace(
        conditioning,
        latent_shape=torch.Size([2 * batch, *conditioning.latent_shape[1:]]),
        conditional=conditional,
        unconditional=repeated(conditioning.unconditional, 1),
        doubled=repeated(conditioning.doubled, 2),
    )


def _repeated(name: str, value: Any, batch: int, halves: int) -> Any:
    """An argument with its rows (`halves` times `batch`, or a multiple: frames) there twice within each half."""
    if isinstance(value, dict):
        return {key: _repeated(key, item, batch, halves) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_repeated(name, item, batch, halves) for item in value)
    if not isinstance(value, Tensor) or value.dim() == 0 or name in NOT_BY_ROW or value.shape[0] % (halves * batch):
        return value
    return torch.cat([part for part in value.chunk(halves) for _ in range(2)])
