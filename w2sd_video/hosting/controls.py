"""ControlNets: their outputs depend on the latent, so their recorded call is made again at every latent.

What differs from side to side is the scale of the outputs; a ControlNet of scale 0 is not evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from w2sd_video.gaps.control_settings import ControlSetting, nets_of, unwrapped
from w2sd_video.hosting.arguments import Arguments, equal, for_rows, fresh, halves
from w2sd_video.hosting.recording import ControlOutput, NotRecorded, RecordedStep

if TYPE_CHECKING:
    from w2sd_video.hosting.run import Counter


@dataclass(frozen=True, eq=False)
class Control:
    """The arguments of a step's ControlNet call, without the latent and the scale.

    `conditional`, `unconditional` and `doubled` are as in `Conditioning`; the two halves are one object where the
    pipeline calls the ControlNet once for two calls of its network (Flux). `outputs` says which output of the
    ControlNet is which argument of the network; `scales` are those in force, `recorded` those the pipeline passed it.
    """

    network: nn.Module
    latent_name: str
    dtype: torch.dtype
    outputs: dict[str, int]
    recorded: tuple[float, ...]
    conditional: Arguments
    unconditional: Arguments | None = None
    doubled: Arguments | None = None
    setting: ControlSetting | None = None
    scales: tuple[float, ...] = ()

    def for_rows(self, batch: int, rows: Sequence[int]) -> Control:
        """The same for other latents (see `Conditioning.for_rows`)."""
        return for_rows(self, batch, rows)

    def set_to(self, setting: ControlSetting, step: int, num_steps: int) -> Control | None:
        """The same with these scales at this step; None if they are 0 at every step."""
        if not any(setting.scales):
            return None
        return replace(self, setting=setting, scales=setting.at(step, num_steps))

    def passed_like(self, other: Control, counting: Sequence[str]) -> bool:
        """Whether both come to the same outputs at every latent and step, in these halves (waits for the device)."""
        return (
            self.network is other.network
            and (self.setting, self.outputs) == (other.setting, other.outputs)
            and all(equal(getattr(self, half), getattr(other, half)) for half in counting)
        )

    def at_latent(self, counter: Counter) -> Callable[[str, Tensor], dict[str, Any]]:
        """A function of (half, latent) to arguments of the network; halves that are one object are evaluated once."""
        made: dict[int, Sequence[Any]] = {}

        def residuals(half: str, latent: Tensor) -> dict[str, Any]:
            if not any(self.scales):
                return {}
            arguments = getattr(self, half)
            if id(arguments) not in made:
                made[id(arguments)] = self._evaluated(arguments, latent, counter)
            return {name: made[id(arguments)][index] for name, index in self.outputs.items()}

        return residuals

    def _evaluated(self, arguments: Arguments, latent: Tensor, counter: Counter) -> Sequence[Any]:
        nets = nets_of(self.network)
        given = fresh(arguments)
        given[self.latent_name] = _as_frames(latent, latent.dim() == 5).to(self.dtype)
        given["return_dict"] = False
        if nets is None:
            counter.control_calls += 1
            return self.network(**given, conditioning_scale=self.scales[0])
        given["conditioning_scale"] = list(self.scales)
        used = [k for k, scale in enumerate(self.scales) if scale != 0]
        counter.control_calls += len(used)
        if len(used) == len(self.scales):
            return self.network(**given)
        for name, value in given.items():
            if isinstance(value, list) and len(value) == len(nets):
                given[name] = [value[k] for k in used]
        with _only(self.network, [nets[k] for k in used]):
            return self.network(**given)


def read_control(step: RecordedStep, conditional_first: bool) -> Control | None:
    """Returns the ControlNet call of a recorded step, None without one.

    Raises:
        NotRecorded: the pipeline does something else than one call on its latent, handed to its network as it comes.
    """
    outputs = [
        {name: value for name, value in call.arguments.items() if isinstance(value, ControlOutput)}
        for call in step.calls
    ]
    if not step.controls and not any(outputs):
        return None
    indices = [{name: output.index for name, output in each.items()} for each in outputs]
    strange = any(output.call not in step.controls for each in outputs for output in each.values())
    if len(step.controls) != 1 or not indices[0] or any(each != indices[0] for each in indices) or strange:
        raise NotRecorded(
            f"this pipeline calls its ControlNet {len(step.controls)} times at a step, or hands its outputs to some "
            "calls of its network only; reflection knows one call whose outputs go to all"
        )
    (call,) = step.controls
    batch, rows = step.sample.shape[0], call.latent.shape[0]
    seen = step.calls[0].latent
    if call.latent.shape != _as_frames(seen, seen.dim() == 5).shape:
        raise NotRecorded(
            f"{type(call.network).__name__} is given a latent of shape {tuple(call.latent.shape)} while "
            f"{type(step.calls[0].network).__name__} is given {tuple(seen.shape)}; reflection knows ControlNets that "
            "see what the network sees"
        )
    arguments = {name: value for name, value in call.arguments.items() if name not in (call.latent_name, "return_dict")}
    scale = arguments.pop("conditioning_scale", 1.0)
    recorded = tuple(float(each) for each in (scale if isinstance(scale, list | tuple) else [scale]))
    settled = call.network, call.latent_name, call.latent.dtype, indices[0], recorded
    if len(step.calls) == 2:
        return Control(*settled, arguments, arguments)
    if seen.shape[0] == batch:
        return Control(*settled, arguments)
    both = halves(arguments, 2 * batch if rows % (2 * batch) == 0 else rows)
    conditional, unconditional = both if conditional_first else both[::-1]
    return Control(*settled, conditional, unconditional, arguments)


def check_scales(control: Control | None, setting: ControlSetting | None, step: int, num_steps: int) -> None:
    """Raises `NotRecorded` if the pipeline itself scales its ControlNet otherwise at this step than we would."""
    if control is None:
        return
    ours = () if setting is None else setting.at(step, num_steps)
    if ours != control.recorded:
        raise NotRecorded(
            f"this pipeline scales its ControlNet by {list(control.recorded)} at step {step + 1} of {num_steps}, where "
            f"its arguments come to {list(ours)}; leave control_guidance_start and control_guidance_end at 0 and 1"
        )


def check_same_latent(step: RecordedStep) -> None:
    """Raises `NotRecorded` if the ControlNet sees another latent than the network (waits for the device)."""
    for call in step.controls:
        seen = step.calls[0].latent
        if not torch.equal(call.latent.float(), _as_frames(seen, seen.dim() == 5).to(call.latent.dtype).float()):
            raise NotRecorded(
                f"this pipeline gives {type(call.network).__name__} another latent than its network, in a way that "
                "reflection does not know; it cannot be reflected"
            )


def _as_frames(latent: Tensor, video: bool) -> Tensor:
    """A video [B, C, F, H, W] as the pictures a ControlNet sees, [B * F, C, H, W]."""
    return latent.transpose(1, 2).flatten(0, 1) if video else latent


@contextmanager
def _only(network: nn.Module, nets: list[nn.Module]) -> Iterator[None]:
    """Inside, a network of several ControlNets has only these; called as a whole, as offloading hooks are on it."""
    modules = unwrapped(network)._modules
    all_of_them = modules["nets"]
    modules["nets"] = nn.ModuleList(nets)
    try:
        yield
    finally:
        modules["nets"] = all_of_them
