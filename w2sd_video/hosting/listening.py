"""What a side's own call of a pipeline passes its networks, for calls that are replayed; and taking networks over."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from w2sd_video.errors import UserError
from w2sd_video.hosting.arguments import Arguments, equal, fresh
from w2sd_video.hosting.recording import TIME_NAMES, NetworkCall, RecordedStep, mask, parameter_names, subclass

LATENTS = ("hidden_states", "sample", "x", "hidden_states_list")


@dataclass(eq=False)
class Exchange:
    """The calls of a network that a side's own call of the pipeline makes at its first step, at the same latent.

    What differs there from the strong side's calls takes its place at every step.
    """

    calls: Sequence[NetworkCall]
    changes: list[Arguments] = field(default_factory=list)

    @classmethod
    def of(cls, step: RecordedStep, _scales: Sequence[float]) -> Exchange:
        return cls(step.calls)

    def compared(self, arguments: Sequence[Arguments]) -> list[Arguments]:
        """What differs from these arguments of the strong side's calls, call by call (waits for the device)."""
        if len(self.calls) != len(arguments):
            raise UserError(
                f"the weak side's own call evaluates its network {len(self.calls)} times at a step, the strong side's "
                f"{len(arguments)} times; give both the same kinds of guidance"
            )
        self.changes = []
        for call, theirs in zip(self.calls, arguments, strict=True):
            own = {n: v for n, v in call.arguments.items() if n not in theirs or not equal(v, theirs[n])}
            for name in (*LATENTS, *TIME_NAMES):
                if name in own:
                    raise UserError(
                        f"the weak side's network is given another {name} than the strong side's at the first step; "
                        "both must share one latent space, size and noise"
                    )
            self.changes.append(own)
        return self.changes

    def put(self, arguments: Arguments, number: int) -> tuple[Arguments, nn.Module]:
        """The arguments of a call, of that number within its step, with what differs; and the network called."""
        return {**arguments, **fresh(self.changes[number])}, self.calls[number].network


class Listener:
    """Notes the calls of the networks up to the first step of a pipeline's call, which evaluates them."""

    def __init__(
        self,
        networks: Sequence[nn.Module],
        scheduler: Any,
        on_step: Callable[[RecordedStep], Tensor],
        control: nn.Module | None = None,
        *,
        name: str = "this pipeline",
    ) -> None:
        self._networks, self._scheduler, self._on_step = networks, scheduler, on_step
        self._calls: list[NetworkCall] = []

    @contextmanager
    def installed(self) -> Generator[None, None, None]:
        classes = [(network, type(network)) for network in self._networks]
        names = {id(network): parameter_names(network) for network in self._networks}

        def call(network: Any, args: tuple, kwargs: dict) -> Any:
            arguments = {**dict(zip(names[id(network)], args, strict=False)), **kwargs}
            self._calls.append(NetworkCall(network, {n: fresh(v) for n, v in arguments.items()}, ""))
            put(classes)
            try:
                return network(*args, **kwargs)
            finally:
                put(masks)

        def step(this: Any, *args: Any, **kwargs: Any) -> Any:
            given = bound(kind.step, this, args, kwargs)
            output, timestep, sample = (given[name] for name in ("model_output", "timestep", "sample"))
            return self._on_step(RecordedStep(self._calls, output, timestep, sample))

        masks = [(network, mask(own, call, cached=False)) for network, own in classes]
        kind, own_step = type(self._scheduler), vars(self._scheduler).pop("step", None)
        self._scheduler.__class__ = subclass(kind, {"step": wrapped(kind.step, step)})
        put(masks)
        try:
            yield
        finally:
            put(classes)
            self._scheduler.__class__ = kind
            if own_step is not None:
                self._scheduler.step = own_step


def put(classes: Sequence[tuple[nn.Module, type]]) -> None:
    for network, kind in classes:
        object.__setattr__(network, "__class__", kind)


def wrapped(original: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    return functools.wraps(original)(function)  # pipelines look at its signature


def bound(method: Any, this: Any, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a scheduler's step by name, without the scheduler."""
    return dict(list(inspect.signature(method).bind(this, *args, **kwargs).arguments.items())[1:])
