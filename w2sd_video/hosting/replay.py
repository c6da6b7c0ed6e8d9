"""The second way of hosting: the pipeline's own loop makes every evaluation, by visiting its timesteps repeatedly.

Recording (`recording`, `stepping`) repeats the arguments of a step at other latents; where a pipeline does more than
that with its latent (concatenates, lists, masks, normalises guidance, makes sound beside a video), that is not exact.
Here nothing is repeated but the loop: a visit hands the pipeline the latent that is to be evaluated, and what it comes
to hand its scheduler is the prediction. The algorithm runs in a thread of its own (`turns`) and asks for predictions.

A visit either evaluates the networks, as the side that is asked for has them, or feeds the pipeline their outputs from
before: to hand over the next latent, and to have the outputs combined at another guidance (`side_guidance`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from w2sd_video.core import Denoiser, JointDenoiser, Level
from w2sd_video.errors import UserError
from w2sd_video.hosting.calls import CallGuidance
from w2sd_video.hosting.evaluations import Evaluations
from w2sd_video.hosting.listening import bound, wrapped
from w2sd_video.hosting.own_scale import OwnScale, guider_of, guider_state, restore_guider
from w2sd_video.hosting.recording import Alone, check_options, subclass
from w2sd_video.hosting.refusals import DIFFERS_IN_NOTHING, check_reflections, first_index
from w2sd_video.hosting.run import FiniteWatch, likely_cause
from w2sd_video.hosting.sampling import Sampler, Sampling
from w2sd_video.hosting.side_guidance import SideGuidance
from w2sd_video.hosting.sides import Side
from w2sd_video.hosting.turns import Done, Turns
from w2sd_video.hosting.visits import Timesteps, numbers_of_timesteps
from w2sd_video.hosting.wishes import (
    Draws,
    NoiseStates,
    Part,
    Visit,
    Wish,
    evaluated,
    ours,
    prediction_for,
    put_back,
    theirs,
)
from w2sd_video.latents.schedules import Schedule, read_schedule, to_native


class Replay:
    """The state of one pipeline call whose loop makes every evaluation.

    Args:
        pipe: the pipeline, an instance of `kind`.
        sampler: what to do.
        guidance: how the user's call guides.
        noise_states: the states of the noise that the call draws from.
        forced: whether the pipeline is given a scale that only makes it prepare both halves of guidance.
        blends: whether it blends a known part into its latents, with the noise of the timestep after its number.
    """

    def __init__(
        self,
        pipe: Any,
        kind: type,
        sampler: Sampler,
        guidance: CallGuidance,
        *,
        noise_states: Callable[[], NoiseStates],
        forced: bool = False,
        blends: bool = False,
    ) -> None:
        self._blends = blends
        self._noise_states = noise_states
        self._pipe, self._kind, self._sampler = pipe, kind, sampler
        self._evaluations = Evaluations(pipe, kind, sampler, guidance)
        self._parts: dict[int, Part] = {}
        self._visited = 0
        self._plan: Generator[Visit, None, None] | None = None
        self._visit: Visit | None = None
        self._stepped: set[int] = set()
        self._evaluated: tuple[Side, float | None] | None = None
        self._sampled: list[Any] = []  # outputs of the strong side, as it samples
        self._own_scale = OwnScale(pipe)
        self._guidance = SideGuidance(kind.__name__, guidance, forced, self._evaluations, self._parts, self._own_scale)
        self._guider_state: dict[str, Any] = {}
        self._drawn_before: NoiseStates = []
        self._drawn_since: NoiseStates | None = None
        self._watch: FiniteWatch | None = None

    # -- around the call ------------------------------------------------------------------------------------------

    @contextmanager
    def installed(self) -> Generator[None, None, None]:
        """Inside, the pipeline's loop is ours; everything is as it was afterwards."""
        scheduler = self._pipe.scheduler
        kind, own = type(scheduler), vars(scheduler).pop("step", None)
        body = {"step": self._stand_in(kind), "set_timesteps": self._set_timesteps(kind)}
        taken_over = subclass(kind, body)
        scheduler.__class__ = taken_over
        try:
            with numbers_of_timesteps(self._kind), self._evaluations.installed():
                yield
        finally:
            scheduler.__class__ = kind
            timesteps = getattr(scheduler, "timesteps", None)
            if isinstance(timesteps, Timesteps):
                scheduler.timesteps = timesteps.as_subclass(Tensor)
            if own is not None:
                scheduler.step = own

    def lifted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, a callback of the user's: called once a step, with the networks as they are while it runs."""

        def called(*args: Any, **kwargs: Any) -> Any:
            if self._visit is not None and not self._visit.last:
                return {}
            with self._evaluations.plain():
                return function(*args, **kwargs)

        return called

    def finish(self) -> None:
        """Raises if some latent was not finite, or nothing was sampled; to be called after the pipeline's loop."""
        if self._watch is None:
            raise UserError(f"{self._kind.__name__} made no step that reflection could follow")
        self._watch.finish()

    def close(self) -> None:
        """Ends what still waits, and leaves the networks as they were; to be called whatever became of the call."""
        self._end_step()
        self._evaluations.close()

    # -- the loop -------------------------------------------------------------------------------------------------

    def arrive(self, timestep: Any) -> Any:
        if self._plan is None:
            self._plan = self._planned(timestep)
            self._visit = next(self._plan)
            self._guider_state = guider_state(guider_of(self._pipe))
            self._drawn_before, self._drawn_since = self._noise_states(), None
        else:  # what the pipeline draws in its loop it draws again, and the algorithm goes on after it
            self._drawn_since = self._noise_states()
            put_back(self._drawn_before)
        self._stepped.clear()
        restore_guider(guider_of(self._pipe), self._guider_state)
        assert self._visit is not None
        self._own_scale.put(self._visit.scale)
        schedule = next((part.schedule for part in self._parts.values()), None)
        place = (0, 1) if schedule is None else (self._visited, len(schedule.steps))
        told = self._visit.timestep
        self._evaluations.visit(self._visit.side, self._visit.fed, place, elsewhere=told is not None)
        return timestep if told is None else torch.full_like(timestep, told)

    @property
    def before(self) -> int:
        return int(self._blends and self._visit is not None and self._visit.hands)

    def leave(self) -> bool:
        visit, plan = self._visit, self._plan
        assert visit is not None and plan is not None
        put_back(self._drawn_since or ())
        self._own_scale.put(None)
        if not self._stepped or visit.last:  # interrupted, or done
            self._end_step()
            return False
        if visit.fed is None:
            self._evaluated = visit.side, visit.timestep
            if visit.side == evaluated(self._sampler.sides.strong) and visit.timestep is None:
                self._sampled = self._evaluations.outputs
        self._visit = next(plan)
        return True

    def _end_step(self) -> None:
        for part in self._parts.values():
            if part.turns is not None:
                part.turns.close()
            part.turns = part.handed = None
        if self._plan is not None:
            self._plan.close()
        self._plan = self._visit = self._evaluated = None
        self._evaluations.visit(None)

    def _planned(self, timestep: Any) -> Generator[Visit, None, None]:
        """The visits of one timestep: evaluations as the algorithm asks for them, and the latents handed over."""
        strong = self._sampler.sides.strong
        if not self._parts:
            self._evaluations.schedule = self._read(self._pipe.scheduler, timestep)  # refused before an evaluation
            yield Visit(evaluated(strong))
            self._begin(timestep)
            if self._evaluations.alike_at_own_scale:
                pair = self._sampler.sides.reflector, self._sampler.sides.weak
                guided = next(side for side in pair if side.guidance is not None)
                if not (yield from self._guidance.visits(guided)):
                    raise UserError(DIFFERS_IN_NOTHING)
            wishes = self._start(first=True)
        elif self._number is None:  # a timestep visited twice, a last step that goes nowhere
            self._visited += 1
            yield Visit(strong, self._sampled, last=True)
            return
        else:
            wishes = self._start()
            here = all(wish.x is part.latent for wish, part in zip(wishes, self._parts.values(), strict=True))
            yield Visit(evaluated(wishes[0].side), None if here else self._evaluations.outputs)
            self._adopt()
            wishes = self._start()
        parts = list(self._parts.values())
        at = [part.latent for part in parts]
        while True:
            moved_on = any(wish.x is not latent for wish, latent in zip(wishes, at, strict=True))
            if moved_on:
                self._hand([wish.x for wish in wishes])
                yield Visit(wishes[0].side, self._evaluations.outputs, hands=True)
                self._hand(None)
            if moved_on or wishes[0].model != self._evaluated:
                yield Visit(evaluated(wishes[0].side), timestep=wishes[0].timestep)
            at = [wish.x for wish in wishes]
            by_us = yield from self._guidance.visits(wishes[0].side)
            answers = []
            for part, wish in zip(parts, wishes, strict=True):
                assert part.sampling is not None and part.schedule is not None and part.turns is not None
                kind = wish.side.prediction or part.schedule.prediction
                output = prediction_for(part.output if by_us else part.native, wish.x)
                answers.append(part.turns.answer(to_native(kind, output, wish.x, wish.level)))
            if wishes[0].counted:
                parts[0].sampling.evaluated()  # type: ignore[union-attr]
            done = [answer for answer in answers if isinstance(answer, Done)]
            if done:
                break
            wishes = [wish for wish in answers if isinstance(wish, Wish)]
        assert len(done) == len(parts), "all parts of a pipeline are asked for the same"
        self._finish([each.value for each in done])
        yield Visit(strong, self._sampled or self._evaluations.outputs, last=True)

    @property
    def _number(self) -> int | None:
        """Of the step that the present timestep makes, None for none."""
        schedule = next(iter(self._parts.values())).schedule
        assert schedule is not None
        if self._visited == len(schedule.steps):
            raise UserError(
                f"{self._kind.__name__} goes on after its {len(schedule.steps)} timesteps are done, which "
                "reflection does not follow"
            )
        return schedule.steps[self._visited]

    def _begin(self, timestep: Any) -> None:
        """Reads the schedule of each part, and checks once what holds for all of it."""
        sampler = self._sampler
        parts = list(self._parts.values())
        for part in parts:
            part.schedule = self._read(part.scheduler, timestep)
            total = part.scheduler.config.num_train_timesteps
            if part.by_token and any(abs(v.timestep / total - v.sigma) > 1e-4 for v in part.schedule.levels[:-1]):
                raise UserError(
                    f"{self._kind.__name__} has timesteps by token, which its {type(part.scheduler).__name__} reads as "
                    "sigmas, and here both differ; use it with shift=1.0 and no other change of its sigmas"
                )
        asked_elsewhere = any(side.levels is not None for side in (sampler.sides.reflector, sampler.sides.weak))
        if asked_elsewhere and (len(parts) > 1 or parts[0].by_token):
            what = f"samples {len(parts)} latents at once" if len(parts) > 1 else "has timesteps by token"
            raise UserError(
                f"{self._kind.__name__} {what}, for which levels of a side are not known; leave levels out, and "
                "reflect the steps near them with window"
            )
        steps = {part.schedule.steps for part in parts if part.schedule is not None}
        if len(steps) > 1 or (len(parts) > 1 and sampler.method == "w2sd-auto"):
            raise UserError(
                f"{self._kind.__name__} samples {len(parts)} latents at once, "
                + ("on different steps" if len(steps) > 1 else 'of which method "w2sd-auto" can reward one')
                + ", which reflection does not follow"
            )
        self._evaluations.compare()
        first = parts[0]
        assert first.schedule is not None
        watch = self._watch = FiniteWatch(first.schedule.num_steps, likely_cause(first.sample.dtype))
        for part in parts:
            assert part.schedule is not None
            part.noise = Draws(sampler.noise_sampler)
            own = replace(sampler, noise_sampler=part.noise)
            if part is not first:
                own = replace(own, run=type(sampler.run)(), bar=[], on_reflect=None)
            part.sampling = Sampling(
                own,
                part.schedule,
                part.sample,
                name=self._kind.__name__,
                num_frames=self._evaluations.num_frames,
                denoiser=partial(self._denoiser, part),
                joint=partial(self._joint, part),
                measured=partial(self._measured, part),
                watch=watch,
                begun_again=True,
            )

    def _read(self, scheduler: Any, timestep: Any) -> Schedule:
        """The levels from here on, allowed for what is to be done."""
        sampler, count = self._sampler, getattr(self._pipe, "_num_timesteps", None)
        start = first_index(scheduler, timestep)
        schedule = read_schedule(scheduler, start=start, count=count, first_order=sampler.first_order)
        check_reflections(sampler.method, sampler.options, schedule)
        return schedule

    def _start(self, *, first: bool = False) -> list[Wish]:
        """Begins the step of each part; returns what they ask for first."""
        i = self._number
        assert i is not None
        wishes = []
        for part in self._parts.values():
            assert part.schedule is not None and part.sampling is not None
            if part.turns is not None:
                part.turns.close()
            if part.noise is not None:
                part.noise.begin(again=part.turns is not None)
            if first:
                part.latent = ours(part.sample, part.schedule.scales[i])
            assert part.latent is not None
            part.turns = Turns(partial(part.sampling.advance, i, part.latent))
            wish = part.turns.start()
            assert isinstance(wish, Wish), "a step asks for a prediction"
            wishes.append(wish)
        return wishes

    def _adopt(self) -> None:
        """Our latent (float32) is made the pipeline's where it hands back another than it was given."""
        i = self._number
        assert i is not None
        for part in self._parts.values():
            assert part.schedule is not None and part.latent is not None and part.sent is not None
            handed_back = ours(part.sample, part.schedule.scales[i])
            if part.sample.shape != part.sent.shape:
                raise UserError(
                    f"{self._kind.__name__} goes over from latents of shape {tuple(part.sent.shape)} to "
                    f"{tuple(part.sample.shape)} on its way, which reflection does not follow"
                )
            part.latent = torch.where(part.sample == part.sent, part.latent, handed_back)

    def _hand(self, latents: Sequence[Tensor] | None) -> None:
        """What the schedulers return in the next visit: these latents at the present level; None for what they get."""
        i = self._number
        assert i is not None
        for k, part in enumerate(self._parts.values()):
            assert part.schedule is not None
            scale = part.schedule.scales[i]
            part.handed = None if latents is None else theirs(latents[k], scale, part.sample.dtype)

    def _finish(self, latents: Sequence[Tensor]) -> None:
        """Takes the step's results, and hands them over in the next visit."""
        i = self._number
        assert i is not None and self._watch is not None
        for part, latent in zip(self._parts.values(), latents, strict=True):
            assert part.schedule is not None
            self._watch.add(i, "the sampling part", latent)
            part.latent = latent
            part.handed = theirs(latent, part.schedule.scales[i + 1], part.sample.dtype)
            part.sent = part.handed.clone()  # as pipelines write into what they are given
        self._sampler.run.num_steps += 1
        self._visited += 1

    # -- what the algorithm asks for --------------------------------------------------------------------------------

    def _denoiser(self, part: Part, side: Side) -> Denoiser:
        def predict(x: Tensor, level: Level) -> Tensor:
            return self._asked(part, side, x, level)

        return predict

    def _asked(self, part: Part, side: Side, x: Tensor, level: Level, *, counted: bool = True) -> Tensor:
        """The side's prediction, at the level of its own that is nearest where it was not trained at this one."""
        assert part.turns is not None and part.schedule is not None
        trained, path = side.levels, part.schedule.path
        if trained is None or trained.has(level):
            return part.turns.ask(Wish(side, x, level, counted))
        near = trained.nearest(level)
        answer = part.turns.ask(Wish(side, trained.passed(x, level, near), near, counted, elsewhere=True))
        return trained.answer(answer, x, level, near, path)

    def _joint(self, part: Part, strong: Side) -> JointDenoiser:
        good, bad = self._denoiser(part, strong), self._denoiser(part, self._sampler.sides.weak)
        return lambda x, level: (good(x, level), bad(x, level))

    def _measured(self, part: Part, x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """The strong side as it samples, and the gap of the two sides inside a reflection, at one latent."""
        sides = self._sampler.sides
        sampling = self._asked(part, sides.strong, x, level)
        strong = self._asked(part, sides.reflector, x, level, counted=False)  # at another guidance at most
        return sampling, self._asked(part, sides.weak, x, level) - strong

    # -- calls of the networks and steps of the schedulers ------------------------------------------------------------

    def _set_timesteps(self, kind: type) -> Any:
        def set_timesteps(this: Any, *args: Any, **kwargs: Any) -> Any:
            made = kind.set_timesteps(this, *args, **kwargs)  # type: ignore[attr-defined]
            this.timesteps = Timesteps.of(this.timesteps, self)
            if this is self._pipe.scheduler:
                self._restart()
            return made

        return wrapped(kind.set_timesteps, set_timesteps)  # type: ignore[attr-defined]

    def _restart(self) -> None:
        """Ends a schedule after which the pipeline sets its timesteps anew (videos made section by section)."""
        if self._watch is not None:
            self._watch.finish()
        self._end_step()
        self._parts.clear()
        self._visited = 0

    def _stand_in(self, kind: type) -> Any:
        def step(this: Any, *args: Any, **kwargs: Any) -> Any:
            given = bound(kind.step, this, args, kwargs)  # type: ignore[attr-defined]
            return self._step(this, **given)

        return wrapped(kind.step, step)  # type: ignore[attr-defined]

    def _step(
        self,
        scheduler: Any,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        *,
        return_dict: bool = True,
        **options: Any,
    ) -> Any:
        name, key = type(scheduler).__name__, id(scheduler)
        by_token = options.pop("per_token_timesteps", None) is not None
        if by_token:  # there the scheduler steps the other way
            model_output = -model_output
        check_options(name, (), options)
        visit = self._visit
        if visit is None or key in self._stepped or (self._scheduled and key not in self._parts):
            raise UserError(
                f"{self._kind.__name__} steps its {name} outside of a loop over its timesteps, or more than once "
                "at one, which reflection does not follow"
            )
        self._stepped.add(key)
        part = self._parts.setdefault(key, Part(scheduler, sample, model_output, model_output))
        part.sample, part.output, part.by_token = sample, model_output, by_token
        part.native = model_output if visit.fed is None else part.native
        if visit.last and getattr(scheduler, "_step_index", 0) is None and hasattr(scheduler, "_init_step_index"):
            scheduler._init_step_index(timestep)
        if visit.last and getattr(scheduler, "_step_index", None) is not None:
            scheduler._step_index += 1
        latent = sample if part.handed is None else part.handed
        return SchedulerOutput(prev_sample=latent) if return_dict else Alone.stepped(self._kind.__name__, latent)

    @property
    def _scheduled(self) -> bool:
        return any(part.schedule is not None for part in self._parts.values())
