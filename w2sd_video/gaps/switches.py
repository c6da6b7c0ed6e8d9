"""Settings of a network that both sides of a pair share, in force during the evaluations of one of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol, runtime_checkable

from torch import nn

from w2sd_video.errors import UserError
from w2sd_video.gaps.layer_skips import find_layer_skips
from w2sd_video.gaps.loras import find_loras
from w2sd_video.gaps.precision import find_precision
from w2sd_video.gaps.routing import find_router
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


@runtime_checkable
class HeldSwitch(Protocol):
    """What a switch may have besides: it is got ready once for a call, and different values may do the same."""

    def held(self, values: Sequence[Any]) -> AbstractContextManager[None]:
        """A context manager in which going over to any of `values`, and back, is cheap; it restores what was before."""

    def meaning(self, value: Any) -> Any:
        """What `value` comes to on this network, None being what is in force: equal for values that do the same."""


# -- IP-Adapters: what they are told is recorded with the rest, as no latent changes it; their scale is switched ------


def find_ip_adapters(network: nn.Module) -> IpAdapterScale:
    """Returns the switch of a network with IP-Adapters (`pipe.load_ip_adapter`).

    Raises:
        UserError: the network has none.
    """
    inner: Any = getattr(network, "_orig_mod", network)  # of a compiled module
    processors = getattr(inner, "attn_processors", {}).values()
    adapted = [p for p in processors if "IPAdapter" in type(p).__name__ and hasattr(p, "scale")]
    if not adapted:
        raise UserError(
            f"{type(inner).__name__} has no IP-Adapter whose scale could differ; call load_ip_adapter first, or leave "
            "ip_adapter out"
        )
    return IpAdapterScale(adapted)


class IpAdapterScale:
    """The scale of attention processors: a list with a number per IP-Adapter, or one number (SD3)."""

    def __init__(self, processors: Sequence[Any]) -> None:
        self._processors = processors

    def check(self, value: float) -> None:
        if not math.isfinite(value):
            raise UserError(f"ip_adapter is {value}; it must be a finite number (0 is as if there were no IP-Adapter)")

    @property
    def now(self) -> Any:
        """The one number they all have, or else all of them."""
        scales = [p.scale if isinstance(p.scale, list) else [p.scale] for p in self._processors]
        single = {each for scale in scales for each in scale if isinstance(each, int | float)}
        plain = all(isinstance(each, int | float) for scale in scales for each in scale)
        return float(single.pop()) if plain and len(single) == 1 else scales

    @contextmanager
    def set_to(self, value: float) -> Iterator[None]:
        before = [p.scale for p in self._processors]
        try:
            for processor, own in zip(self._processors, before, strict=True):
                processor.scale = [value] * len(own) if isinstance(own, list) else value
            yield
        finally:
            for processor, own in zip(self._processors, before, strict=True):
                processor.scale = own


# -- all switches of a call -------------------------------------------------------------------------------------------

# By the field of `ModelSpec` that has the value: what makes the switch of a network (`UserError` where it has none).
SWITCHES: dict[str, Callable[[nn.Module], Switch]] = {
    "routing": find_router,
    "loras": find_loras,
    "ip_adapter": find_ip_adapters,
    "skip_layers": find_layer_skips,
    "precision": find_precision,
}


def switched(spec: ModelSpec) -> dict[str, Any]:
    """The settings of a shared network that a spec has values for, by name."""
    return {name: value for name, value in spec.settings().items() if name in SWITCHES}


class SwitchBoard:
    """The switches of the networks of one pipeline call, each made when it is first needed."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, str], Switch] = {}
        self._holding = ExitStack()

    def check(self, network: nn.Module, settings: Mapping[str, Any]) -> None:
        """Raises `UserError` for a setting that `network` does not have, or not with that value."""
        for name, value in settings.items():
            self._switch(network, name).check(value)

    def hold(self, own: Sequence[nn.Module], sides: Sequence[tuple[nn.Module, Mapping[str, Any]]]) -> None:
        """Gets networks ready for going over from side to side, until `close`.

        `sides` are networks with their settings; for one of `own`, all of them (a pipeline may go on to its next).
        """
        values: dict[tuple[nn.Module, str], list[Any]] = {}
        for side, settings in sides:
            for network in own if side in own else [side]:
                for name, value in settings.items():
                    values.setdefault((network, name), []).append(value)
        for (network, name), all_values in values.items():
            switch = self._switch(network, name)
            if isinstance(switch, HeldSwitch):
                self._holding.enter_context(switch.held(all_values))

    def close(self) -> None:
        """Lets go of what `hold` got ready: every network is as it was."""
        self._holding.close()

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
        switch = self._switch(network, name)
        if isinstance(switch, HeldSwitch):
            return switch.meaning(settings.get(name))
        return settings.get(name, switch.now)
