"""What networks return, of whatever form: its halves of guidance, moved, and what a pipeline makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Halves:
    """The outputs of one step's network calls by half of guidance: of one call with the batch doubled, or of two.

    `others` are those of calls of its other guidances, after the doubled one. `calls` are the outputs of two calls. One
    may have tokens before those of the other (a prompt's, which an unconditional network is not told): the halves are
    both as long as the longer one, `uneven`.
    """

    first: Any
    second: Any
    calls: Sequence[Any] = ()
    others: Sequence[Any] = ()
    uneven: bool = False

    def joined(self, first: Any, second: Any) -> list[Any]:
        """The outputs of the calls, with these halves."""
        if self.uneven:
            return [_pair(_last_tokens, half, call) for half, call in zip((first, second), self.calls, strict=True)]
        if self.calls:
            return [first, second]
        return [_pair(lambda a, b: torch.cat([a, b]), first, second, lists=True), *self.others]


def can_be_halved(rows: Sequence[int], batch: int) -> bool:
    """Whether calls of these batches are two halves of `batch` latents each, others being of other guidances."""
    return (len(rows) == 2 and rows[0] == rows[1]) or list(rows) == [2 * batch, *[batch] * (len(rows) - 1)]


def as_halves(outputs: Sequence[Any], rows: Sequence[int], batch: int) -> Halves | None:
    """The halves of one step's outputs, None where there are not two of `batch` latents each."""
    if not can_be_halved(rows, batch):
        return None
    if len(outputs) == 2 and rows[0] == rows[1]:
        lengths = [_tokens(output) for output in outputs]
        if lengths[0] == lengths[1]:
            return Halves(outputs[0], outputs[1], calls=outputs)
        first, second = (_pair(_lengthened, outputs[k], outputs[1 - k]) for k in (0, 1))
        return Halves(first, second, calls=outputs, uneven=True)
    first, second = (_half(outputs[0], rows[0], k) for k in (0, 1))
    return Halves(first, second, others=outputs[1:])


def moved(conditional: Any, unconditional: Any, factor: float) -> Any:
    """The unconditional half moved along the line through both: at `factor` 1 as it is, at 0 the conditional one."""

    def line(cond: Tensor, uncond: Tensor) -> Tensor:
        return torch.add(cond, uncond - cond, alpha=factor) if cond.is_floating_point() else uncond

    return conditional if factor == 0 else _pair(line, conditional, unconditional)


def count_of(arguments: Mapping[str, Any], first: Sequence[str]) -> int:
    """How many latents a network is called with: rows of a tensor, or entries of a list of latents."""
    named = next((arguments[name] for name in first if arguments.get(name) is not None), None)
    value = named if named is not None else next(iter(arguments.values()), None)
    return len(value) if isinstance(value, Tensor | list | tuple) else 1


def weights_of(combined: Tensor, first: Tensor, second: Tensor) -> tuple[float, float] | None:
    """The weights of `first` and `second` in `combined`, scaled to sum 1; None where it is no such mixture.

    The sum may differ from sample to sample or from row to row (normalised guidance), the ratio may not. Waits for the
    device.
    """
    y, a, b = (each.detach().double() for each in (combined, first, second))
    scale = y.abs().amax()
    for start in (0, 1, y.dim() - 1):  # of all, of each sample, of each row along the last dimension
        rows = [
            each.reshape(-1, *each.shape[start:]).flatten(1) if start else each.reshape(1, -1) for each in (y, a, b)
        ]
        weights = _least_squares(*rows)
        left = rows[0] - weights[:, :1] * rows[1] - weights[:, 1:] * rows[2]
        total = weights.sum(1)
        share = weights[:, 0] / total
        middle = share.median()
        good = (left.abs().amax() <= 2e-3 * scale) & ((share - middle).abs().median() <= 1e-2 * (1 + middle.abs()))
        if bool(good) and bool(middle.isfinite()):
            return float(middle), 1.0 - float(middle)
    return None


def _least_squares(y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The weights [N, 2] of `a` and `b` nearest to `y`, each [N, values]."""
    aa, ab, bb, ay, by = ((p * q).sum(1) for p, q in ((a, a), (a, b), (b, b), (a, y), (b, y)))
    determinant = aa * bb - ab * ab
    return torch.stack([(ay * bb - by * ab) / determinant, (by * aa - ay * ab) / determinant], dim=1)


def _tokens(value: Any) -> list[int]:
    """The lengths of the tensors [B, tokens, channels] of an output."""
    if isinstance(value, Tensor):
        return [value.shape[1]] if value.dim() == 3 else []
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [length for each in inside for length in _tokens(each)]


def _lengthened(value: Tensor, other: Tensor) -> Tensor:
    """Tokens [B, tokens, channels] after those that only the other ones have before theirs."""
    more = other.shape[1] - value.shape[1] if value.dim() == other.dim() == 3 else 0
    return torch.cat([other[:, :more], value], dim=1) if more > 0 else value


def _last_tokens(value: Tensor, like: Tensor) -> Tensor:
    return value[:, value.shape[1] - like.shape[1] :] if value.dim() == 3 else value


def _half(value: Any, rows: int, k: int) -> Any:
    if isinstance(value, Tensor):
        return value.chunk(2)[k] if value.dim() and value.shape[0] % 2 == 0 else value
    if isinstance(value, list) and len(value) == rows:
        return value[: rows // 2] if k == 0 else value[rows // 2 :]
    return _mapped(lambda each: _half(each, rows, k), value)


def _pair(function: Callable[[Tensor, Tensor], Tensor], one: Any, other: Any, *, lists: bool = False) -> Any:
    """The same form as both, with what `function` makes of their tensors; `lists` of latents are joined."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return function(one, other) if one.dim() else one
    if lists and isinstance(one, list) and isinstance(other, list):
        return [*one, *other]
    if isinstance(one, Mapping):
        return type(one)(**{n: _pair(function, one[n], other[n], lists=lists) for n in one})  # type: ignore[call-arg]
    if isinstance(one, list | tuple):
        return type(one)(_pair(function, a, b, lists=lists) for a, b in zip(one, other, strict=True))
    return one


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, Mapping):
        return type(value)(**{name: function(item) for name, item in value.items()})  # type: ignore[call-arg]
    if isinstance(value, list | tuple):
        return type(value)(function(item) for item in value)
    return value
