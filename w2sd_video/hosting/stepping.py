"""One hosted pipeline call: our sampler makes every step of the pipeline's own loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from w2sd_video.core import Denoiser, JointDenoiser, Level
from w2sd_video.errors import UserError
from w2sd_video.gaps.switches import SwitchBoard
from w2sd_video.hosting.caches import CacheContexts
from w2sd_video.hosting.calls import BOTH_HALVES, CallGuidance, networks_of
from w2sd_video.hosting.conditioning import Conditioning, Guided, combined_alike, predict_each, read_conditioning
from w2sd_video.hosting.controls import check_scales
from w2sd_video.hosting.one_batch import by_sample, check_loras, in_one_batch, side_by_side
from w2sd_video.hosting.recording import NotRecorded, RecordedStep
from w2sd_video.hosting.refusals import (
    DIFFERS_IN_NOTHING,
    GAP_EVERY,
    LAG,
    check_first_step,
    check_placement,
    check_reflections,
    check_same_space,
    first_index,
)
from w2sd_video.hosting.run import FiniteWatch, likely_cause
from w2sd_video.hosting.sampling import Sampler, Sampling
from w2sd_video.hosting.sides import Resolved, Side, time_unit
from w2sd_video.latents.schedules import Schedule, at_all_steps, read_schedule, to_native


class HostedCall:
    """The state of one pipeline call; its `step` makes the steps of a `Recorder`.

    Args:
        pipe: the pipeline.
        sampler: what to do.
        guidance: how the user's call guides.
        forced: whether the pipeline is given a scale that only makes it prepare both halves of guidance.
    """

    def __init__(self, pipe: Any, sampler: Sampler, guidance: CallGuidance, *, forced: bool = False) -> None:
        self.pipe, self._sampler, self._guidance, self._forced = pipe, sampler, guidance, forced
        self._sides, self.run, self.cross_latent = sampler.sides, sampler.run, sampler.cross_latent
        self._networks = networks_of(pipe)
        self._switches = SwitchBoard()
        self._schedule: Schedule | None = None
        self._visited = 0
        self._guidances: dict[tuple, tuple[Guided, Tensor]] = {}
        self._sent: tuple[Tensor, int] | None = None
        self._latent: Tensor | None = None
        self._now: dict[int, Resolved] = {}
        self._contexts = CacheContexts()

    def step(self, recorded: RecordedStep) -> Tensor:
        """Returns the pipeline's next latent; called in place of `scheduler.step`."""
        try:
            return self._step(recorded)
        except NotRecorded as error:
            error.rows, error.batch = tuple(len(call.latent) for call in recorded.calls), len(recorded.sample)
            raise

    def _step(self, recorded: RecordedStep) -> Tensor:
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
        self._current, self._recorded = self._read(recorded), recorded
        check_scales(self._current.control, self._sides.strong.control, *self._place(schedule))
        self._now = {}
        self._contexts.next_step()
        x = self._sampling.advance(i, self._received(recorded.sample, schedule.scales[i]))
        self._watch.add(i, "the sampling part", x)
        self.run.num_steps += 1
        sent = _counting((x if schedule.scales[i + 1] == 1 else x * schedule.scales[i + 1]).to(recorded.sample.dtype))
        self._latent, self._sent = x, (sent, sent._version)
        if self._visited == len(schedule.steps):
            self._watch.finish()  # before the pipeline decodes
        return sent

    def finish(self) -> None:
        """Raises if some latent was not finite, or nothing was sampled; to be called after the pipeline's loop."""
        if not self.run.num_steps:
            raise NotRecorded(f"{type(self.pipe).__name__} made no step that reflection could follow")
        self._watch.finish()
        if self.cross_latent is not None:
            self.cross_latent.finish()

    def close(self) -> None:
        """Leaves the networks as they were before the call; to be called whatever became of it."""
        self._switches.close()
        self._contexts.close()

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
        pipe, method, options = self.pipe, self._sampler.method, self._sampler.options
        self._schedules = recorded.schedule
        start = first_index(pipe.scheduler, recorded.timestep)
        count = getattr(pipe, "_num_timesteps", None)
        schedule = read_schedule(pipe.scheduler, start=start, count=count, first_order=self._sampler.first_order)
        check_reflections(method, options, schedule)
        self._current, self._recorded = self._read(recorded), recorded
        check_first_step(recorded, schedule)
        for side in (self._sides.reflector, self._sides.weak):
            if side.conditioning is not None:
                alike = side.time_unit is None  # else it is asked at its own levels
                check_same_space(side.conditioning, self._current, recorded.sample, count_alike=alike)
            if side.network is not None:
                check_placement(side.network, self._current.network)
        self._watch = FiniteWatch(schedule.num_steps, likely_cause(self._current.dtype))
        self._schedule = schedule
        self._sampling = Sampling(
            self._sampler,
            schedule,
            recorded.sample,
            name=type(pipe).__name__,
            num_frames=self._current.conditional.get("num_frames"),
            denoiser=self._denoiser,
            joint=self._joint,
            measured=self._measured if self.cross_latent is None else self._measured_across,
            watch=self._watch,
        )
        if self.cross_latent is not None:
            cached = options.gap_every is not None
            steps = (options.gap_steps if cached else options.steps)(schedule.num_steps, method)
            self.cross_latent.begin(schedule, steps, recorded.sample, self._sampling.evaluated)
        sides = self._sides
        weak, reflector = self._resolved(sides.weak), self._resolved(sides.reflector)
        for now in (reflector, weak):
            self._switches.check(now.network, now.settings)
            check_loras(now, len(recorded.sample))
        # One side used as both is the control, asked for by name.
        if sides.weak is not sides.reflector and weak.equals(reflector, self._switches):
            raise UserError(DIFFERS_IN_NOTHING)
        strong = self._resolved(sides.strong)
        if options.lag and not reflector.equals(strong, self._switches):
            raise UserError(LAG)
        if options.gap_every is not None and not all(
            replace(reflector, guidance=scale).equals(replace(strong, guidance=scale), self._switches)
            for scale in (strong.guidance, reflector.guidance)
        ):
            raise UserError(GAP_EVERY)
        self._switches.hold(self._networks, [(now.network, now.settings) for now in (reflector, weak)])
        return schedule

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
        levels, unit = side.levels, side.time_unit
        if levels is not None and at_all_steps(levels, self._schedule):
            levels = None
        if levels is not None and unit is None:
            unit = time_unit(self._recorded, self._current, type(self.pipe))
        return Resolved(network, conditioning, guidance, prediction, side.settings, levels, unit)

    def _denoiser(self, side: Side) -> Denoiser:
        """The side as a function of (x, level), at the pipeline's current step."""

        def predict(x: Tensor, level: Level) -> Tensor:
            now = self._at_step(side)
            return self._predictions(side, now, [now.guidance], x, level)[0]

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
        sampling, strong = self._predictions(self._sides.reflector, now, [scale, now.guidance], x, level)
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
            good = self._predictions(strong, now, ours, x, level)
            theirs = [weak.guidance] if alike else ours  # the same rows, or rounding would be a gap
            return [*good, self._predictions(weak_side, weak, theirs, x, level)[-1]]
        model, latent = (side_by_side(now, weak, x, ours), torch.cat([x, x])) if one_batch else (now, x)
        *good, bad = self._predictions(strong, model, [*ours, weak.guidance], latent, level, evaluations=2)
        return [*(each[: len(x)] for each in good), bad[-len(x) :]]

    def _predictions(
        self, side: Side, now: Resolved, guidances: Sequence[float], x: Tensor, level: Level, *, evaluations: int = 1
    ) -> list[Tensor]:
        """The path's native predictions of a side, one for each guidance."""
        if now.levels is not None:
            assert self._schedule is not None
            trained, path = now.levels, self._schedule.path
            near = trained.nearest(level)
            told = near.timestep * (now.time_unit or 1.0)
            dtype = None if float(told).is_integer() or now.conditioning.timestep.is_floating_point() else torch.float32
            timestep = torch.tensor(told, dtype=torch.float32).to(now.conditioning.timestep.device)
            there = replace(now, conditioning=now.conditioning.at(timestep, dtype), levels=None)
            passed = trained.passed(x, level, near)
            made = self._predictions(side, there, guidances, passed, near, evaluations=evaluations)
            return [trained.answer(each, x, level, near, path) for each in made]
        named = partial(self._contexts.named, self._contexts.visit(id(side), evaluations))
        counter = self.run._counter
        with self._switches.in_force(now.network, by_sample(now, guidances, x)):
            outputs = predict_each(now.conditioning, x, guidances, counter=counter, network=now.network, named=named)
        for _ in range(evaluations):
            self._sampling.evaluated()
        return [to_native(now.prediction, output.to(x.dtype), x, level) for output in outputs]


def _counting(x: Tensor) -> Tensor:
    """`x`, as a tensor that counts changes made in place (those of inference mode do not)."""
    with torch.inference_mode(False):
        return x.clone() if x.is_inference() else x
