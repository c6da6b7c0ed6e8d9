"""A pipeline's calls of its networks inside its own loop: evaluated as a side has them, or fed outputs from before."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from w2sd_video.errors import UserError
from w2sd_video.gaps.control_settings import control_of, nets_of
from w2sd_video.gaps.loras import Rows, samples_in
from w2sd_video.gaps.switches import SwitchBoard
from w2sd_video.hosting.arguments import Arguments, equal
from w2sd_video.hosting.caches import CacheContexts
from w2sd_video.hosting.calls import CallGuidance, evaluated_by, networks_of, unconditional_of
from w2sd_video.hosting.listening import LATENTS, Exchange, put
from w2sd_video.hosting.outputs import count_of
from w2sd_video.hosting.own_scale import check_guider
from w2sd_video.hosting.recording import TIME_NAMES, mask, parameter_names
from w2sd_video.hosting.refusals import DIFFERS_IN_NOTHING, GAP_EVERY, LAG, check_placement
from w2sd_video.hosting.sampling import Sampler
from w2sd_video.hosting.sides import Side
from w2sd_video.latents.schedules import Schedule, at_all_steps
from w2sd_video.latents.spaces import THROUGH_PIXELS


class Evaluations:
    """The networks of one replayed call. Between `visit` and the next one they are called once each by the pipeline.

    Attributes:
        alike_at_own_scale: whether the sides differ in nothing if the pipeline's argument is a plain guidance scale.
        outputs, rows: of each network call of the latest visit that evaluated, what it returned and its batch.
    """

    def __init__(self, pipe: Any, kind: type, sampler: Sampler, guidance: CallGuidance) -> None:
        self._pipe, self._kind, self._sampler, self._guidance = pipe, kind, sampler, guidance
        self._networks, self._switches, self._control = networks_of(pipe), SwitchBoard(), control_of(pipe)
        self._evaluated, self._unconditional = evaluated_by(pipe), unconditional_of(pipe)
        self.outputs: list[Any] = []
        self.rows: list[int] = []
        self._control_outputs: list[Any] = []
        self._side: Side | None = None
        self._fed: list[Any] | None = None
        self._place = (0, 1)
        self._fed_count = self._control_count = 0
        self.num_frames: Any = None  # of packed latents, as the network is told
        self._checked = self._compared = self.alike_at_own_scale = False
        self._first: list[Arguments] = []
        self._further: dict[tuple[Any, ...], list[Any]] = {}
        self.schedule: Schedule | None = None
        self._elsewhere, self._timestep = False, list[Any]()
        self._contexts, self._name = CacheContexts(), ""

    @contextmanager
    def installed(self) -> Generator[None, None, None]:
        masked = [(network, self._call) for network in self._evaluated]
        masked += [] if self._control is None else [(self._control, self._call_control)]
        self._classes = [(network, type(network)) for network, _ in masked]
        self._masks = [(network, mask(type(network), call, cached=False)) for network, call in masked]
        self._names = {id(network): parameter_names(network) for network in self._evaluated}
        put(self._masks)
        try:
            yield
        finally:
            put(self._classes)

    @contextmanager
    def plain(self) -> Generator[None, None, None]:
        """Inside, the networks are as they were."""
        put(self._classes)
        try:
            yield
        finally:
            put(self._masks)

    def visit(
        self,
        side: Side | None,
        fed: list[Any] | None = None,
        place: tuple[int, int] = (0, 1),
        *,
        elsewhere: bool = False,
    ) -> None:
        """Says what the calls from now on are for: to evaluate `side` (None refuses them), or to be given `fed`.

        `place` is the number of the pipeline's step, from 0, and how many there are; `elsewhere` whether the pipeline
        is given another timestep than that step's.
        """
        self._elsewhere = elsewhere
        if place[0] != self._place[0]:
            self._contexts.next_step()
        self._side, self._fed, self._place, self._fed_count, self._control_count = side, fed, place, 0, 0
        if side is not None and fed is None:
            self._name = self._contexts.visit(_key(side))
            self.outputs, self.rows, self._control_outputs = [], [], []

    def compare(self) -> None:
        """Refuses sides with conditioning of their own that does not differ, once the pipeline's own is known."""
        if self._compared:
            return
        self._compared = True
        sides, network = self._sampler.sides, self._networks[0]
        pair = sides.reflector, sides.weak
        for side in pair:
            for call, told in zip(getattr(side.conditioning, "calls", ()), self._first, strict=False):
                if type(call.network) is not type(network) and call.arguments.keys() != told.keys():
                    raise UserError(
                        f"the {type(call.network).__name__} of a side is told other things than the loop of "
                        f"{self._kind.__name__} tells its {type(network).__name__}; {THROUGH_PIXELS}"
                    )
        own = [s.conditioning.compared(self._first) if isinstance(s.conditioning, Exchange) else [] for s in pair]
        filled = [changes or [{} for _ in self._first] for changes in own]
        if pair[0] is not pair[1] and any(own) and equal(*filled) and self._alike(*pair, network):
            raise UserError(DIFFERS_IN_NOTHING)
        self.num_frames = self._first[0].get("num_frames") if self._first else None
        self._first = []

    def close(self) -> None:
        self._switches.close()
        self._contexts.close()

    def _call(self, network: Any, args: tuple, kwargs: dict) -> Any:
        if self._side is None:
            raise UserError(
                f"{self._kind.__name__} evaluates its {type(network).__name__} outside of a loop over its "
                "scheduler's timesteps, which reflection does not follow"
            )
        if self._fed is not None:
            self._fed_count += 1
            if self._fed_count > len(self._fed):
                raise UserError(
                    f"{self._kind.__name__} evaluates its network more often in one visit of a step than in another"
                )
            return self._fed[self._fed_count - 1]
        with self.plain():
            self._check_sides(network)
            output = self._evaluate(network, self._side, args, kwargs)
        self.outputs.append(output)
        self._remember(self._side, output)
        return output

    def _evaluate(self, network: nn.Module, side: Side, args: tuple, kwargs: dict) -> Any:
        arguments = {**dict(zip(self._names[id(network)], args, strict=False)), **kwargs}
        counter, rows = self._sampler.run._counter, count_of(arguments, LATENTS)
        self._check_timestep(network, arguments)
        alone = network is self._unconditional  # which settings of a side and a network of its own leave as it is
        target = network if side.network is None or alone else side.network
        if not self._compared:
            self._first.append(arguments)
        if isinstance(side.conditioning, Exchange):
            arguments, other = side.conditioning.put(arguments, len(self.outputs))
            target = other if (side.network is None or alone) and other not in self._evaluated else target
        if side.embedded is not None and self._guidance.embedded:
            arguments["guidance"] = arguments["guidance"] * (side.embedded / self._guidance.embedded)
        arguments = self._own(side, arguments)
        settings = {} if alone else dict(side.settings)
        samples = samples_in(settings.get("loras"))
        if samples is not None:
            settings["loras"] = Rows((settings["loras"],), samples, max(1, rows // samples), _device(arguments))
        counter.forwards += 1
        counter.rows += rows
        self.rows.append(rows)
        named = self._contexts.named(self._name, target, f"call {len(self.outputs) + 1}")
        with self._switches.in_force(target, settings), named:
            return target(**arguments)

    def _check_timestep(self, network: nn.Module, arguments: Arguments) -> None:
        """Refuses a network that is passed the step's own timestep where it is to be asked at another level."""
        told = [arguments[name] for name in (*TIME_NAMES, "t") if name in arguments]
        if self._elsewhere and (not told or equal(told, self._timestep)):
            raise UserError(
                f"{self._kind.__name__} passes its {type(network).__name__} a timestep that is not its loop's, so "
                "that a side cannot be asked at levels of its own; leave levels out"
            )
        self._timestep = self._timestep if self._elsewhere else told

    def _remember(self, side: Side, output: Any) -> None:
        """Keeps what a side's network returned beside its prediction, for what a later evaluation of it is given."""
        if isinstance(output, tuple) and len(output) > 1:
            known = self._further.setdefault(_key(side), [])
            number = len(self.outputs) - 1
            known[number:] = [output[1:]]

    def _own(self, side: Side, arguments: Arguments) -> Arguments:
        """The arguments with what another side's evaluation left (a cache) replaced by what this one's left."""
        own = self._further.get(_key(side))
        if own is None or len(self._further) < 2:
            return arguments
        same = {
            id(theirs): mine
            for others in self._further.values()
            for theirs_all, mine_all in zip(others, own, strict=False)
            for theirs, mine in zip(theirs_all, mine_all, strict=False)
        }
        return {name: same.get(id(value), value) for name, value in arguments.items()}

    def _call_control(self, network: Any, args: tuple, kwargs: dict) -> Any:
        if self._fed is not None:
            self._control_count += 1
            return self._control_outputs[self._control_count - 1]
        setting = None if self._side is None else self._side.control
        if setting is not None and setting != self._sampler.sides.strong.control:
            scales = setting.at(*self._place)
            kwargs = {**kwargs, "conditioning_scale": list(scales) if nets_of(network) is not None else scales[0]}
        with self.plain():
            output = network(*args, **kwargs)
        self._sampler.run._counter.control_calls += len(nets_of(network) or [network])
        self._control_outputs.append(output)
        return output

    def _check_sides(self, network: nn.Module) -> None:
        """Refuses, before the first evaluation, sides that cannot be put in force or do not differ."""
        if self._checked:
            return
        self._checked = True
        sides = self._sampler.sides
        for side in (sides.reflector, sides.weak):
            target = side.network or network
            check_guider(self._pipe, side)
            if side.network is not None:
                check_placement(side.network, network)
            self._switches.check(target, side.settings)
        one, other = sides.reflector, sides.weak
        if one is not other and one.conditioning is other.conditioning and self._alike(one, other, network):
            if (one.guidance is None) == (other.guidance is None):
                raise UserError(DIFFERS_IN_NOTHING)
            self.alike_at_own_scale = True
        if self._sampler.options.lag and not self._alike(one, sides.strong, network):
            raise UserError(LAG)
        if self._sampler.options.gap_every is not None and not self._alike(
            replace(one, guidance=None), replace(sides.strong, guidance=None), network
        ):
            raise UserError(GAP_EVERY)
        self._switches.hold(self._networks, [(s.network or network, s.settings) for s in (one, other)])

    def _alike(self, one: Side, other: Side, network: nn.Module) -> bool:
        """Whether two sides are the same, whatever their conditioning."""

        def own(side: Side) -> tuple[Any, ...]:
            embedded = self._guidance.embedded
            return (
                id(side.network or network),
                embedded if side.embedded is None else side.embedded,
                side.control,
                side.prediction,
                side.levels if side.levels and self.schedule and not at_all_steps(side.levels, self.schedule) else None,
            )

        guides = [self._guidance.scale if side.guidance is None else side.guidance for side in (one, other)]
        if guides[0] != guides[1] or own(one) != own(other):
            return False
        return self._switches.alike(one.network or network, one.settings, other.settings)


def _device(arguments: Mapping[str, Any]) -> Any:
    return next((value.device for value in arguments.values() if isinstance(value, Tensor)), None)


def _key(side: Side) -> tuple[Any, ...]:
    """Of sides that are evaluated alike."""
    return id(side.network), repr(side.settings), id(side.conditioning), side.embedded, side.control
