"""Watching a stock pipeline call: what it passes to its network at each step, and taking over its scheduler's step.

While a call is recorded, calling a network does nothing but note the arguments, and returns a `probe`, so that what the
pipeline makes of it shows which half of guidance comes first and how each is weighed. Only the outermost call is
intercepted (through the object's class), so hooks, offloading, compilation and whatever else sits on `forward` never
see a probe. A call of a ControlNet is noted likewise; what it returns only stands for its outputs, to be recognised
among the arguments of the network.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor, nn

from w2sd_video.errors import UserError
from w2sd_video.hosting.arguments import fresh

LATENT_NAMES = ("sample", "hidden_states")
TIME_NAMES = ("timestep", "timesteps")
# Arguments computed from the latent: what was recorded would be wrong at every other latent, but for a ControlNet's
# outputs, which are computed again.
LATENT_DEPENDENT = (
    "down_block_additional_residuals",
    "mid_block_additional_residual",
    "controlnet_block_samples",
    "controlnet_single_block_samples",
    "block_controlnet_hidden_states",
    "controlnet_states",
)
OnStep = Callable[["RecordedStep"], Tensor]
PROBE_SIZES = (1.0, 2.0, 0.5)  # of one step after the other; powers of two, by which plain guidance scales exactly


class NotRecorded(UserError):
    """What a pipeline does cannot be recorded and repeated at another latent; its own loop may do it (`replay`).

    `rows` are the batches of the network's calls at the first step, as far as it came to one; `batch` is its latents'.
    """

    rows: tuple[int, ...] = ()
    batch = 0


class RecordingDone(Exception):
    """Ends a pipeline call whose conditioning is known; private to this package."""


@dataclass(frozen=True)
class NetworkCall:
    """One call of a network: its arguments by name (containers copied, as pipelines and networks change them)."""

    network: nn.Module
    arguments: dict[str, Any]
    latent_name: str

    @property
    def latent(self) -> Tensor:
        return self.arguments[self.latent_name]


@dataclass(frozen=True, eq=False)
class ControlOutput:
    """Stands for an output of a recorded ControlNet call."""

    call: NetworkCall
    index: int


@dataclass
class RecordedStep:
    """What a pipeline did up to one `scheduler.step`: its network calls, and what it handed to the scheduler.

    `combined` is what it made of the probes, as of probes of size 1; `schedule` counts its calls of `set_timesteps`.
    """

    calls: list[NetworkCall]
    combined: Tensor
    timestep: Any
    sample: Tensor
    options: dict[str, Any] = field(default_factory=dict)
    controls: list[NetworkCall] = field(default_factory=list)
    schedule: int = 0


class Recorder:
    """Intercepts the networks and the scheduler of one pipeline call; `on_step` makes the next latent.

    `control` is the pipeline's ControlNet, if it has one; `name` is the pipeline's in errors.

    Inside `on_step` everything is as it was, so the networks can be called as ever.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        scheduler: Any,
        on_step: OnStep,
        control: nn.Module | None = None,
        *,
        name: str = "this pipeline",
    ) -> None:
        both: list[tuple[nn.Module, Any]] = [(network, self._record) for network in networks]
        if control is not None:
            both.append((control, self._record_control))
        self._networks = {id(network): network for network, _ in both}
        self._classes = {key: type(network) for key, network in self._networks.items()}
        self._masks = {id(network): mask(type(network), record) for network, record in both}
        self._names = {key: parameter_names(network) for key, network in self._networks.items()}
        self._scheduler = scheduler
        self._on_step = on_step
        self._name = name
        self._made = self._schedules = 0
        self._calls: list[NetworkCall] = []
        self._controls: list[NetworkCall] = []

    @contextmanager
    def installed(self) -> Iterator[None]:
        scheduler, kind, own = self._scheduler, type(self._scheduler), vars(self._scheduler).pop("step", None)

        @functools.wraps(kind.step)  # pipelines look at its signature
        def stand_in(this: Any, *args: Any, **kwargs: Any) -> Any:
            if this is scheduler:
                return self._step(*args, **kwargs)
            if self._calls:  # of which it would be given probes
                raise NotRecorded(
                    f"{self._name} makes its steps by copies of its {kind.__name__}, which reflection cannot take over"
                )
            return kind.step(this, *args, **kwargs)

        @functools.wraps(kind.set_timesteps)
        def noted(this: Any, *args: Any, **kwargs: Any) -> Any:
            self._schedules += this is scheduler
            return kind.set_timesteps(this, *args, **kwargs)

        scheduler.__class__ = subclass(kind, {"step": stand_in, "set_timesteps": noted})
        self._put(self._masks)
        try:
            yield
        except Exception as error:
            if isinstance(error, UserError) or not self._calls or self._made:
                raise
            raise NotRecorded(f"{self._name} makes something else of what its network returns ({error})") from error
        finally:
            self._put(self._classes)
            scheduler.__class__ = kind
            if own is not None:
                scheduler.step = own

    def lifted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, a callback of the user's, with the networks as they are while it runs."""

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            self._put(self._classes)
            try:
                return function(*args, **kwargs)
            finally:
                self._put(self._masks)

        return called

    def _put(self, classes: dict[int, type]) -> None:
        for key, network in self._networks.items():
            # Past the object's own __setattr__: a compiled module forwards that to the module inside.
            object.__setattr__(network, "__class__", classes[key])

    def _record(self, network: Any, args: tuple, kwargs: dict) -> Any:
        call = self._noted(network, args, kwargs)
        self._calls.append(call)
        latent = call.latent
        shape, channels = list(latent.shape), getattr(network.config, "in_channels", None)
        if shape[1] == channels and getattr(network.config, "out_channels", None) == 2 * shape[1]:
            shape[1] *= 2  # with a learned variance
        made = probe(latent.new_zeros(shape), first=len(self._calls) == 1, size=self._size)
        if call.arguments.get("return_dict") is not False:
            return Transformer2DModelOutput(sample=made)
        taken = f"{self._name} takes more than a prediction from its {self._classes[id(network)].__name__}"
        return Alone.of(made, f"{taken} (sound, a cache ...), which reflection cannot repeat at another latent")

    @property
    def _size(self) -> float:
        """The size of the probes of the current step."""
        return PROBE_SIZES[self._made % len(PROBE_SIZES)]

    def _record_control(self, network: Any, args: tuple, kwargs: dict) -> Any:
        call = self._noted(network, args, kwargs)
        if call.arguments.get("return_dict") is not False:
            raise NotRecorded(
                f"{type(network).__name__} is called in a way that reflection does not know (return_dict)"
            )
        self._controls.append(call)
        return ControlOutput(call, 0), ControlOutput(call, 1)

    def _noted(self, network: Any, args: tuple, kwargs: dict) -> NetworkCall:
        arguments = {name: fresh(value) for name, value in zip(self._names[id(network)], args, strict=False)}
        arguments.update({name: fresh(value) for name, value in kwargs.items()})
        name = next((name for name in LATENT_NAMES if name in arguments), None)
        if name is None or not isinstance(arguments[name], Tensor) or not any(name in arguments for name in TIME_NAMES):
            raise NotRecorded(
                f"{type(network).__name__} is not called with a latent ({' or '.join(LATENT_NAMES)}) and a timestep; "
                "reflection is for denoising networks of that form"
            )
        return NetworkCall(network, arguments, name)

    def _step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, return_dict: bool = True, **options: Any
    ) -> Any:
        calls, self._calls = self._calls, []
        controls, self._controls = self._controls, []
        self._put(self._classes)
        try:
            check_options(type(self._scheduler).__name__, args, options)
            combined = model_output if self._size == 1 else model_output / self._size
            self._made += 1
            latent = self._on_step(RecordedStep(calls, combined, timestep, sample, options, controls, self._schedules))
        finally:
            self._put(self._masks)
        return SchedulerOutput(prev_sample=latent) if return_dict else Alone.stepped(self._name, latent)


def mask(kind: type, record: Callable[[Any, tuple, dict], Any], *, cached: bool = True) -> type:
    """A class like `kind` whose instances, when called, are recorded instead; `cached` is whether it may be cached."""

    def call(network: Any, *args: Any, **kwargs: Any) -> Any:
        return record(network, args, kwargs)

    body: dict[str, Any] = {"__call__": call}
    if cached and hasattr(
        kind, "cache_context"
    ):  # walks all modules of the network to prepare a cache that is not used
        body["cache_context"] = lambda *_, **__: nullcontext()
    return subclass(kind, body)


def subclass(kind: type, body: dict[str, Any]) -> type:
    """A class like `kind`, of its name, with these attributes besides."""
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind)(kind.__name__, (kind,), {**names, **body})


def probe(zeros: Tensor, *, first: bool, size: float = 1.0) -> Tensor:
    """Zeros [N, ...] with `size` in every other place of each row, by which half of guidance it belongs to.

    The half that comes first, in one call or in the `first` of two, has it at even positions, the other at odd ones:
    the first N // 2 rows of one call and the rest of it, or all rows of the second of two.
    """
    rows = zeros.view(len(zeros), -1)
    half = max(1, len(zeros) // 2) if first else 0
    rows[:half, 0::2] = size
    rows[half:, 1::2] = size
    return zeros


class Alone(tuple):
    """The outputs of a recorded network or a step: the first one alone, an error for whoever asks for more."""

    _why = ""

    @classmethod
    def of(cls, output: Tensor, why: str) -> Alone:
        outputs = cls((output,))
        outputs._why = why
        return outputs

    @classmethod
    def stepped(cls, name: str, latent: Tensor) -> Alone:
        """What a scheduler's step returns to a pipeline of that name."""
        return cls.of(
            latent, f"{name} takes more than the next latent from its scheduler, which reflection does not make"
        )

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int) and index not in (0, -1):
            raise NotRecorded(self._why)
        return super().__getitem__(index)

    def __iter__(self) -> Iterator[Any]:
        yield super().__getitem__(0)
        raise NotRecorded(self._why)


def parameter_names(network: nn.Module) -> list[str]:
    inner = getattr(network, "_orig_mod", network)  # of a compiled module
    return list(inspect.signature(type(inner).forward).parameters)[1:]


def check_options(name: str, args: tuple, options: dict[str, Any]) -> None:
    for option in ("eta", "s_churn"):
        if options.get(option):
            raise UserError(
                f"{option}={options[option]} makes {name} draw noise at every step, which an inversion cannot take "
                f"back; leave {option} at 0"
            )
    if args or options.get("per_token_timesteps") is not None or options.get("variance_noise") is not None:
        raise NotRecorded(f"this pipeline gives {name}.step arguments that reflection does not know: {sorted(options)}")
