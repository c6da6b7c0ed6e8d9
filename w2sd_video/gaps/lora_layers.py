"""The LoRA layers of a network as peft has them: where their scales lie, and what they were before."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from w2sd_video.errors import UserError


class RowScale:
    """One scale per row of a network call, by which the output of a LoRA layer is multiplied."""

    def __init__(self, scales: Tensor) -> None:
        self.scales = scales

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Tensor:
        output, own = args  # the layer's `output * scaling`; this protocol is what torch.compile can follow
        rows, scales = len(own.scales), own.scales
        if output.shape[0] % rows:
            raise ValueError(f"a LoRA layer has {output.shape[0]} rows, which is no multiple of the call's {rows}")
        if output.shape[0] != rows:  # frames, or places of a video, lie beside each other within their row
            scales = scales.repeat_interleave(output.shape[0] // rows)
        return output * scales.view(-1, *[1] * (output.dim() - 1))


class Place(NamedTuple):
    """An adapter in a layer: `scale * alpha / root` is what the layer multiplies by."""

    scaling: dict[str, Any]
    adapter: str
    alpha: float
    root: float


class Before:
    """What layers were before their scales became views of one tensor; `form` is what is in force meanwhile."""

    def __init__(self, layers: Sequence[Any], places: Sequence[Place], flat: Tensor) -> None:
        self.flat, self.names = flat, set[str]()
        self.form: Tensor | list[RowScale] = flat
        self._layers, self._places = layers, places
        self._scalings = [place.scaling[place.adapter] for place in places]
        self._states = [(layer._active_adapter, layer._disable_adapters) for layer in layers]
        self._active: list[list[str]] = [[] if layer.disable_adapters else [*layer.active_adapters] for layer in layers]

    def activate(self, names: set[str]) -> None:
        """The layers add up these adapters too; without what peft's own method does besides, to gradients."""
        self.names |= names
        for layer, active in zip(self._layers, self._active, strict=True):
            active += [name for name in sorted(names) if name in layer.scaling and name not in active]
            layer._active_adapter, layer._disable_adapters = active, False

    def overtaken(self) -> bool:
        """Whether somebody set the network's adapters meanwhile, by set_adapters or disable_lora (which do all)."""
        return self._layers[0]._active_adapter is not self._active[0] or self._layers[0]._disable_adapters

    def restore(self, views: Sequence[Tensor]) -> None:
        """Everything as it was, but for what somebody set meanwhile."""
        for layer, active, state in zip(self._layers, self._active, self._states, strict=True):
            own_active, own_disabled = state
            if layer._active_adapter is active:
                layer._active_adapter = own_active
                layer._disable_adapters = layer._disable_adapters or own_disabled
        for place, before, view in zip(self._places, self._scalings, views, strict=True):
            now = place.scaling.get(place.adapter)
            if now is view or isinstance(now, RowScale):
                place.scaling[place.adapter] = before


def places_of(layer: Any) -> Iterator[Place]:
    """The adapters of one layer; `UserError` for a layer whose scales cannot be switched."""
    base = layer.get_base_layer()
    if not isinstance(layer, LoraLayer) or not isinstance(base, nn.Linear | nn.modules.conv._ConvNd):
        raise UserError(
            f"the network has an adapter of the kind {type(layer).__name__} on a {type(base).__name__}; only LoRAs of "
            "linear and convolution layers can be switched: unload it"
        )
    for name in layer.scaling:
        rank = layer.r[name]
        root = math.sqrt(rank) if layer.use_rslora.get(name) else rank
        yield Place(layer.scaling, name, layer.lora_alpha[name], root)
