"""What a pipeline passes to its network at a step and how it guides, to be repeated at any latent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from w2sd_video.core import lerp_guidance
from w2sd_video.errors import UserError
from w2sd_video.gaps.control_settings import ControlSetting
from w2sd_video.hosting.arguments import changed, equal, for_rows, fresh, halves
from w2sd_video.hosting.controls import Control, read_control
from w2sd_video.hosting.recording import (
    LATENT_DEPENDENT,
    TIME_NAMES,
    ControlOutput,
    NetworkCall,
    NotRecorded,
    RecordedStep,
    probe,
)
from w2sd_video.hosting.run import Counter


@dataclass(frozen=True)
class Guided:
    """How a pipeline weighs the two halves of guidance.

    Attributes:
        conditional_first: whether the conditional half comes first, in one call or in two.
        scale: of `uncond + scale * (cond - uncond)`; 1 where it prepared the conditional half only.
        channels: how many it guides, from the first on, the others being those of the conditional half (DiT's published
            sampling guides 3 of 4); None for all.
        sign: -1.0 where it turns the sign of the prediction before the scheduler has it.
    """

    conditional_first: bool = True
    scale: float = 1.0
    channels: int | None = None
    sign: float = 1.0


def measure(combined: Tensor, scales: Sequence[float]) -> Guided:
    """Returns how a pipeline guides that made `combined` [B, C, ...] of the probes (`recording.probe`).

    Of a first row of w1 * first + w2 * second, even positions show w1 and odd ones w2: two numbers, so that what is not
    plain guidance is not taken for it. Plain guidance has w1 + w2 = 1, and one of them is a scale s of `scales`, or
    1 + s (of `cond + s * (cond - uncond)`). Waits for the device.

    Raises:
        UserError: it is not plain guidance with one of `scales`.
    """
    row = combined[0].float()
    row = row.reshape(len(row), -1) if row.dim() > 1 else row.reshape(1, -1)
    even = (torch.arange(row.numel(), device=row.device) % 2 == 0).reshape(row.shape)
    limits = [torch.where(even, row, end) for end in (torch.inf, -torch.inf)]
    others = [torch.where(even, end, row) for end in (torch.inf, -torch.inf)]
    ends = [limits[0].amin(1), limits[1].amax(1), others[0].amin(1), others[1].amax(1)]
    by_channel = [tuple(each) for each in torch.stack(ends, dim=1).tolist()]
    lows, highs, low, high = zip(*by_channel, strict=True)
    found = _recognised((min(lows), max(highs), min(low), max(high)), scales) or _guided_channels(by_channel, scales)
    if found is None:
        raise not_plain(scales)
    return found


def not_plain(scales: Sequence[float]) -> UserError:
    return NotRecorded(
        "this pipeline does not combine its two predictions by plain guidance, uncond + scale * (cond - uncond) "
        f"(scale one of {[float(s) for s in scales]}), or changes a prediction before the scheduler has it; "
        "turn off guidance_rescale and other changes to guidance"
    )


def combined_alike(step: RecordedStep, expected: Tensor, guided: Guided) -> Tensor:
    """Whether what the pipeline made of a step's probes is `expected`, everywhere; on the device."""
    if step.combined.shape != expected.shape:
        return torch.tensor(False)
    return (step.combined - expected).abs().amax() <= 2e-2 * max(1.0, abs(guided.scale))


def our_combination(step: RecordedStep, guided: Guided) -> Tensor:
    """What we make of a step's probes [B, ...], guiding as the pipeline was found to."""
    shape = step.combined.shape[1:]
    made = [
        probe(step.combined.new_zeros([len(call.latent), *shape]), first=k == 0) for k, call in enumerate(step.calls)
    ]
    if len(made) == 1 and len(made[0]) == len(step.sample):
        return made[0] * guided.sign
    first, second = made[0].chunk(2) if len(made) == 1 else made
    conditional, unconditional = (first, second) if guided.conditional_first else (second, first)
    return _combined(guided, unconditional, conditional, guided.scale) * guided.sign


def _recognised(ends: tuple[float, ...], scales: Sequence[float]) -> Guided | None:
    """The guidance that makes these weights: the least and the largest of the first half's, and of the second's."""
    if not scales or not all(map(math.isfinite, ends)):
        return None
    near = 1e-2 * max(1.0, *map(abs, ends))
    if ends[1] - ends[0] > near or ends[3] - ends[2] > near or abs(abs(ends[0] + ends[2]) - 1) > near:
        return None
    sign = math.copysign(1.0, ends[0] + ends[2])
    weights = {True: sign * ends[0], False: sign * ends[2]}  # by whether the first half is the conditional one
    # Scales may lie close together, so the nearest counts; at one distance a scale before one plus a scale.
    known = [(k, k + scale) for k in (0, 1) for scale in scales]
    distance, _, first, scale = min((abs(weights[first] - s), k, first, s) for k, s in known for first in weights)
    return Guided(first, scale, sign=sign) if distance <= 1e-2 * max(1.0, abs(scale)) else None


def _guided_channels(by_channel: Sequence[tuple[float, ...]], scales: Sequence[float]) -> Guided | None:
    """The guidance of the first channels, where the rest are as the probe was in the conditional half."""
    found = _recognised(by_channel[0], scales)
    if found is None:
        return None
    conditional = (1.0, 1.0, 0.0, 0.0) if found.conditional_first else (0.0, 0.0, 1.0, 1.0)
    alone = [tuple(found.sign * end for end in ends) == conditional for ends in by_channel]
    count = alone.index(True) if True in alone else 0
    if count == 0 or not all(alone[count:]):
        return None
    same = all(_recognised(ends, scales) == found for ends in by_channel[:count])
    return replace(found, channels=count) if same else None


@dataclass(frozen=True, eq=False)
class Conditioning:
    """The arguments of one step's network calls, without the latent.

    `doubled` is both halves in one call (UNets), absent where a pipeline makes two calls; `guided` is how the
    pipeline itself weighs the halves; `control` is the ControlNet whose outputs the network is passed.
    """

    network: nn.Module
    latent_name: str
    latent_shape: torch.Size
    dtype: torch.dtype
    conditional: dict[str, Any]
    unconditional: dict[str, Any] | None = None
    doubled: dict[str, Any] | None = None
    guided: Guided = field(default_factory=Guided)
    control: Control | None = None

    @property
    def timestep(self) -> Tensor:
        return self.conditional[self.time_name]

    @property
    def time_name(self) -> str:
        return next(name for name in TIME_NAMES if name in self.conditional)

    def at(self, timestep: Tensor, dtype: torch.dtype | None = None) -> Conditioning:
        """The same at another step's timestep, whatever its shape there (a scalar, or one per row)."""
        value = timestep.reshape(-1)[0]
        return self._with(self.time_name, lambda old: value.to(dtype or old.dtype).expand(old.shape))

    def with_embedded(self, factor: float) -> Conditioning:
        """The same with the guidance that is an input of the network multiplied."""
        return self._with("guidance", lambda old: old * factor)

    def with_control(self, setting: ControlSetting | None, step: int, num_steps: int) -> Conditioning:
        """The same with the ControlNet scaled so, at the pipeline's step of that number (from 0)."""
        if self.control is None:
            return self
        return replace(self, control=None if setting is None else self.control.set_to(setting, step, num_steps))

    def for_rows(self, rows: Sequence[int]) -> Conditioning:
        """The same for other latents: latent i gets the arguments of recorded row `rows[i]`."""
        batch = self.latent_shape[0]
        if list(rows) == list(range(batch)):
            return self
        control = None if self.control is None else self.control.for_rows(batch, rows)
        shape = torch.Size([len(rows), *self.latent_shape[1:]])
        return replace(for_rows(self, batch, rows), latent_shape=shape, control=control)

    def _with(self, name: str, change: Callable[[Tensor], Tensor]) -> Conditioning:
        control = None if self.control is None else changed(self.control, name, change)
        return replace(changed(self, name, change), control=control)


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
    return predict_each(conditioning, x, [guidance], counter=counter, network=network)[0]


def predict_each(
    conditioning: Conditioning,
    x: Tensor,
    guidances: Sequence[float],
    *,
    counter: Counter,
    network: nn.Module | None = None,
    named: Callable[[nn.Module, str], AbstractContextManager[None]] = lambda network, half: nullcontext(),
) -> list[Tensor]:
    """Returns the prediction at `x` at each guidance, all from one evaluation of the halves that count for some.

    Each call of the network is made inside `named` of it and the half.
    """
    net = conditioning.network if network is None else network
    residuals = None if conditioning.control is None else conditioning.control.at_latent(counter)

    def evaluate(half: str, latent: Tensor) -> Tensor:
        given = fresh(getattr(conditioning, half))
        if residuals is not None:
            given.update(residuals(half, latent))
        counter.forwards += 1
        counter.rows += latent.shape[0]
        given.update(return_dict=False)
        given[conditioning.latent_name] = latent.to(conditioning.dtype)
        with named(net, half):
            output = net(**given)
        output = output if isinstance(output, Tensor) else output[0]  # some return it bare
        if output.shape != latent.shape and output.shape[1] == 2 * latent.shape[1]:
            output = output[:, : latent.shape[1]]  # the other half is a learned variance
        if output.shape != latent.shape:
            raise NotRecorded(
                f"{type(net).__name__} predicts shape {tuple(output.shape)} for a latent of {tuple(latent.shape)}; "
                "a network must predict one value per latent value"
            )
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        return output if conditioning.guided.sign == 1 else -output

    guided, counting = conditioning.guided, counting_halves(conditioning.guided, guidances)
    if "unconditional" in counting and conditioning.unconditional is None:
        scale = next(guidance for guidance in guidances if guidance != 1)
        raise UserError(
            f"guidance {scale:g} needs the unconditional half, which the pipeline did not prepare at this step; "
            "use guidance 1, or no callback that turns guidance off"
        )
    if len(counting) == 1:
        return [evaluate(counting[0], x)] * len(guidances)
    if conditioning.doubled is not None:
        first, second = evaluate("doubled", torch.cat([x, x])).chunk(2)
    elif guided.conditional_first:
        first, second = evaluate("conditional", x), evaluate("unconditional", x)
    else:
        first, second = evaluate("unconditional", x), evaluate("conditional", x)
    conditional, unconditional = (first, second) if guided.conditional_first else (second, first)
    return [_combined(guided, unconditional, conditional, guidance) for guidance in guidances]


def _combined(guided: Guided, unconditional: Tensor, conditional: Tensor, guidance: float) -> Tensor:
    combined = lerp_guidance(unconditional, conditional, guidance)
    if guided.channels is None:
        return combined
    return torch.cat([combined[:, : guided.channels], conditional[:, guided.channels :]], dim=1)


def counting_halves(guided: Guided, guidances: Sequence[float]) -> list[str]:
    """The halves of guidance that count at one of these scales; the unconditional first."""
    counting = []
    if any(guidance != 1 for guidance in guidances):
        counting.append("unconditional")
    if guided.channels is not None or any(guidance != 0 for guidance in guidances):
        counting.append("conditional")
    return counting


def passed_alike(one: Conditioning, other: Conditioning, guidance: float) -> bool:
    """Whether both pass a network the same, in the halves that count at this guidance (waits for the device)."""
    counting = counting_halves(one.guided, [guidance])
    if guidance != 1 and one.guided.channels != other.guided.channels:
        return False
    if not all(equal(getattr(one, half), getattr(other, half)) for half in counting):
        return False
    if one.control is None or other.control is None:
        return one.control is other.control
    return one.control.passed_like(other.control, counting)


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
        guided = known or _measured(step, [1.0])  # the pipeline hands a lone prediction on as it is
        return Conditioning(
            call.network,
            call.latent_name,
            step.sample.shape,
            call.latent.dtype,
            _without_latent(call),
            guided=guided,
            control=read_control(step, True),
        )
    if rows not in ([2 * batch], [batch, batch]) or any(c.network is not step.calls[0].network for c in step.calls):
        raise NotRecorded(
            f"this pipeline calls its network with batches of {rows} rows for {batch} latents at a step; reflection "
            "knows one call, one call with the batch doubled, and two calls (turn off perturbed-attention and "
            "skip-layer guidance)"
        )
    guided = known or _measured(step, scales)
    call = step.calls[0]
    if len(rows) == 2:
        both, doubled = [_without_latent(each) for each in step.calls], None
    else:
        doubled = _without_latent(call)
        both = halves(doubled, 2 * batch)
    conditional, unconditional = both if guided.conditional_first else both[::-1]
    return Conditioning(
        call.network,
        call.latent_name,
        step.sample.shape,
        call.latent.dtype,
        conditional,
        unconditional,
        doubled,
        guided,
        read_control(step, guided.conditional_first),
    )


def _measured(step: RecordedStep, scales: Sequence[float]) -> Guided:
    """How the pipeline guides, checked against our own combination of all its probes."""
    if step.combined.shape != step.sample.shape:
        raise NotRecorded(
            f"this pipeline makes a prediction of shape {tuple(step.combined.shape)} of what its network returns for "
            f"latents of {tuple(step.sample.shape)}, in a way that reflection does not know"
        )
    guided = measure(step.combined, scales)
    if not bool(combined_alike(step, our_combination(step, guided), guided)):
        raise not_plain(scales)
    return guided


def _check_call(call: NetworkCall, sample: Tensor) -> None:
    name = type(call.network).__name__
    for argument in LATENT_DEPENDENT:
        value = call.arguments.get(argument)
        if value is not None and not isinstance(value, ControlOutput):
            raise NotRecorded(
                f"{name} is given {argument}, which depends on the latent and was not computed by the pipeline's "
                "ControlNet alone; reflection cannot compute it at another latent: use the pipeline without it"
            )
    if call.latent.shape[1:] != sample.shape[1:]:
        raise NotRecorded(
            f"{name} is given a latent of shape {tuple(call.latent.shape)} while the scheduler steps one of "
            f"{tuple(sample.shape)}; networks that take more than the latent (inpainting, image to video by "
            "concatenation) are not supported"
        )


def _without_latent(call: NetworkCall) -> dict[str, Any]:
    """What the network is passed, but for the latent and what is computed from it."""
    left_out = {name for name, value in call.arguments.items() if isinstance(value, ControlOutput)} | {call.latent_name}
    return {name: value for name, value in call.arguments.items() if name not in left_out}
