"""What a replayed call is made of: its latents, the predictions that are asked for, and the visits of its loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from w2sd_video.core import Level, NoiseSampler
from w2sd_video.errors import UserError
from w2sd_video.hosting.sampling import Sampling
from w2sd_video.hosting.sides import Side
from w2sd_video.hosting.turns import Turns
from w2sd_video.latents.schedules import Schedule


@dataclass(frozen=True)
class Wish:
    """A prediction that the algorithm asks for."""

    side: Side
    x: Tensor
    level: Level
    counted: bool = True  # False for what a sampling step's own evaluation gives besides
    elsewhere: bool = False  # the level is not that of the pipeline's step

    @property
    def model(self) -> tuple[Side, float | None]:
        """What has to be evaluated for it, and as of which timestep; guidance only combines."""
        return evaluated(self.side), self.timestep

    @property
    def timestep(self) -> float | None:
        """What the pipeline is to take its timestep for, None for its own."""
        return self.level.timestep if self.elsewhere else None


def evaluated(side: Side) -> Side:
    """The side as far as its evaluation depends on it."""
    return replace(side, guidance=None, prediction=None, levels=None)


NoiseStates = Sequence[tuple[Callable[[Any], Any], Any]]


def noise_states(generator: Any) -> NoiseStates:
    """What puts back each state of noise that a call with this generator (or list) draws from, and the state it is in.

    Without a generator that is torch's own.
    """
    given = generator if isinstance(generator, list | tuple) else [] if generator is None else [generator]
    states: list[tuple[Callable[[Any], Any], Any]] = [(each.set_state, each.get_state()) for each in given]
    states.append((torch.random.set_rng_state, torch.random.get_rng_state()))
    if torch.cuda.is_initialized():
        states.append((torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    return states


def put_back(states: NoiseStates) -> None:
    for set_to, state in states:
        set_to(state)


class Draws:
    """A noise sampler that draws the same again for a step that is begun again."""

    def __init__(self, sampler: NoiseSampler) -> None:
        self._sampler, self._drawn, self._next = sampler, list[Tensor](), 0

    def begin(self, *, again: bool) -> None:
        self._drawn, self._next = self._drawn if again else [], 0

    def __call__(self, x: Tensor) -> Tensor:
        if self._next == len(self._drawn):
            self._drawn.append(self._sampler(x))
        self._next += 1
        return self._drawn[self._next - 1]


@dataclass
class Part:
    """One latent of a pipeline (a video, its sound ...), with the scheduler that steps it."""

    scheduler: Any
    sample: Tensor
    output: Tensor
    native: Tensor  # the output of the latest visit that evaluated
    by_token: bool = False  # stepped by timesteps of its tokens
    schedule: Schedule | None = None
    sampling: Sampling | None = None
    turns: Turns[Wish, Tensor] | None = None
    noise: Draws | None = None
    latent: Tensor | None = None  # ours, of the present step
    sent: Tensor | None = None  # as the pipeline was given it
    handed: Tensor | None = None  # what its scheduler's step returns, None for the sample


@dataclass(frozen=True)
class Visit:
    """What a visit is for: `fed` are network outputs (None evaluates `side`), `last` is the last one of a timestep.

    `timestep` is what the pipeline is to take it for, None for its own.
    `scale` is put where the pipeline keeps its scale of guidance (`OwnScale`) while they are fed. `hands` is whether it
    only hands over a latent of this timestep: what is blended into that (a known part) is then of this timestep too.
    """

    side: Side
    fed: list[Any] | None = None
    last: bool = False
    timestep: float | None = None
    scale: float | None = None
    hands: bool = False


def ours(sample: Tensor, scale: float) -> Tensor:
    x = sample.to(torch.promote_types(sample.dtype, torch.float32), copy=True)  # as pipelines write into their own
    return x if scale == 1 else x / scale


def theirs(latent: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    return (latent if scale == 1 else latent * scale).to(dtype, copy=True)


def prediction_for(output: Tensor, x: Tensor) -> Tensor:
    """The prediction for `x` of what a scheduler is handed, without a learned variance."""
    if output.shape != x.shape and output.dim() > 1 and output.shape[1] == 2 * x.shape[1]:
        output = output[:, : x.shape[1]]
    if output.shape != x.shape:
        raise UserError(
            f"the scheduler is handed a prediction of shape {tuple(output.shape)} for a latent of {tuple(x.shape)}"
        )
    return output.to(x.dtype)


def nearer(own: Tensor, first: Tensor, second: Tensor) -> tuple[float, float]:
    """Which half a guided prediction leans to, where its rule is not known: 1 for that one."""
    away = [(own - each).double().square().sum() for each in (first, second)]
    return (1.0, 0.0) if bool(away[0] <= away[1]) else (0.0, 1.0)
