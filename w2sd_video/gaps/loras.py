"""How strongly a network's LoRAs act, set for the evaluations of one side of a pair and put back after.

One flat tensor has the scale of every adapter in every layer, and the layers hold views of its elements: going over to
the other side is one copy whatever the number of layers, and compiled code sees the same tensors all along. That
tensor stays on the CPU, where a single number multiplies a tensor of any device exactly as a Python float does, and
where moving an offloaded network does not touch it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from w2sd_video.errors import UserError
from w2sd_video.pair import Loras, ModelSpec

# Networks all of whose layers have the rows of a call in their order, each once or several times in a row: those that
# the tests compare with one call per scale. Elsewhere (tokens sorted by expert, say) rows cannot be told apart.
IN_ORDER = (
    *("UNet2DConditionModel", "UNetMotionModel"),
    *("FluxTransformer2DModel", "SD3Transformer2DModel", "WanTransformer3DModel"),
)


def find_loras(network: nn.Module) -> LoraScales:
    """Returns the switch of a network's LoRA scales.

    Raises:
        UserError: the network has no LoRA, or adapters of another kind.
    """
    return LoraScales(network)


@contextmanager
def lora_scales(network: nn.Module, scales: Mapping[str, Any] | Loras | None) -> Iterator[None]:
    """Inside, the network's adapters have these scales, and those not named 0; None leaves all as they are.

    A scale that is a tuple is one for each row of the batch, on the device where the network is.

    Raises:
        UserError: an adapter that the network does not have, or a scale that is no finite number.
    """
    if scales is None:
        yield
        return
    pairs = tuple(scales.items()) if isinstance(scales, Mapping) else scales
    value = ModelSpec(loras=pairs).loras  # checked, and in the one order
    switch = find_loras(network)
    switch.check(value)
    count = samples_in(value)
    device = next(network.parameters()).device
    with switch.set_to(value if count is None else Rows((value,), count, 1, device)):
        yield


def in_order(network: nn.Module) -> bool:
    """Whether every layer of the network has the rows of a call in their order."""
    inner = getattr(network, "_orig_mod", network)  # of a compiled module
    return any(kind.__name__ in IN_ORDER for kind in type(inner).__mro__)


def samples_in(value: Loras | None) -> int | None:
    """How many samples a setting has a scale each for; None where one scale is for all."""
    return next((len(scale) for _, scale in value or () if isinstance(scale, tuple)), None)


@dataclass(frozen=True)
class Rows:
    """Scales by the rows of one network call: row r is of side `r // batch % len(sides)`, and of sample `r % batch`.

    `sides` has a setting for each side, None being as the network is; `halves` counts the halves of guidance in the
    call.
    """

    sides: tuple[Loras | None, ...]
    batch: int
    halves: int
    device: torch.device


# -- the layers as peft has them --------------------------------------------------------------------------------------


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


# -- the switch -------------------------------------------------------------------------------------------------------


class LoraScales:
    """The scales of all LoRA adapters of one network; its modules are walked here, once.

    A setting names every adapter that is to act, each with its scale: those it does not name are at 0. It is about the
    network alone. What a LoRA does to a text encoder is in the embeddings, which are computed before the first step,
    with the scales the pipeline has then.
    """

    def __init__(self, network: nn.Module) -> None:
        inner = getattr(network, "_orig_mod", network)  # of a compiled module
        self._kind = type(inner).__name__
        self._layers: list[Any] = [module for module in inner.modules() if isinstance(module, BaseTunerLayer)]
        self._in_order = in_order(network)
        if not self._layers:
            raise UserError(
                f"{self._kind} has no LoRA adapters; load them first, with the pipeline's load_lora_weights("
                "file, adapter_name=...), or leave loras out"
            )
        self._places = [place for layer in self._layers for place in places_of(layer)]
        self._adapters = sorted({place.adapter for place in self._places})
        self._flat = torch.zeros(len(self._places), dtype=torch.float64)
        self._views = list(self._flat.unbind())
        self._forms: dict[Any, Any] = {}
        self._held: Before | None = None

    def check(self, value: Loras) -> None:
        """Raises `UserError` for adapters that the network does not have, or whose scale cannot be changed."""
        for name, scale in value:
            if name not in self._adapters:
                raise UserError(
                    f"{self._kind} has no LoRA adapter {name!r}; it has {', '.join(self._adapters)} (an adapter for "
                    "text encoders alone is not switched)"
                )
            if isinstance(scale, tuple) and not self._in_order:
                raise UserError(
                    f"the scale of LoRA {name!r} is one per sample, which {self._kind} does not take; give one number"
                )
        named = {name for name, _ in value}
        for layer in self._layers:
            if layer.merged:
                raise UserError(
                    f"the LoRAs {', '.join(layer.merged_adapters)} are fused into {self._kind}, so their scale cannot "
                    "be changed; call the pipeline's unfuse_lora()"
                )
            for name in layer.lora_variant:
                if name in named or name in layer.active_adapters:
                    raise UserError(
                        f"LoRA {name!r} is a DoRA or another variant, which at scale 0 is not the network without it; "
                        "only plain LoRAs can be switched"
                    )

    @property
    def now(self) -> Any:
        return self.meaning(None)

    def meaning(self, value: Loras | None) -> Any:
        """What each layer multiplies by under a setting, None being what is in force; equal if they do the same."""
        if value is None:
            return self._as_it_is() if self._held is None else self._held.flat.tolist()
        return self._form(value).tolist()

    @contextmanager
    def held(self, values: Sequence[Loras]) -> Iterator[None]:
        """Inside, changing among `values` and what is in force costs one copy, and compiled code stays as it is."""
        if self._held is not None:
            yield
            return
        try:
            self._hold({name for value in values for name, _ in value})
            yield
        finally:
            self._let_go()

    @contextmanager
    def set_to(self, value: Loras | Rows) -> Iterator[None]:
        sides = value.sides if isinstance(value, Rows) else (value,)
        named = [side for side in sides if side is not None]
        with self.held(named):
            assert self._held is not None
            names = {name for side in named for name, _ in side}
            if self._held.overtaken():  # by a callback of the user's
                names |= self._held.names
                self._let_go()
                self._hold(names)
            elif not names <= self._held.names:
                self._held.activate(names)
            before = self._held.form
            self._put(self._form(value))
            try:
                yield
            finally:
                self._put(before)

    def _hold(self, names: set[str]) -> None:
        self._held = Before(self._layers, self._places, torch.tensor(self._as_it_is(), dtype=torch.float64))
        self._held.activate(names)
        self._flat.copy_(self._held.flat)
        for place, view in zip(self._places, self._views, strict=True):
            place.scaling[place.adapter] = view

    def _let_go(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.restore(self._views)
            self._forms = {key: form for key, form in self._forms.items() if not isinstance(key, Rows)}

    def _put(self, form: Tensor | list[RowScale]) -> None:
        """The form into the layers: one copy, but for scales by rows, which every layer is given."""
        assert self._held is not None
        if isinstance(form, list) or isinstance(self._held.form, list):
            for place, scale in zip(self._places, form if isinstance(form, list) else self._views, strict=True):
                place.scaling[place.adapter] = scale
        if not isinstance(form, list):
            self._flat.copy_(form)
        self._held.form = form

    def _as_it_is(self) -> list[float]:
        """[what each place multiplies by now]; 0 where the adapter is not active."""
        return [
            float(layer.scaling[name]) if name in layer.active_adapters and not layer.disable_adapters else 0.0
            for layer in self._layers
            for name in layer.scaling
        ]

    def _form(self, value: Loras | Rows) -> Any:
        """What is put in force for a setting: [places] or [places, samples], or a `RowScale` for each place."""
        if value not in self._forms:
            self._forms[value] = self._by_rows(value) if isinstance(value, Rows) else self._by_adapter(value)
        return self._forms[value]

    def _by_adapter(self, value: Loras) -> Tensor:
        count = samples_in(value)
        scales, rows = dict(value), []
        for place in self._places:
            scale = scales.get(place.adapter, 0.0)
            samples = scale if isinstance(scale, tuple) else (scale,) * (count or 1)
            rows.append([each * place.alpha / place.root for each in samples])  # as peft's set_scale rounds
        return torch.tensor(rows, dtype=torch.float64)[:, 0 if count is None else slice(None)]

    def _by_rows(self, rows: Rows) -> list[RowScale]:
        assert self._held is not None
        forms = [self._held.flat if side is None else self._form(side) for side in rows.sides]
        table = torch.cat([form.reshape(len(form), -1).expand(-1, rows.batch) for form in forms], dim=1)
        first = next(self._layers[0].parameters())
        dtype = torch.promote_types(first.dtype, torch.float32) if first.is_floating_point() else torch.float32
        table = table.repeat(1, rows.halves).to(rows.device, dtype)
        return [RowScale(row) for row in table.unbind()]
