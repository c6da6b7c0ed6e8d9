"""Turning any diffusers pipeline call into a W2SD call.

The stock pipeline runs as ever: it encodes prompts, makes latents, loops, calls back, decodes and frees its hooks. Only
the two things its loop is made of are taken over: calling the network is recorded, and `scheduler.step` makes one step
of our sampler, with the real networks, at that step's recorded conditioning.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from w2sd_video.core import NoiseSampler, OnReflect, ReflectionConfig, Selector
from w2sd_video.errors import UserError
from w2sd_video.gaps.control_settings import check_spec_control, control_of
from w2sd_video.hosting.caches import check_caches
from w2sd_video.hosting.calls import call_arguments, call_guidance, check_spec, networks_of, with_both_halves
from w2sd_video.hosting.cross_latent import CrossLatentSide
from w2sd_video.hosting.judging import Judge, check_pictures
from w2sd_video.hosting.listening import Exchange, Listener
from w2sd_video.hosting.own_scale import guider_of
from w2sd_video.hosting.recording import NotRecorded, Recorder
from w2sd_video.hosting.refusals import (
    check_call,
    check_cross_latent,
    check_network,
    check_pipelines,
    check_replay,
    check_selection,
)
from w2sd_video.hosting.replay import Replay
from w2sd_video.hosting.run import EvaluationBar, Run, progress_bar_replaced
from w2sd_video.hosting.sampling import Sampler
from w2sd_video.hosting.sides import Side, SideMaker, Sides, WeakSide
from w2sd_video.hosting.stepping import HostedCall
from w2sd_video.hosting.wishes import noise_states, put_back
from w2sd_video.latents.schedules import check_scheduler
from w2sd_video.pair import ModelSpec, Selection

Weak = Any  # a pipeline | nn.Module | ModelSpec | (pipeline or nn.Module, ModelSpec) | "zero-gap" | None
Progress = bool | Callable[[int, int], None] | None
ON_STEP_END = "callback_on_step_end"
CALLBACKS = (ON_STEP_END, "callback")
MASKS = ("mask_image", "mask")  # of what is known, blended in again between steps
OWN_CALLBACKS = (PipelineCallback, MultiPipelineCallbacks)  # pipelines ask for these classes
HOSTED = "_w2sd_hosted"
HOSTS = ("auto", "record", "replay")


@contextmanager
def reflected(
    pipe: Any,
    weak: Weak = None,
    *,
    num_reflections: int | None = None,
    mode: str = "paper",
    strength: float = 1.0,
    reflector: ModelSpec | None = None,
    config: ReflectionConfig | None = None,
    method: str = "w2sd",
    selection: Selection | None = None,
    on_reflect: OnReflect | None = None,
    weak_inputs: Mapping[str, Any] | None = None,
    first_order: bool = False,
    progress: Progress = None,
    host: str = "auto",
) -> Iterator[Run]:
    """While active, every call of `pipe` is a W2SD call; yields the `Run` that counts what the latest call did.

        with reflected(pipe, weak=weak_unet, num_reflections=49) as run:
            frames = pipe(prompt, num_inference_steps=50, guidance_scale=3.0, generator=g).frames
        run.num_evaluations, run.num_rows, run.gaps

    The strong side samples as the call says: with its `guidance_scale` (`true_cfg_scale` where there is one), of which
    diffusers takes 1 and less for no guidance. What the weak side leaves out is as the strong side reflects
    (`reflector`), and what `reflector` leaves out is as the strong side samples. Guidances of these two may be any
    number, 0 and negative ones included, also where the call itself has guidance off. On a network whose guidance is
    an input (Flux) they are that input, unless the call runs real guidance (`true_cfg_scale` above 1 and a negative
    prompt): then they are the scale of that.

    Args:
        pipe: a diffusers pipeline (of a modular one less may differ: see `reflected_modular`). Prompts, latents,
            callbacks, interrupts, decoding, output types and offloading are its own; the scheduler is the one it has
            when called.
        weak: another pipeline of the same latent space; another network (`nn.Module`) of the class of the pipeline's
            own; a `ModelSpec` of what differs on the same network (guidance, prompt, control, routing ...); a tuple
            (pipeline or network, ModelSpec); or "zero-gap", the control whose weak side is the strong side as it
            reflects. None only without reflections: plain sampling through the same code.
        num_reflections: lambda, from the noisiest step; None is one fewer than the steps.
        mode: "paper" (Alg. 1), "fused" (Theorem 1) or "release" (the published code's coefficients).
        strength: multiplies the move of each reflection, or is the weight of auto-guidance.
        reflector: how the strong side differs inside the reflection (guidance, prompt, control ...).
        config: the four settings above and all others of a reflection in one; give either it or them.
        method: "w2sd" (Alg. 1); "w2sd-auto" (Alg. 2), which picks the stronger side by `selection`, step by step and
            sample by sample, and begins with the strong one; "resample" (Alg. 3), which makes no use of the weak side;
            "resample-aligned" (Alg. 4) and its control "resample-opposed" (Table 15); or "autoguided" (App. E.5).
            Which settings a method takes: `core.options.SETTINGS`. Noise is drawn with the call's own generators.
        selection: the reward of "w2sd-auto".
        on_reflect: called after each reflection with the number of the step (from 0) and the latents x and x~ before
            and after it, float32, at that step's level; not to be changed in place.
        weak_inputs: call arguments in place of the strong call's when the weak side's conditioning is made, such as
            prompt_embeds computed before its text encoders were freed.
        first_order: steps of first order on the grid of a multistep scheduler. Without it DPM-Solver++(2M) makes its
            own steps of second order, and others (UniPC, PNDM ...) are refused.
        progress: False for no progress bar; a function (done, total) called after each evaluation, instead of the bar;
            None for the pipeline's own bar, counting evaluations.
        host: "record" repeats each step's recorded arguments at other latents, the fast way, exact where a pipeline
            passes its network the latent alone and guides plainly; "replay" has the pipeline's own loop make every
            evaluation; "auto" records where that is exact and replays elsewhere. `run.host` says which it was.

    Raises:
        UserError: on entry or in the call, before the first evaluation, for what cannot be reflected.
        NonFiniteLatentError: in the call, naming the step whose latent was not finite.
    """
    chosen = _config(config, num_reflections, mode, strength, reflector)
    chosen.check_method(method)
    if host not in HOSTS:
        raise UserError(f"host is {host!r}; choose one of {', '.join(HOSTS)}")
    if hasattr(pipe, "update_components"):  # a modular pipeline; its module is loaded then, and not otherwise
        from w2sd_video.hosting.modular import reflected_modular

        if method != "w2sd" or selection or weak_inputs or first_order or progress is not None or host != "auto":
            raise UserError(
                "of a modular pipeline method, selection, weak_inputs, first_order, progress and host cannot be set; "
                "leave them out, or use the classic pipeline of that family"
            )
        with reflected_modular(pipe, weak, chosen, on_reflect) as run:
            yield run
        return
    spec = ModelSpec() if chosen.reflector is None else chosen.reflector
    check_selection(method, selection)
    if hasattr(type(pipe), HOSTED):
        raise UserError("this pipeline is already inside a `with reflected(...)`; leave that one first")
    networks = networks_of(pipe)
    check_scheduler(pipe.scheduler, first_order=first_order)
    check_spec(spec, "reflector", networks)
    check_spec_control(spec.control, "reflector", pipe)
    cross_latent = weak if isinstance(weak, CrossLatentSide) else None
    if cross_latent is not None:
        check_cross_latent(method, chosen)
    elif chosen.draws:
        raise UserError(
            f"draws is {chosen.draws}; noise of both models' own is for a bridge between latent spaces: leave draws out"
        )
    side = (
        None
        if cross_latent
        else _weak_side(pipe, weak, weak_inputs, asked=not chosen.plain(method) and method != "resample")
    )
    if chosen.plain(method):
        side, cross_latent, spec = None, None, ModelSpec()  # plain sampling, whatever the sides
    elif method == "resample":
        side = None
    elif selection is not None:
        check_pictures(pipe)
    run = Run() if cross_latent is None else cross_latent.run
    kind = type(pipe)
    hosting = _Host(
        pipe, kind, side, cross_latent, spec, method, chosen, first_order, run, selection, on_reflect, progress, host
    )
    object.__setattr__(pipe, "__class__", _hosted_class(kind, hosting.call))
    try:
        yield run
    finally:
        object.__setattr__(pipe, "__class__", kind)


@dataclass
class _Host:
    """Runs the calls of one `with reflected(...)`, one at a time."""

    _pipe: Any
    _kind: type
    _weak: WeakSide | None
    _cross_latent: CrossLatentSide | None
    _reflector: ModelSpec
    _method: str
    _options: ReflectionConfig
    _first_order: bool
    _run: Run
    _selection: Selection | None
    _on_reflect: OnReflect | None
    _progress: Progress
    _host: str
    _busy: bool = False
    _why: NotRecorded | None = None  # calls are replayed

    def call(self, args: tuple, kwargs: Mapping[str, Any]) -> Any:
        if self._busy:
            raise UserError(
                "the pipeline was called inside its own reflected call; call it after that one has returned"
            )
        self._busy = True
        try:
            return self._call(args, kwargs)
        finally:
            self._busy = False

    def _call(self, args: tuple, kwargs: Mapping[str, Any]) -> Any:
        pipe, kind = self._pipe, self._kind
        self._run.reset()
        arguments = call_arguments(kind, pipe, args, kwargs)
        check_scheduler(pipe.scheduler, first_order=self._first_order)
        if self._host == "replay" or self._why is not None:
            return self._replayed(arguments)
        as_it_was = noise_states(arguments.get("generator"))
        try:
            return self._recorded(arguments)
        except NotRecorded as error:
            if self._host == "record" or self._cross_latent is not None or self._run.num_steps:
                raise
            self._why = error  # further calls need not find that out
        put_back(as_it_was)
        getattr(pipe, "maybe_free_model_hooks", lambda: None)()
        self._run.reset()
        self._run.note(f"replayed: {self._why}")
        return self._replayed(arguments)

    def _recorded(self, arguments: dict[str, Any]) -> Any:
        """The call, its steps' arguments recorded and repeated at other latents."""
        pipe, kind = self._pipe, self._kind
        self._run.host = "record"
        check_call(pipe, arguments, self._options, controls=self._cross_latent is None)
        guidance = call_guidance(kind, pipe, arguments)
        maker = SideMaker(pipe, kind, arguments, guidance)
        reflector, weak = self._reflector_and_weak(maker)
        if self._cross_latent is not None:
            self._cross_latent.prepare(pipe, kind, arguments)
        given = arguments
        if any(side.conditioning is None and side.guidance not in (None, 1.0) for side in (reflector, weak)):
            if guidance.name is None and guider_of(pipe) is not None:
                raise NotRecorded(f"{type(guider_of(pipe)).__name__} guides this {kind.__name__}")
            given = with_both_halves(guidance, arguments)
        sampler = self._sampler(arguments, Sides(maker.strong(), reflector, weak))
        hosted = HostedCall(pipe, sampler, guidance, forced=given is not arguments)
        recorder = Recorder(networks_of(pipe), pipe.scheduler, hosted.step, control_of(pipe), name=kind.__name__)
        return self._made(sampler, hosted, recorder, given, maker, forced=given is not arguments)

    def _replayed(self, arguments: dict[str, Any]) -> Any:
        """The call, its own loop making every evaluation."""
        pipe, kind = self._pipe, self._kind
        self._run.host = "replay"
        check_call(pipe, arguments, self._options, controls=True, recorded=False)
        if self._weak is not None and self._weak.pipe is not None:
            check_pipelines(pipe, self._weak.pipe)  # its own loop is the strong side's
        guidance = call_guidance(kind, pipe, arguments)
        specs = [self._reflector, *([] if self._weak is None else [self._weak.spec])]
        guidances = [] if guidance.embedded is not None else [spec.guidance for spec in specs]
        check_replay(pipe, self._why, guidances, cross_latent=self._cross_latent is not None)
        own = any(each not in (None, 1.0) for each in guidances)
        forced = own and not guidance.real and guider_of(pipe) is None
        given = with_both_halves(guidance, arguments) if forced else arguments
        both = forced or guidance.real
        maker = SideMaker(pipe, kind, arguments, guidance, both=both, read=Exchange.of, recorder=Listener)
        sampler = self._sampler(arguments, Sides(maker.strong(), *self._reflector_and_weak(maker)))
        states = functools.partial(noise_states, arguments.get("generator"))
        blends = any(arguments.get(name) is not None for name in MASKS)
        replay = Replay(pipe, kind, sampler, guidance, noise_states=states, forced=forced, blends=blends)
        return self._made(sampler, replay, replay, given, maker, forced=forced)

    def _reflector_and_weak(self, maker: SideMaker) -> tuple[Side, Side]:
        reflector = maker.reflector(self._reflector)
        return reflector, reflector if self._weak is None else maker.weak(self._weak, self._reflector, reflector)

    def _sampler(self, arguments: dict[str, Any], sides: Sides) -> Sampler:
        return Sampler(
            self._method,
            self._options,
            sides,
            self._run,
            noise_sampler(arguments.get("generator")),
            functools.partial(self._selector, arguments),
            cross_latent=self._cross_latent,
            first_order=self._first_order,
            on_reflect=self._on_reflect,
        )

    def _made(
        self,
        sampler: Sampler,
        hosted: HostedCall | Replay,
        recorder: Recorder | Replay,
        given: dict[str, Any],
        maker: SideMaker,
        *,
        forced: bool,
    ) -> Any:
        """What the pipeline's own call returns, with everything in place around it."""
        pipe, kind = self._pipe, self._kind
        bar = functools.partial(self._bar, sampler)
        callbacks = {name: f for name in CALLBACKS if callable(f := given.get(name))}
        lifted: dict[str, Any] = {name: recorder.lifted(function) for name, function in callbacks.items()}
        if isinstance(object_ := callbacks.get(ON_STEP_END), OWN_CALLBACKS):  # whose inputs pipelines ask it for
            lifted[f"{ON_STEP_END}_tensor_inputs"] = object_.tensor_inputs
        count = vars(pipe).pop("_num_timesteps", None)  # to be this call's own
        try:
            with progress_bar_replaced(pipe, bar), recorder.installed():
                result = kind.__call__(pipe, **{**given, **lifted})  # type: ignore[operator]
            hosted.finish()
        finally:
            hosted.close()
            if count is not None:
                vars(pipe).setdefault("_num_timesteps", count)
            if self._weak is not None and self._weak.pipe is not None:
                self._weak.pipe.maybe_free_model_hooks()
            if self._cross_latent is not None:
                self._cross_latent.close()
            if forced and hasattr(pipe, "_guidance_scale"):
                pipe._guidance_scale = maker.argument("guidance_scale")
        return result

    def _selector(self, arguments: Mapping[str, Any], sample: Tensor) -> Selector:
        """The selector of a call with these arguments, whose latents are like `sample`."""
        assert self._selection is not None
        judge = Judge(self._selection, self._pipe, self._kind, arguments, sample.shape, run=self._run)
        selector = Selector(judge, self._selection.threshold)
        self._run._choices = selector.choices
        return selector

    def _bar(self, sampler: Sampler, iterable: Iterable | None, num_steps: int) -> EvaluationBar:
        total = self._options.evaluations(num_steps, self._method)
        own = self._progress is None or self._progress is True
        bar = self._kind.progress_bar(self._pipe, total=total) if own else None  # type: ignore[attr-defined]
        report = self._progress if callable(self._progress) else None
        sampler.bar[:] = [EvaluationBar(bar, iterable, total, report)]
        return sampler.bar[0]


def noise_sampler(generator: torch.Generator | list[torch.Generator] | None) -> NoiseSampler:
    """Noise as pipelines draw it: by the call's generator, or each sample's by its own of a list."""
    return lambda x: randn_tensor(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def _hosted_class(kind: type, call: Callable[[tuple, Mapping[str, Any]], Any]) -> type:
    """A class like `kind` whose instances, when called, run `call` instead."""

    @functools.wraps(kind.__call__)  # type: ignore[operator]
    def hosted(_pipe: Any, *args: Any, **kwargs: Any) -> Any:
        return call(args, kwargs)

    body = {"__call__": hosted, "__module__": kind.__module__, "__qualname__": kind.__qualname__, HOSTED: True}
    return type(kind)(kind.__name__, (kind,), body)


def _config(
    config: ReflectionConfig | None, num_reflections: int | None, mode: str, strength: float, reflector: Any
) -> ReflectionConfig:
    given = (num_reflections, mode, strength, reflector) != (None, "paper", 1.0, None)
    if config is not None and given:
        raise UserError("give either config or num_reflections, mode, strength and reflector, not both")
    return config or ReflectionConfig(num_reflections, mode, strength, reflector)


def _weak_side(pipe: Any, weak: Weak, inputs: Mapping[str, Any] | None, *, asked: bool) -> WeakSide | None:
    """The `weak` argument taken apart and checked; None for the control and where no weak side is used."""
    if isinstance(weak, str) or weak is None:
        if weak not in (None, "zero-gap"):
            raise UserError(
                f'weak is {weak!r}; the only name is "zero-gap" (load a checkpoint first and give the pipeline)'
            )
        if weak is None and asked:
            raise UserError(
                "weak is missing; give a pipeline, a network or a ModelSpec of what differs, the control "
                'weak="zero-gap", or num_reflections=0 for plain sampling'
            )
        if inputs:
            raise UserError("weak_inputs needs a weak side to be the inputs of")
        return None
    if isinstance(weak, tuple):
        if len(weak) != 2 or isinstance(weak[0], ModelSpec):
            raise UserError("weak is a tuple; it must be (pipeline or network, ModelSpec)")
        model, spec = weak
    else:
        model, spec = (None, weak) if isinstance(weak, ModelSpec) else (weak, ModelSpec())
    inputs = dict(inputs or {})
    if model is None or model is pipe:
        check_spec(spec, "weak", networks_of(pipe))
        check_spec_control(spec.control, "weak", pipe)
        return WeakSide(None, None, spec, inputs)
    if isinstance(model, nn.Module):
        check_spec(spec, "weak", [model])
        check_spec_control(spec.control, "weak", pipe)
        check_network(model, pipe)
        own = networks_of(pipe)
        return WeakSide(None, None if len(own) == 1 and model is own[0] else model, spec, inputs)
    if not callable(model) or not hasattr(model, "scheduler"):
        raise UserError(f'weak is a {type(model).__name__}; give a pipeline, a network, a ModelSpec or "zero-gap"')
    if hasattr(type(model), HOSTED):
        raise UserError("the weak pipeline is itself inside a `with reflected(...)`; leave that one first")
    check_spec(spec, "weak", networks_of(model))
    check_caches(networks_of(model))
    check_spec_control(spec.control, "weak", model)
    check_pipelines(pipe, model, own_levels=spec.levels is not None)
    return WeakSide(model, None, spec, inputs)
