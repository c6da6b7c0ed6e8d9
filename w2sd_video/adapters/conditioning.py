"""What a pipeline tells its network at a step, taken apart so that our sampler can tell it the same at any latent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from w2sd_video.adapters.probing import Guided, measure
from w2sd_video.adapters.recording import LATENT_DEPENDENT, TIME_NAMES, NetworkCall, RecordedStep, sign_of
from w2sd_video.core import lerp_guidance
from w2sd_video.errors import UserError

BATCH_SECOND = ("encoder_hidden_states_llama3",)  # arguments whose rows are their second dimension


@dataclass
class Counter:
    """Network calls and batch rows so far, and evaluations of a side (a guided one counts once)."""

    forwards: int = 0
    rows: int = 0
    evaluations: int = 0


@dataclass(frozen=True, eq=False)
class Conditioning:
    """The arguments of one step's network calls, without the latent.

    `doubled` is both halves in one call (UNets), absent where a pipeline makes two calls; `guided` is how the
    pipeline itself weighs the halves.
    """

    network: nn.Module
    latent_name: str
    latent_shape: torch.Size
    dtype: torch.dtype
    conditional: dict[str, Any]
    unconditional: dict[str, Any] | None = None
    doubled: dict[str, Any] | None = None
    guided: Guided = field(default_factory=Guided)

    @property
    def timestep(self) -> Tensor:
        return self.conditional[self.time_name]

    @property
    def time_name(self) -> str:
        return next(name for name in TIME_NAMES if name in self.conditional)

    def at(self, timestep: Tensor) -> Conditioning:
        """The same at another step's timestep, whatever its shape there (a scalar, or one per row)."""
        value = timestep.reshape(-1)[0]
        return self._with(self.time_name, lambda told: value.to(told.dtype).expand(told.shape))

    def with_embedded(self, factor: float) -> Conditioning:
        """The same with the guidance that is an input of the network multiplied."""
        return self._with("guidance", lambda told: told * factor)

    def for_rows(self, rows: Sequence[int]) -> Conditioning:
        """The same for other latents: latent i is told what recorded row `rows[i]` was told."""
        batch = self.latent_shape[0]
        if list(rows) == list(range(batch)):
            return self
        both = [*rows, *(batch + row for row in rows)]
        shape = torch.Size([len(rows), *self.latent_shape[1:]])
        conditional = {name: _picked(name, value, batch, rows) for name, value in self.conditional.items()}
        unconditional, doubled = (
            None if told is None else {name: _picked(name, value, count, picked) for name, value in told.items()}
            for told, count, picked in ((self.unconditional, batch, rows), (self.doubled, 2 * batch, both))
        )
        return replace(self, latent_shape=shape, conditional=conditional, unconditional=unconditional, doubled=doubled)

    def _with(self, name: str, change: Callable[[Tensor], Tensor]) -> Conditioning:
        def changed(arguments: dict[str, Any] | None) -> dict[str, Any] | None:
            return None if arguments is None else {**arguments, name: change(arguments[name])}

        conditional = changed(self.conditional)
        assert conditional is not None
        return replace(
            self,
            conditional=conditional,
            unconditional=changed(self.unconditional),
            doubled=changed(self.doubled),
        )


def predict(
    conditioning: Conditioning,
    x: Tensor,
    guidance: float,
    *,
    counter: Counter,
    network: nn.Module | None = None,
) -> Tensor:
    """Returns the guided prediction at `x` [B, ...], float32 or better; a half that does not count is not evaluated.

    `network` stands in for the recorded one.
    """
    net = conditioning.network if network is None else network

    def evaluate(arguments: dict[str, Any], latent: Tensor) -> Tensor:
        counter.forwards += 1
        counter.rows += latent.shape[0]
        given = {name: _fresh(value) for name, value in arguments.items()}
        given.update(return_dict=False)
        given[conditioning.latent_name] = latent.to(conditioning.dtype)
        output = net(**given)[0]
        if output.shape != latent.shape and output.shape[1] == 2 * latent.shape[1]:
            output = output[:, : latent.shape[1]]  # the other half is a learned variance
        if output.shape != latent.shape:
            raise UserError(
                f"{type(net).__name__} predicts shape {tuple(output.shape)} for a latent of {tuple(latent.shape)}; "
                "a network must predict one value per latent value"
            )
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        return output if sign_of(net) == 1 else -output

    if guidance == 1:
        return evaluate(conditioning.conditional, x)
    if conditioning.unconditional is None:
        raise UserError(
            f"guidance {guidance:g} needs the unconditional half, which the pipeline did not prepare at this step; "
            "use guidance 1, or no callback that turns guidance off"
        )
    guided = conditioning.guided
    if guidance == 0 and guided.channels is None:
        return evaluate(conditioning.unconditional, x)
    if conditioning.doubled is not None:
        first, second = evaluate(conditioning.doubled, torch.cat([x, x])).chunk(2)
    elif guided.conditional_first:
        first, second = evaluate(conditioning.conditional, x), evaluate(conditioning.unconditional, x)
    else:
        first, second = evaluate(conditioning.unconditional, x), evaluate(conditioning.conditional, x)
    conditional, unconditional = (first, second) if guided.conditional_first else (second, first)
    combined = lerp_guidance(unconditional, conditional, guidance)
    if guided.channels is None:
        return combined
    return torch.cat([combined[:, : guided.channels], conditional[:, guided.channels :]], dim=1)


def told_alike(one: Conditioning, other: Conditioning, guidance: float) -> bool:
    """Whether a network is told the same by both, in the halves that count at this guidance (waits for the device)."""
    if guidance == 1:
        return _equal(one.conditional, other.conditional)
    unconditional = _equal(one.unconditional, other.unconditional) and one.guided.channels == other.guided.channels
    alone = guidance == 0 and one.guided.channels is None
    return unconditional and (alone or _equal(one.conditional, other.conditional))


def read_conditioning(step: RecordedStep, scales: Sequence[float], known: Guided | None = None) -> Conditioning:
    """Returns the conditioning of a recorded step.

    Args:
        step: what the pipeline did up to its scheduler's step.
        scales: the guidance scales the pipeline may be applying.
        known: how it guides, if that was measured at an earlier step (measuring reads from the device).

    Raises:
        UserError: the pipeline does something else than plain guidance on its latent.
    """
    rows = [call.latent.shape[0] for call in step.calls]
    batch = step.sample.shape[0]
    for call in step.calls:
        _check_call(call, step.sample)
    if rows == [batch]:
        (call,) = step.calls
        if known is None:
            measure(step.combined, [1.0])  # the pipeline hands a lone prediction on as it is
        arguments = _without_latent(call)
        return Conditioning(call.network, call.latent_name, step.sample.shape, call.latent.dtype, arguments)
    if rows not in ([2 * batch], [batch, batch]) or any(c.network is not step.calls[0].network for c in step.calls):
        raise UserError(
            f"this pipeline calls its network with batches of {rows} rows for {batch} latents at a step; reflection "
            "knows one call, one call with the batch doubled, and two calls (turn off perturbed-attention and "
            "skip-layer guidance)"
        )
    guided = known or measure(step.combined, scales)
    call = step.calls[0]
    if len(rows) == 2:
        halves, doubled = [_without_latent(each) for each in step.calls], None
    else:
        doubled = _without_latent(call)
        halves = [{name: _half(name, value, 2 * batch, k) for name, value in doubled.items()} for k in (0, 1)]
    conditional, unconditional = halves if guided.conditional_first else halves[::-1]
    return Conditioning(
        call.network,
        call.latent_name,
        step.sample.shape,
        call.latent.dtype,
        conditional,
        unconditional,
        doubled,
        guided,
    )


def _check_call(call: NetworkCall, sample: Tensor) -> None:
    name = type(call.network).__name__
    for argument in LATENT_DEPENDENT:
        if call.arguments.get(argument) is not None:
            raise UserError(
                f"{name} is given {argument}, which a ControlNet computes from the latent; reflection does not call "
                "ControlNets yet: use the pipeline without one"
            )
    if call.latent.shape[1:] != sample.shape[1:]:
        raise UserError(
            f"{name} is given a latent of shape {tuple(call.latent.shape)} while the scheduler steps one of "
            f"{tuple(sample.shape)}; networks that take more than the latent (inpainting, image to video by "
            "concatenation) are not supported"
        )


def _without_latent(call: NetworkCall) -> dict[str, Any]:
    return {name: value for name, value in call.arguments.items() if name != call.latent_name}


def _half(name: str, value: Any, rows: int, index: int) -> Any:
    """The given half of all that has a batch dimension (`rows`, or a multiple: text embeddings repeated per frame)."""
    if isinstance(value, dict):
        return {key: _half(key, item, rows, index) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_half(name, item, rows, index) for item in value)
    return value.chunk(2, _batch_dim(name))[index] if _batched(name, value, rows) else value


def _picked(name: str, value: Any, batch: int, rows: Sequence[int]) -> Any:
    """The given rows of all that has a batch dimension of `batch`."""
    if isinstance(value, dict):
        return {key: _picked(key, item, batch, rows) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_picked(name, item, batch, rows) for item in value)
    dim = _batch_dim(name)
    if not _batched(name, value, batch) or value.shape[dim] != batch:
        return value
    return value.index_select(dim, torch.tensor(list(rows), device=value.device))


def _batched(name: str, value: Any, rows: int) -> bool:
    """Whether a dimension of a network's argument counts latents (`rows`, or a multiple of it)."""
    dim = _batch_dim(name)
    counts = isinstance(value, Tensor) and value.dim() > dim and value.shape[dim] % rows == 0
    return counts and "rotary" not in name and name not in ("img_ids", "txt_ids")


def _batch_dim(name: str) -> int:
    return 1 if name in BATCH_SECOND else 0


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one, other.to(one.dtype))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return type(one) is type(other) and bool(one == other)


def _fresh(value: Any) -> Any:
    return {key: _fresh(item) for key, item in value.items()} if isinstance(value, dict) else value
