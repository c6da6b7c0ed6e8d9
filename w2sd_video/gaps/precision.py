"""A network's weights at few bits, on one side of a pair: a weak side that needs no second download.

The weights of linear and convolution layers are rounded to the nearest value of their format, once, and kept as codes
(8, 4 or 2 bits) beside the network's own. During the evaluations of a side each layer computes with its codes made
numbers again, in the network's dtype; biases, norms and embeddings stay as they are. No package is needed, and nothing
gets faster: the memory is that of the codes, on top of the network's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from w2sd_video.errors import UserError

GROUP = 64  # weights of one output channel that share a scale; with int8 a whole channel does
# The 16 values of NF4, equally likely for normal weights (QLoRA, arXiv 2305.14314, appendix E).
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
IN_FORCE = "w2sd_precision"  # the attribute of a network whose weights are not its own now
BITS = {"int8": 8, "int4": 4, "nf4": 4, "int2": 2}


@dataclass(frozen=True)
class Rounded:
    """A weight at a precision: codes uint8 [groups, GROUP * bits / 8] and scales [groups, 1], or float8 values."""

    precision: str
    codes: Tensor
    scales: Tensor | None
    shape: torch.Size

    def weight(self, like: Tensor) -> Tensor:
        """The weight as numbers, on the device and in the dtype of `like`."""
        codes = self.codes.to(like.device)
        if self.scales is None:
            return codes.to(like.dtype).view(self.shape)
        bits = BITS[self.precision]
        parts = [(codes >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
        codes = torch.stack(parts, dim=-1).flatten(1).int()
        values = torch.tensor(NF4, device=codes.device)[codes] if self.precision == "nf4" else codes - 2 ** (bits - 1)
        flat = values * self.scales.to(like.device)
        rows = self.shape[0]
        return flat.reshape(rows, -1)[:, : self.shape.numel() // rows].reshape(self.shape).to(like.dtype)


def rounded(weight: Tensor, precision: str) -> Rounded:
    """Returns a weight [out, ...] at a precision of `PRECISIONS`, rounded to nearest.

    "fp8" is float8_e4m3fn, cast. "int8", "int4" and "int2" are -2^(b-1) + 1 to 2^(b-1) - 1 times a scale of each output
    channel (int8), or of each `GROUP` weights of one; "nf4" the values `NF4` times the largest magnitude of each group.
    """
    if precision == "fp8":
        return Rounded(precision, weight.to(torch.float8_e4m3fn), None, weight.shape)
    rows, bits = weight.flatten(1).float(), BITS[precision]
    size = GROUP if bits < 8 else max(8 // bits, rows.shape[1])
    flat = nn.functional.pad(rows, (0, -rows.shape[1] % size)).view(-1, size)
    largest = flat.abs().amax(dim=1, keepdim=True)
    top = 1 if precision == "nf4" else 2 ** (bits - 1) - 1
    scales = torch.where(largest > 0, largest / top, torch.ones_like(largest))
    if precision == "nf4":
        edges = torch.tensor(NF4, device=flat.device)
        codes = torch.bucketize(flat / scales, (edges[1:] + edges[:-1]) / 2)
    else:
        codes = (flat / scales).round().clamp(-top, top).int() + 2 ** (bits - 1)
    parts = codes.to(torch.uint8).view(len(flat), -1, 8 // bits)
    packed = torch.zeros_like(parts[..., 0])
    for place in range(8 // bits):
        packed |= parts[..., place] << (place * bits)
    return Rounded(precision, packed, scales, weight.shape)


def find_precision(network: nn.Module) -> Precision:
    """Returns the switch of the precision of a network's weights.

    Raises:
        UserError: weights that are quantised already, or are not there (sequential offloading).
    """
    inner = getattr(network, "_orig_mod", network)  # of a compiled module
    return vars(inner).get(IN_FORCE) or Precision(inner)


class Precision:
    """The precision at which a network's linear and convolution layers compute; "full" is their own weights."""

    def __init__(self, network: nn.Module) -> None:
        self._layers: list[Any] = [
            module for module in network.modules() if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
        ]
        kinds = {type(layer.weight).__name__: layer.weight for layer in self._layers}
        odd = [name for name, weight in kinds.items() if name not in ("Parameter", "Tensor")]
        odd += [str(weight.dtype) for weight in kinds.values() if not weight.is_floating_point()]
        if odd or not self._layers:
            what = f"weights that are quantised already ({odd[0]})" if odd else "no linear and no convolution layer"
            raise UserError(f"{type(network).__name__} has {what}, so precision cannot differ; leave it out")
        self._network, self._made = network, dict[str, list[Rounded]]()
        self._now, self._handles = "full", list[Any]()

    def check(self, value: str) -> None:
        if value != "full" and any(layer.weight.is_meta for layer in self._layers if value not in self._made):
            raise UserError(
                f"precision is {value}, and the weights of {type(self._network).__name__} are not in memory "
                "(sequential offloading); choose another memory plan"
            )

    @property
    def now(self) -> str:
        return self._now

    @contextmanager
    def held(self, values: Sequence[str]) -> Iterator[None]:
        """Inside, the weights at these precisions are kept."""
        try:
            for value in values:
                self._at(value)
            yield
        finally:
            self._made.clear()

    def meaning(self, value: str | None) -> str:
        return self._now if value is None else value

    @contextmanager
    def set_to(self, value: str) -> Iterator[None]:
        before = self._now
        try:
            self._go_to(value)
            yield
        finally:
            self._go_to(before)

    def _go_to(self, value: str) -> None:
        if value == self._now:
            return
        found = self._at(value) or ()
        for handle in self._handles:
            handle.remove()
        self._handles, self._now = [], value
        vars(self._network).pop(IN_FORCE, None)
        if found:
            vars(self._network)[IN_FORCE] = self  # for switches made meanwhile
        for layer, each in zip(self._layers if found else (), found, strict=True):
            own = _Own(layer, each)
            self._handles.append(layer.register_forward_pre_hook(own.replace))
            self._handles.append(layer.register_forward_hook(own.put_back, always_call=True))

    def _at(self, value: str) -> list[Rounded] | None:
        if value == "full":
            return None
        if value not in self._made:
            with torch.no_grad():
                self._made[value] = [rounded(layer.weight, value) for layer in self._layers]
        return self._made[value]


class _Own:
    """One layer's own weight, put aside while it computes with another."""

    def __init__(self, layer: Any, other: Rounded) -> None:
        self._weight, self._other = layer._parameters["weight"], other

    def replace(self, layer: Any, args: Any) -> None:
        self._weight = layer._parameters["weight"]  # offloading may have put another there
        like = next((each for each in args if isinstance(each, Tensor)), self._weight)
        dtype = self._weight.dtype if self._weight.dtype.itemsize > 1 else like.dtype
        layer._parameters["weight"] = self._other.weight(torch.empty(0, device=like.device, dtype=dtype))

    def put_back(self, layer: Any, *_: Any) -> None:
        layer._parameters["weight"] = self._weight
