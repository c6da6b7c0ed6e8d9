"""The sides of one call: what is evaluated as strong and weak, with what conditioning and guidance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from w2sd_video.core import TrainedLevels
from w2sd_video.errors import UserError
from w2sd_video.gaps.control_settings import ARGUMENTS, ControlSetting, control_of, control_setting
from w2sd_video.gaps.switches import SwitchBoard, switched
from w2sd_video.hosting.calls import (
    CallGuidance,
    call_guidance,
    call_signature,
    evaluated_by,
    replaced,
    with_both_halves,
    with_prompts,
)
from w2sd_video.hosting.conditioning import Conditioning, passed_alike, read_conditioning
from w2sd_video.hosting.recording import NotRecorded, RecordedStep, Recorder, RecordingDone
from w2sd_video.hosting.run import EvaluationBar, progress_bar_replaced
from w2sd_video.latents.schedules import prediction_of, trained_levels
from w2sd_video.latents.spaces import LatentSpace, compare_spaces
from w2sd_video.pair import ModelSpec

POOLED = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")


@dataclass(frozen=True)
class Side:
    """A model as the sampler sees it; None means as the pipeline itself does it at the current step.

    Attributes:
        network: evaluated instead of the conditioning's own.
        conditioning: recorded from another call; its timestep is replaced by the current one (of replayed calls what
            differs from the pipeline's own).
        guidance: scale of classifier-free guidance.
        embedded: value of the guidance that is an input of the network, in the units of the call's argument.
        prediction: what the network predicts.
        settings: of the network, in force while this side is evaluated, by name (see `switches`).
        control: the scale of the ControlNet and when it is in force, where the conditioning has one.
        levels: those that the network was trained at, to be asked at the nearest of them; None for all.
        time_unit: what timesteps are multiplied with before this side's network is passed them, where that was found in
            a call of its own.
    """

    network: nn.Module | None = None
    conditioning: Any = None
    guidance: float | None = None
    embedded: float | None = None
    prediction: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    control: ControlSetting | None = None
    levels: TrainedLevels | None = None
    time_unit: float | None = None

    def differs_in_guidance_alone(self, other: Side) -> bool:
        """Whether one evaluation of both halves of guidance gives both sides."""
        return replace(self, guidance=None) == replace(other, guidance=None)


@dataclass(frozen=True)
class Sides:
    """What a call evaluates; the control's `weak` is its very `reflector`.

    Attributes:
        strong: the strong side as it samples; reflector: as it reflects; weak: the weak side.
    """

    strong: Side
    reflector: Side
    weak: Side


@dataclass(frozen=True)
class Resolved:
    """A side with nothing left open: what is evaluated, with what arguments and guidance, and what it predicts."""

    network: nn.Module
    conditioning: Conditioning
    guidance: float
    prediction: str
    settings: Mapping[str, Any]
    levels: TrainedLevels | None = None
    time_unit: float | None = None

    def equals(self, other: Resolved, switches: SwitchBoard) -> bool:
        """Whether the two predict the same, whatever the latent (waits for the device)."""
        return (
            self.network is other.network
            and (self.guidance, self.prediction) == (other.guidance, other.prediction)
            and self.levels == other.levels
            and switches.alike(self.network, self.settings, other.settings)
            and passed_alike(self.conditioning, other.conditioning, self.guidance)
        )


# Not for a call that only records: its latents are thrown away, and nobody is to be called back.
LEFT_OUT = ("callback", "callback_steps", "callback_on_step_end", "callback_on_step_end_tensor_inputs", "generator")


@dataclass(frozen=True)
class WeakSide:
    """The `weak` argument of `reflected`, taken apart: a pipeline or a network or neither, and what else differs."""

    pipe: Any = None
    network: nn.Module | None = None
    spec: ModelSpec = field(default_factory=ModelSpec)
    inputs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SideMaker:
    """Makes the sides of a call of `kind.__call__(pipe, **arguments)`, which guides as `guidance` says.

    `both` is whether every side's own call is to prepare both halves of guidance, whatever its scale; `read` makes the
    conditioning of a side of what `record` found, given the scales of its call, and `recorder` makes it find that.
    """

    pipe: Any
    kind: type
    arguments: dict[str, Any]
    guidance: CallGuidance
    both: bool = False
    read: Callable[[RecordedStep, Sequence[float]], Any] = read_conditioning
    recorder: Any = Recorder

    def argument(self, name: str) -> Any:
        """The value of a call argument, given or by default."""
        return self.arguments.get(name, call_signature(self.kind).parameters[name].default)

    def strong(self) -> Side:
        """The strong side as it samples."""
        return Side(control=self._control(self.pipe, self.arguments))

    def reflector(self, spec: ModelSpec) -> Side:
        """The strong side inside the reflection; what `spec` leaves out is as it samples."""
        side = replace(self.strong(), settings=switched(spec), levels=self._levels(spec, self.pipe))
        side = self._guided(_with_control(side, spec), spec.guidance)
        if spec.prompt is None and spec.negative_prompt is None:
            return side
        return self._recorded(side, self.pipe, with_prompts(spec, self.arguments), spec, spec.guidance)

    def weak(self, weak: WeakSide, reflector_spec: ModelSpec, reflector: Side) -> Side:
        """The weak side; what is not said about it is as on the strong side inside the reflection."""
        spec = weak.spec
        settings = {**reflector.settings, **switched(spec)}
        levels = reflector.levels
        if spec.levels is not None:
            levels = self._levels(spec, self.pipe if weak.pipe is None else weak.pipe)
        side = replace(reflector, network=weak.network, settings=settings, levels=levels)
        side = self._guided(_with_control(side, spec), spec.guidance)
        alike = weak.pipe is None and not weak.inputs and spec.prompt is None and spec.negative_prompt is None
        if alike and not _lacks_guidance(side):
            return side
        pipe = self.pipe if weak.pipe is None else weak.pipe
        given = with_prompts(reflector_spec, self.arguments)
        if weak.pipe is not None:  # of an encoder that its family does not have (Chroma beside Flux)
            taken = call_signature(self._kind_of(pipe)).parameters
            given = {name: value for name, value in given.items() if name in taken or name not in POOLED}
        arguments = self._accepted(given, pipe)
        unknown = set(weak.inputs) - set(call_signature(self._kind_of(pipe)).parameters)
        if unknown:
            raise UserError(
                f"weak_inputs has {', '.join(sorted(unknown))}, which a {type(pipe).__name__} call does not take"
            )
        arguments = replaced(with_prompts(spec, arguments), weak.inputs)
        scale = spec.guidance if spec.guidance is not None else reflector_spec.guidance
        if weak.pipe is not None:
            side = replace(side, prediction=prediction_of(pipe.scheduler))
        if side.embedded is not None and call_guidance(self._kind_of(pipe), pipe, arguments).embedded is None:
            side = replace(side, embedded=None, guidance=scale)  # Flux over Chroma: no input of the weak network
        if weak.pipe is not None or any(name in ARGUMENTS for name in weak.inputs):
            side = replace(side, control=self._control(pipe, arguments))
            inherits = control_of(self.pipe) is not None and "controlnet_conditioning_scale" not in weak.inputs
            side = _with_control(_with_control(side, reflector_spec) if inherits else side, spec)
        return self._recorded(side, pipe, arguments, spec, scale, set(weak.inputs))

    @staticmethod
    def _levels(spec: ModelSpec, pipe: Any) -> TrainedLevels | None:
        return None if spec.levels is None else trained_levels(spec.levels, pipe.scheduler)

    def _guided(self, side: Side, scale: float | None) -> Side:
        if scale is None:
            return side
        if self.guidance.embedded is None:
            return replace(side, guidance=float(scale))
        if self.guidance.embedded == 0:
            raise UserError(
                "guidance of the other side is set by proportion here: call with a guidance_scale other than 0"
            )
        return replace(side, embedded=float(scale))

    def _control(self, pipe: Any, arguments: Mapping[str, Any]) -> ControlSetting | None:
        return control_setting(call_signature(self._kind_of(pipe)).parameters, pipe, arguments)

    def _kind_of(self, pipe: Any) -> type:
        return self.kind if pipe is self.pipe else type(pipe)

    def _accepted(self, arguments: dict[str, Any], pipe: Any) -> dict[str, Any]:
        """The arguments that another pipeline's call takes; refused if one that matters is not among them."""
        taken = call_signature(self._kind_of(pipe)).parameters
        defaults = call_signature(self.kind).parameters
        if control_of(pipe) is None and control_of(self.pipe) is not None:  # a side without ControlNet
            own = ("image",) if "control_image" not in defaults else ()
            arguments = {name: v for name, v in arguments.items() if name in taken or name not in (*ARGUMENTS, *own)}
        for name, value in arguments.items():
            unset = value is None or (name in defaults and value is defaults[name].default)
            if name not in taken and name not in LEFT_OUT and not unset:
                raise UserError(
                    f"the call gives {name}, which the weak {type(pipe).__name__} does not take; leave it out, or give "
                    "weak as a network"
                )
        return {name: value for name, value in arguments.items() if name in taken and name not in LEFT_OUT}

    def _recorded(
        self,
        side: Side,
        pipe: Any,
        arguments: dict[str, Any],
        spec: ModelSpec,
        scale: float | None,
        given: set[str] = frozenset(),  # type: ignore[assignment]
    ) -> Side:
        """The side with the conditioning of a call of its own; `scale` None is guidance as the strong side samples."""
        kind = self._kind_of(pipe)
        for name in ("prompt", "negative_prompt"):
            if getattr(spec, name) is not None and name not in call_signature(kind).parameters:
                raise UserError(
                    f"{name} differs, but a {kind.__name__} call takes none; change what it does take by weak_inputs"
                )
        guidance = call_guidance(kind, pipe, arguments)
        if scale is None and guidance.name in given:
            scale = guidance.scale if guidance.embedded is None else guidance.embedded
        if guidance.embedded is not None:
            if spec.negative_prompt is not None:
                raise UserError(
                    "negative_prompt differs, but this call has no guidance that uses one; "
                    f"call the pipeline with {guidance.name} above 1 and a negative prompt"
                )
            if scale is not None:
                arguments = {**arguments, "guidance_scale": scale}
            side = replace(side, guidance=1.0, embedded=None)
        else:
            in_force = self.guidance.scale if scale is None else float(scale)
            by_itself = getattr(pipe, "guider", None) is not None  # it prepares its halves
            # Without one scale of the call's, the pipeline has a guider's, or one for each frame (SVD).
            as_called = scale is None and (self.guidance.real or guidance.name is None)
            if in_force == 1 and not as_called and spec.negative_prompt is not None:
                raise UserError("negative_prompt differs, but guidance 1 uses none; set another guidance")
            if (in_force != 1 or self.both) and not by_itself:
                arguments = with_both_halves(guidance, arguments)
            side = replace(side, guidance=None if as_called else in_force, embedded=None)
        generator = self.arguments.get("generator")
        apart = pipe is not self.pipe and side.levels is not None and _counts_otherwise(self.pipe, pipe)
        scheduler = pipe.scheduler if apart else self.pipe.scheduler
        step = record(pipe, kind, arguments, scheduler, generator, recorder=self.recorder)
        conditioning = self.read(step, call_guidance(kind, pipe, arguments).scales)
        side = replace(side, conditioning=conditioning)
        return replace(side, time_unit=time_unit(step, conditioning, kind)) if apart else side


def _counts_otherwise(pipe: Any, other: Any) -> bool:
    """Whether one timestep means two noise levels to two pipelines, or may."""
    found = compare_spaces(LatentSpace.of(pipe), LatentSpace.of(other))
    return found.path is not True or found.levels is not True


def time_unit(step: RecordedStep, conditioning: Conditioning, kind: type) -> float:
    """What a scheduler's timestep is multiplied with before it is passed to the network (Flux: 1 / 1000).

    Raises:
        NotRecorded: something else is done with it.
    """
    passed, timestep = float(conditioning.timestep.reshape(-1)[0]), float(step.timestep)
    for unit in (1.0, 1e-3):
        if math.isclose(passed, timestep * unit, rel_tol=1e-2):
            return unit
    raise NotRecorded(
        f"{kind.__name__} passes its network {passed:g} at timestep {timestep:g}; known are the timestep itself and a "
        "thousandth of it"
    )


def _lacks_guidance(side: Side) -> bool:
    """Whether a recorded conditioning was made for the guidance of another side, and will not do for this one's."""
    if not isinstance(side.conditioning, Conditioning):
        return False
    return side.embedded is not None or (side.conditioning.unconditional is None and side.guidance not in (None, 1.0))


def _with_control(side: Side, spec: ModelSpec) -> Side:
    """The side with the ControlNet's scale of the spec, where it has one."""
    return side if side.control is None else replace(side, control=side.control.with_scale(spec.control))


def record(
    pipe: Any,
    kind: type,
    arguments: Mapping[str, Any],
    scheduler: Any,
    generator: Any = None,
    *,
    recorder: Any = Recorder,
) -> RecordedStep:
    """Returns the first step of a call of `pipe`, an instance of `kind`, on `scheduler`, stopping the call there.

    Its noise is that of `generator` (or a list of them; None for torch's own), which stays where it is: control images
    are encoded with noise (Flux, SD3), which is to be that of the call that follows.
    """
    found: list[RecordedStep] = []

    def stop(step: RecordedStep) -> Tensor:
        found.append(step)
        raise RecordingDone

    own = pipe.scheduler
    quiet = progress_bar_replaced(pipe, lambda iterable, total: EvaluationBar(None, iterable, total, None))
    arguments = {name: value for name, value in arguments.items() if name not in LEFT_OUT}
    arguments["generator"] = _copied(generator)
    forked = torch.random.fork_rng(devices=range(torch.cuda.device_count()))
    vars(pipe)["scheduler"] = scheduler
    try:
        installed = recorder(evaluated_by(pipe), scheduler, stop, control_of(pipe), name=kind.__name__).installed()
        with forked, quiet, installed:
            kind.__call__(pipe, **arguments)  # type: ignore[operator]
    except RecordingDone:
        pass
    finally:
        vars(pipe)["scheduler"] = own
        pipe.maybe_free_model_hooks()
    if not found:
        raise UserError(
            f"the call of the weak {type(pipe).__name__} ended without a sampling step; check its arguments"
        )
    return found[0]


def _copied(generator: Any) -> Any:
    if isinstance(generator, list | tuple):
        return [_copied(each) for each in generator]
    if generator is None:
        return None
    copy = torch.Generator(generator.device)
    copy.set_state(generator.get_state())
    return copy
