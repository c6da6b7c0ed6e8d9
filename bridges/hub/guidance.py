"""A guider for diffusers' modular pipelines: weak-to-strong guidance on one network."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.guiders.guider_utils import BaseGuidance, GuiderOutput
from torch import Tensor, nn


class WeakToStrongGuidance(BaseGuidance):
    """strong + strength * (strong - weak), both at the latent itself: W2SD to first order (App. E.5, Theorem 1).

    A guider sees one latent a step, so that it can combine predictions but not reflect: for Algorithm 1, and for two
    networks, use a reflection block. The two sides share the network and differ in guidance, in the scale of a LoRA, or
    both. Per reflected step four calls of the network (two for each side whose guidance is 1), else two.

    Args:
        guidance_scale: of the strong side, by u + scale * (c - u).
        weak_guidance_scale: of the weak side.
        strength: 1 is W2SD's; 0 is plain guidance.
        adapter: the name of a loaded LoRA whose scale differs, or None.
        adapter_scale, weak_adapter_scale: its scales on the two sides; `adapter_scale` is restored after each step.
        start, stop: the part of the steps where the weak side counts, as fractions from the noisiest on.
        enabled: False is plain guidance.
    """

    _input_predictions = ["strong_cond", "strong_uncond", "weak_cond", "weak_uncond"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        guidance_scale: float = 5.5,
        weak_guidance_scale: float = 1.0,
        strength: float = 1.0,
        adapter: str | None = None,
        adapter_scale: float = 1.0,
        weak_adapter_scale: float = 0.0,
        start: float = 0.0,
        stop: float = 1.0,
        enabled: bool = True,
    ) -> None:
        super().__init__(start, stop, enabled)
        self.guidance_scale, self.weak_guidance_scale, self.strength = guidance_scale, weak_guidance_scale, strength
        self.adapter, self.adapter_scale, self.weak_adapter_scale = adapter, adapter_scale, weak_adapter_scale

    @property
    def predictions(self) -> list[str]:
        """The names of this step's predictions, in the order in which they are made."""
        names = ["strong_cond"]
        if self.guidance_scale != 1:
            names.append("strong_uncond")
        if self._counts():
            names.append("weak_cond")
            if self.weak_guidance_scale != 1:
                names.append("weak_uncond")
        if not self.adapter:  # then the two sides' predictions are the same ones
            names = list(dict.fromkeys(name.replace("weak_", "strong_") for name in names))
        return names

    @property
    def num_conditions(self) -> int:
        return len(self.predictions)

    @property
    def is_conditional(self) -> bool:
        return self.predictions[max(self._count_prepared - 1, 0)].endswith("_cond")

    def prepare_models(self, denoiser: nn.Module) -> None:
        name = self.predictions[self._count_prepared]
        self._count_prepared += 1
        if self.adapter:
            scale = self.weak_adapter_scale if name.startswith("weak") else self.adapter_scale
            denoiser.set_adapters([self.adapter], [scale])  # type: ignore[operator]

    def cleanup_models(self, denoiser: nn.Module) -> None:
        if self.adapter and self._count_prepared == self.num_conditions:
            denoiser.set_adapters([self.adapter], [self.adapter_scale])  # type: ignore[operator]

    def prepare_inputs(self, data: dict[str, Any]) -> list[Any]:
        return [self._prepare_batch(data, int(name.endswith("_uncond")), name) for name in self.predictions]

    def prepare_inputs_from_block_state(self, data: Any, input_fields: dict[str, Any]) -> list[Any]:
        return [
            self._prepare_batch_from_block_state(input_fields, data, int(name.endswith("_uncond")), name)
            for name in self.predictions
        ]

    def forward(
        self,
        strong_cond: Tensor,
        strong_uncond: Tensor | None = None,
        weak_cond: Tensor | None = None,
        weak_uncond: Tensor | None = None,
    ) -> Any:
        strong = _guided(strong_uncond, strong_cond, self.guidance_scale)
        pred = strong
        if self._counts():
            if not self.adapter:
                weak_cond, weak_uncond = strong_cond, strong_uncond
            assert weak_cond is not None
            weak = _guided(weak_uncond, weak_cond, self.weak_guidance_scale)
            pred = torch.add(strong, strong - weak, alpha=self.strength)
        return GuiderOutput(pred=pred, pred_cond=strong_cond, pred_uncond=strong_uncond)

    def _counts(self) -> bool:
        """Whether the weak side counts at this step."""
        if not self._enabled or self.strength == 0:
            return False
        steps = self._num_inference_steps
        return steps is None or int(self._start * steps) <= self._step < int(self._stop * steps)


def _guided(unconditional: Tensor | None, conditional: Tensor, scale: float) -> Tensor:
    """A lerp, so that guidance 1 is the conditional prediction bit for bit."""
    if scale == 1 or unconditional is None:
        return conditional
    dtype = torch.promote_types(conditional.dtype, torch.float32)
    return torch.lerp(unconditional.to(dtype), conditional.to(dtype), scale)
