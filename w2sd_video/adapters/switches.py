"""Settings of a network that both sides of a pair share, in force during the evaluations of one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from torch import nn

from w2sd_video.adapters.routing import find_router
from w2sd_video.pair import ModelSpec


class Switch(Protocol):
    """One setting of one network; making it may walk through the network, using it does not."""

    def check(self, value: Any) -> None:
        """Raises `UserError` for a value that the network does not allow."""

    @property
    def now(self) -> Any:
        """The value in force."""

    def set_to(self, value: Any) -> Any:
        """A context manager in which `value` is in force; on leaving it, also by an error, what was before is."""


# By the field of `ModelSpec` that has the value: what makes the switch of a network (`UserError` where it has none).
SWITCHES: dict[str, Callable[[nn.Module], Switch]] = {"routing": find_router}


def switched(spec: ModelSpec) -> dict[str, Any]:
    """The settings of a shared network that a spec has values for, by name."""
    return {name: value for name, value in spec.settings().items() if name in SWITCHES}


class SwitchBoard:
    """The switches of the networks of one pipeline call, each made when it is first needed."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, str], Switch] = {}

    def check(self, network: nn.Module, settings: Mapping[str, Any]) -> None:
        """Raises `UserError` for a setting that `network` does not have, or not with that value."""
        for name, value in settings.items():
            self._switch(network, name).check(value)

    def alike(self, network: nn.Module, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        """Whether both settings come to the same on `network`, what they leave out being as it is."""
        return all(
            one.get(name) == other.get(name) or self._now(network, name, one) == self._now(network, name, other)
            for name in one.keys() | other.keys()
        )

    @contextmanager
    def in_force(self, network: nn.Module, settings: Mapping[str, Any]) -> Iterator[None]:
        """Inside, `network` has these settings; those not named are as they are."""
        with ExitStack() as stack:
            for name, value in settings.items():
                stack.enter_context(self._switch(network, name).set_to(value))
            yield

    def _switch(self, network: nn.Module, name: str) -> Switch:
        key = (id(network), name)
        if key not in self._made:
            self._made[key] = SWITCHES[name](network)
        return self._made[key]

    def _now(self, network: nn.Module, name: str, settings: Mapping[str, Any]) -> Any:
        return settings[name] if name in settings else self._switch(network, name).now
