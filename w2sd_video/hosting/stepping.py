"""One hosted pipeline call: our sampler makes every step of the pipeline's own loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from w2sd_video.core import (
    W2SD,
    AutoSelect,
    CachedDenoiser,
    CachedGap,
    CustomReflection,
    Denoiser,
    DPMSolverMultistep,
    Euler,
    JointDenoiser,
    Level,
    NoiseSampler,
    Observed,
    OnReflect,
    Reflection,
    ReflectionConfig,
    Resample,
    Selector,
    Solver,
    autoguidance,
)
from w2sd_video.errors import UserError
from w2sd_video.gaps.switches import SwitchBoard
from w2sd_video.hosting.calls import BOTH_HALVES, CallGuidance, networks_of
from w2sd_video.hosting.conditioning import Conditioning, Guided, combined_alike, predict_each, read_conditioning
from w2sd_video.hosting.controls import check_scales
from w2sd_video.hosting.one_batch import by_sample, check_loras, in_one_batch, side_by_side
from w2sd_video.hosting.recording import RecordedStep
from w2sd_video.hosting.refusals import (
    check_first_step,
    check_placement,
    check_reflections,
    check_same_space,
    first_index,
)
from w2sd_video.hosting.run import EvaluationBar, FiniteWatch, Run, likely_cause
from w2sd_video.hosting.sides import Resolved, Side, Sides
from w2sd_video.latents.layouts import mean_over_latent_frames
from w2sd_video.latents.schedules import Schedule, read_schedule, to_native

if TYPE_CHECKING:
    from w2sd_video.hosting.cross_latent import CrossLatentSide


class HostedCall:
    """The state of one pipeline call; its `step` makes the steps of a `Recorder`.

    Args:
        pipe: the pipeline.
        method, options: what to do, as for `reflected`.
        sides: what is evaluated.
        guidance: how the user's call guides.
        run: where to count.
        cross_latent: a weak side in another latent space, in place of that of `sides`.
        forced: whether the pipeline is given a scale that only makes it prepare both halves of guidance.
        first_order: whether steps of a multistep scheduler are of first order.
        noise_sampler: of methods that draw noise.
        selector: of "w2sd-auto": makes it, once the latents are known.
        on_reflect: called after each reflection.
    """

    def __init__(
        self,
        pipe: Any,
        method: str,
        options: ReflectionConfig,
        sides: Sides,
        guidance: CallGuidance,
        run: Run,
        *,
        noise_sampler: NoiseSampler,
        selector: Callable[[Tensor], Selector],
        cross_latent: CrossLatentSide | None = None,
        forced: bool = False,
        first_order: bool = False,
        on_reflect: OnReflect | None = None,
    ) -> None:
        self.pipe, self.method, self.options, self.run, self.cross_latent = pipe, method, options, run, cross_latent
        self.bar: EvaluationBar | None = None
        self._sides, self._guidance = sides, guidance
        self._noise_sampler, self._selector = noise_sampler, selector
        self._forced, self._first_order, self._observer = forced, first_order, on_reflect
        self._networks = networks_of(pipe)
        self._switches = SwitchBoard()
        self._schedule: Schedule | None = None
        self._visited = self._owed = 0
        self._guidances: dict[tuple, tuple[Guided, Tensor]] = {}
        self._sent: tuple[Tensor, int] | None = None
        self._latent: Tensor | None = None
        self._now: dict[int, Resolved] = {}

    def step(self, recorded: RecordedStep) -> Tensor:
        """Returns the pipeline's next latent; called in place of `scheduler.step`."""
        if self._schedule is not None and recorded.schedule != self._schedules:
            self._restart()
        schedule = self._schedule or self._begin(recorded)
        scheduler = self.pipe.scheduler
        if getattr(scheduler, "_step_index", None) is not None:
            scheduler._step_index += 1
        if self._visited == len(schedule.steps):
            raise UserError(f"{type(self.pipe).__name__} goes on after its {len(schedule.steps)} timesteps are done")
        i = schedule.steps[self._visited]
        self._visited += 1
        if i is None:
            return recorded.sample
        self._current = self._read(recorded)
        check_scales(self._current.control, self._sides.strong.control, *self._place(schedule))
        x = self._advance(i, self._received(recorded.sample, schedule.scales[i]))
        self._watch.add(i, "the sampling part", x)
        self.run.num_steps += 1
        sent = _counting((x if schedule.scales[i + 1] == 1 else x * schedule.scales[i + 1]).to(recorded.sample.dtype))
        self._latent, self._sent = x, (sent, sent._version)
        if self._visited == len(schedule.steps):
            self._watch.finish()  # before the pipeline decodes
        return sent

    def finish(self) -> None:
        """Raises if some latent was not finite; to be called after the pipeline's loop."""
        if self._schedule is not None:
            self._watch.finish()
            if self.cross_latent is not None:
                self.cross_latent.finish()

    def close(self) -> None:
        """Leaves the networks as they were before the call; to be called whatever became of it."""
        self._switches.close()

    def _restart(self) -> None:
        """Ends a schedule after which the pipeline sets its timesteps anew (videos made section by section)."""
        if self.cross_latent is not None:
            raise UserError(
                f"{type(self.pipe).__name__} sets its timesteps again inside one call, which a pair of two latent "
                "spaces cannot follow; use another pipeline"
            )
        self._watch.finish()
        self._switches.close()
        self._schedule, self._sent, self._visited = None, None, 0

    def _begin(self, recorded: RecordedStep) -> Schedule:
        """Reads the schedule, and checks once what holds for all of it."""
        pipe, method, options = self.pipe, self.method, self.options
        self._schedules = recorded.schedule
        start = first_index(pipe.scheduler, recorded.timestep)
        count = getattr(pipe, "_num_timesteps", None)
        schedule = read_schedule(pipe.scheduler, start=start, count=count, first_order=self._first_order)
        check_reflections(method, options, schedule)
        self._current = self._read(recorded)
        check_first_step(recorded, schedule)
        for side in (self._sides.reflector, self._sides.weak):
            if side.conditioning is not None:
                check_same_space(side.conditioning, self._current, recorded.sample)
            if side.network is not None:
                check_placement(side.network, self._current.network)
        self._watch = FiniteWatch(schedule.num_steps, likely_cause(self._current.dtype))
        self._schedule = schedule
        self._costs = options.costs(schedule.num_steps, method)
        self._choose_method(schedule, recorded.sample)
        if self.cross_latent is not None:
            cached = options.gap_every is not None
            steps = (options.gap_steps if cached else options.steps)(schedule.num_steps, method)
            self.cross_latent.begin(schedule, steps, recorded.sample, self._evaluated)
        sides = self._sides
        weak, reflector = self._resolved(sides.weak), self._resolved(sides.reflector)
        for now in (reflector, weak):
            self._switches.check(now.network, now.settings)
            check_loras(now, len(recorded.sample))
        # One side used as both is the control, asked for by name.
        if sides.weak is not sides.reflector and weak.equals(reflector, self._switches):
            raise UserError(
                "the weak side differs in nothing from the strong side as it reflects; say what differs, "
                'or ask for that control by name: weak="zero-gap"'
            )
        strong = self._resolved(sides.strong)
        if options.lag and not reflector.equals(strong, self._switches):
            raise UserError(
                "lag puts a prediction of the strong side as it samples into the reflection, and here the strong side "
                "reflects otherwise; leave reflector out, or lag"
            )
        if options.gap_every is not None and not all(
            replace(reflector, guidance=scale).equals(replace(strong, guidance=scale), self._switches)
            for scale in (strong.guidance, reflector.guidance)
        ):
            raise UserError(
                "gap_every measures the gap at the evaluation of a sampling step, and here the strong side reflects "
                "otherwise than it samples, in more than classifier-free guidance; leave reflector out, or gap_every"
            )
        self._switches.hold(self._networks, [(now.network, now.settings) for now in (reflector, weak)])
        return schedule

    def _choose_method(self, schedule: Schedule, sample: Tensor) -> None:
        """What the method's parts are on this schedule: the denoiser that samples, the reflection and the solver."""
        method, options, sides = self.method, self.options, self._sides
        levels, path, draw = schedule.levels, schedule.path, self._noise_sampler
        own: dict[str, Any] = {"noise_sampler": draw}
        if options.motion_strength != 1 and not options.plain(method):
            packed = self._current.conditional.get("num_frames")
            own["still"] = mean_over_latent_frames(type(self.pipe).__name__, sample.shape, packed)
        strong, reflector, weak = (self._denoiser(side) for side in (sides.strong, sides.reflector, sides.weak))
        reflection: Reflection | None = None
        if options.plain(method):
            pass
        elif method == "autoguided":
            strong = autoguidance(strong, weak, options.strength, joint=self._joint(sides.strong))
        elif options.gap_every is not None:
            measured = self._measured if self.cross_latent is None else self._measured_across
            cached = CachedGap(levels, strong, measured, path, options, **own)
            reflection, strong = cached, cached.strong
        elif self.cross_latent is not None:
            across = partial(self.cross_latent.reflect, strong=reflector)
            reflection = CustomReflection(levels, across, options, **own)
        elif method == "w2sd-auto":
            joint, selector = self._joint(sides.strong), self._selector(sample)
            auto = AutoSelect(levels, strong, weak, path, selector, options, joint=joint, **own)
            reflection, strong = auto, auto.strong
        elif method == "w2sd" and options.lag:
            strong = lagging = CachedDenoiser(strong)
            reflection = W2SD(levels, lagging.recall, weak, path, options, **own)
        elif method == "w2sd":
            joint = self._joint(sides.reflector)
            reflection = W2SD(levels, reflector, weak, path, options, joint=joint, **own)
        else:
            other, opposed = None if method == "resample" else weak, method == "resample-opposed"
            reflection = Resample(levels, reflector, path, options, weak=other, opposed=opposed, noise_sampler=draw)
        self._strong = strong
        self._reflection = None if reflection is None else Observed(reflection, self._on_reflect)
        self._solver: Solver = DPMSolverMultistep(path, schedule.orders) if 2 in schedule.orders else Euler(path)
        self._state = self._solver.init()

    def _advance(self, i: int, x: Tensor) -> Tensor:
        """Step i of the sampling loop, as `core.sample` makes it, with the sides as they are at the pipeline's step."""
        assert self._schedule is not None
        start, end = self._schedule.levels[i : i + 2]
        self._now, self._owed = {}, self._costs[i]
        tilde = None if self._reflection is None else self._reflection.reflect(i, x)
        x = x if tilde is None else tilde
        x, self._state = self._solver.step(x, self._strong(x, start), start, end, self._state)
        if self.bar is not None and self._owed:  # evaluations that this step did without
            self.bar.advance(self._owed)
        return x

    def _evaluated(self) -> None:
        self.run._counter.evaluations += 1
        if self.bar is not None and self._owed:
            self._owed -= 1
            self.bar.advance()

    def _on_reflect(self, i: int, x: Tensor, tilde: Tensor) -> None:
        self.run.num_reflections += 1
        self.run._gaps.append(torch.linalg.vector_norm(tilde - x))
        self._watch.add(i, "the reflection", tilde)
        if self._observer is not None:
            self._observer(i, x, tilde)

    def _received(self, sample: Tensor, scale: float) -> Tensor:
        """Our own float32 latent where the pipeline hands back what it was given, else what it hands (a callback's)."""
        if self._sent is not None and self._latent is not None:
            sent, version = self._sent
            if sample is sent and sample._version == version:
                return self._latent
        x = sample.to(torch.promote_types(sample.dtype, torch.float32))
        return x if scale == 1 else x / scale

    def _read(self, recorded: RecordedStep) -> Conditioning:
        """The step's conditioning; how the pipeline guides is measured again only when it is known to have changed.

        That it has not changed otherwise is looked at in each step's probes, and read later as the latents' flags are.
        """
        scale = getattr(self.pipe, "_guidance_scale", None)
        key = (tuple(call.latent.shape[0] for call in recorded.calls), id(recorded.calls[0].network), scale)
        scales = [*self._guidance.scales, *([BOTH_HALVES] if self._forced else [])]
        scales += [scale] if isinstance(scale, int | float) else []
        guided, combined = self._guidances.get(key, (None, recorded.combined))
        conditioning = read_conditioning(recorded, scales, guided)
        if guided is None:
            self._guidances[key] = conditioning.guided, combined
        else:
            self._watch.expect(
                combined_alike(recorded, combined, guided), partial(self._guides_otherwise, self._visited)
            )
        return conditioning

    def _guides_otherwise(self, step: int) -> UserError:
        return UserError(
            f"{type(self.pipe).__name__} combines the two halves of guidance otherwise at step {step} than at its "
            "first one, which reflection does not follow; turn off its schedule, thresholds or momentum"
        )

    def _place(self, schedule: Schedule) -> tuple[int, int]:
        """The pipeline's current step, from 0, and how many it counts."""
        return max(self._visited - 1, 0), len(schedule.steps)

    def _at_step(self, side: Side) -> Resolved:
        """What the side is at the current step, made out once a step."""
        if id(side) not in self._now:
            self._now[id(side)] = self._resolved(side)
        return self._now[id(side)]

    def _resolved(self, side: Side) -> Resolved:
        """What the side is at the current step."""
        assert self._schedule is not None
        conditioning = side.conditioning or self._current
        guidance = side.guidance
        if guidance is None:  # the scale that only makes the pipeline prepare both halves is not the call's own
            guidance = self._guidance.scale if self._forced else self._current.guided.scale
        if side.conditioning is not None:
            conditioning = conditioning.at(self._current.timestep)
            if conditioning.network in self._networks:  # Wan 2.2 goes over to its second on the way
                conditioning = replace(conditioning, network=self._current.network)
        if side.embedded is not None and self._guidance.embedded:
            conditioning = conditioning.with_embedded(side.embedded / self._guidance.embedded)
        conditioning = conditioning.with_control(side.control, *self._place(self._schedule))
        network = conditioning.network if side.network is None else side.network
        prediction = side.prediction or self._schedule.prediction
        return Resolved(network, conditioning, guidance, prediction, side.settings)

    def _denoiser(self, side: Side) -> Denoiser:
        """The side as a function of (x, level), at the pipeline's current step."""

        def predict(x: Tensor, level: Level) -> Tensor:
            now = self._at_step(side)
            return self._predictions(now, [now.guidance], x, level)[0]

        return predict

    def _measured(self, x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """The strong side as it samples, and the gap of the two sides inside a reflection, at one latent."""
        sampling, strong, weak = self._both(self._sides.reflector, x, level, self._sides.strong)
        return sampling, weak - strong

    def _measured_across(self, x: Tensor, level: Level) -> tuple[Tensor, Tensor | None]:
        """Likewise with a weak side in another latent space."""
        assert self._schedule is not None and self.cross_latent is not None
        now, path = self._at_step(self._sides.reflector), self._schedule.path
        scale = self._at_step(self._sides.strong).guidance
        sampling, strong = self._predictions(now, [scale, now.guidance], x, level)
        gap = self.cross_latent.gap(x, level, strong, self._denoiser(self._sides.reflector))
        return sampling, None if gap is None else gap * path.native_gap(level)

    def _joint(self, strong: Side) -> JointDenoiser:
        """This side and the weak one as one function, by one evaluation at steps where that gives both."""

        def both(x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
            good, bad = self._both(strong, x, level)
            return good, bad

        return both

    def _both(self, strong: Side, x: Tensor, level: Level, sampling: Side | None = None) -> list[Tensor]:
        """The predictions of this side and of the weak one, by one evaluation where that gives both.

        `sampling` puts its own before them, at no cost: the strong side as it samples, at another guidance at most.
        """
        weak_side = self._sides.weak
        now, weak = self._at_step(strong), self._at_step(weak_side)
        ours = [*([] if sampling is None else [self._at_step(sampling).guidance]), now.guidance]
        alike = weak_side is not strong  # the control costs what a pair does
        one_batch = alike and in_one_batch(strong, weak_side, now, weak, ours)
        if not one_batch and not (alike and weak_side.differs_in_guidance_alone(strong)):
            good = self._predictions(now, ours, x, level)
            theirs = [weak.guidance] if alike else ours  # the same rows, or rounding would be a gap
            return [*good, self._predictions(weak, theirs, x, level)[-1]]
        model, latent = (side_by_side(now, weak, x, ours), torch.cat([x, x])) if one_batch else (now, x)
        *good, bad = self._predictions(model, [*ours, weak.guidance], latent, level, evaluations=2)
        return [*(each[: len(x)] for each in good), bad[-len(x) :]]

    def _predictions(
        self, now: Resolved, guidances: Sequence[float], x: Tensor, level: Level, *, evaluations: int = 1
    ) -> list[Tensor]:
        """The path's native predictions of a side, one for each guidance."""
        with self._switches.in_force(now.network, by_sample(now, guidances, x)):
            outputs = predict_each(now.conditioning, x, guidances, counter=self.run._counter, network=now.network)
        for _ in range(evaluations):
            self._evaluated()
        return [to_native(now.prediction, output.to(x.dtype), x, level) for output in outputs]


def _counting(x: Tensor) -> Tensor:
    """`x`, as a tensor that counts changes made in place (those of inference mode do not)."""
    with torch.inference_mode(False):
        return x.clone() if x.is_inference() else x
