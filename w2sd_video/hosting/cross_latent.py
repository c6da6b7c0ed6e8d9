"""A weak side that lives in another latent space: what hosting asks of it, and another pipeline's network as a model
that can be asked for a clean estimate at any noise level.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from w2sd_video.core import Denoiser, FlowPath, Level, NoisePath
from w2sd_video.errors import UserError
from w2sd_video.hosting.caches import check_uncached
from w2sd_video.hosting.calls import call_guidance, call_signature, replaced, with_both_halves
from w2sd_video.hosting.conditioning import Conditioning, Counter, predict, read_conditioning
from w2sd_video.hosting.refusals import check_state
from w2sd_video.hosting.run import Run
from w2sd_video.hosting.sides import record
from w2sd_video.latents.schedules import Schedule, prediction_of, to_native, training_levels


@runtime_checkable
class CrossLatentSide(Protocol):
    """A weak side that makes the whole reflection itself, for `reflected(pipe, weak=...)`.

    `prepare` is called before the pipeline runs, `begin` at its first step with the numbers of the steps that are to be
    reflected, and `reflect` at each of these with a latent of the strong pipeline; it returns x~, or None where that
    step is not reflected. With `gap_every` it is `gap` in its place, called at the sampling steps that measure one: it
    returns x0_weak - x0_strong at a latent of the strong side, whose prediction there is given, or None. `finish` is
    called after the pipeline's loop, and `close` at the end, whatever happened. `run` is what `reflected` yields;
    `evaluated` is to be called after each evaluation of the weak side.
    """

    run: Run

    def prepare(self, pipe: Any, kind: type, arguments: dict[str, Any]) -> None: ...

    def begin(
        self, schedule: Schedule, steps: Sequence[int], sample: Tensor, evaluated: Callable[[], None]
    ) -> None: ...

    def reflect(self, x: Tensor, start: Level, end: Level, strong: Denoiser) -> Tensor | None: ...

    def gap(self, x: Tensor, level: Level, prediction: Tensor, strong: Denoiser) -> Tensor | None: ...

    def finish(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class LevelTable:
    """The noise levels a network was trained at, by their noise-to-signal ratio.

    `levels` run from clean to noisy; None for a flow, which knows every level up to pure noise.
    """

    levels: tuple[Level, ...] | None
    num_train_timesteps: int
    _logs: list[float] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self._logs.extend(math.log(level.kappa) for level in self.levels or ())

    def nearest(self, kappa: float) -> Level | None:
        """The level whose sigma / alpha is nearest to ``kappa`` in log; None beyond the noisiest or the cleanest one.

        Beyond is further out than half the table's own last spacing, where the next level would be the nearer one.
        """
        if self.levels is None:
            sigma = 1.0 if math.isinf(kappa) else kappa / (1.0 + kappa)
            return Level(sigma * self.num_train_timesteps, 1.0 - sigma, sigma) if sigma > 0 else None
        if not 0 < kappa < math.inf:
            return None
        logs, wanted = self._logs, math.log(kappa)
        if wanted > logs[-1] + (logs[-1] - logs[-2]) / 2 or wanted < logs[0] - (logs[1] - logs[0]) / 2:
            return None
        i = min(max(bisect.bisect_left(logs, wanted), 1), len(logs) - 1)
        return self.levels[i if logs[i] - wanted < wanted - logs[i - 1] else i - 1]

    @property
    def noisiest(self) -> float:
        """The largest sigma / alpha."""
        return math.inf if self.levels is None else self.levels[-1].kappa

    @property
    def cleanest(self) -> float:
        """The smallest sigma / alpha."""
        return 0.0 if self.levels is None else self.levels[0].kappa


@dataclass
class RecordedModel:
    """Another pipeline's network, as recorded from a call of that pipeline that was stopped at its first step.

    `clean` takes latents of that pipeline, one row per entry of `rows` (which recorded prompt each latent is for).
    """

    conditioning: Conditioning
    guidance: float
    path: NoisePath | FlowPath
    prediction: str
    table: LevelTable
    time_unit: float
    chunk: int | None = None

    def clean(self, z: Tensor, level: Level, rows: Sequence[int], counter: Counter) -> Tensor:
        """The x0 estimate of latents ``z`` [N, ...] at ``level``, under the model's own conditioning and guidance."""
        return torch.cat(
            [
                self._clean(z[first : first + size], level, rows[first : first + size], counter)
                for size in (self.chunk or len(z),)
                for first in range(0, len(z), size)
            ]
        )

    def _clean(self, z: Tensor, level: Level, rows: Sequence[int], counter: Counter) -> Tensor:
        check_uncached(self.conditioning.network)
        passed = self.conditioning.timestep
        timestep = torch.tensor(level.timestep * self.time_unit, dtype=torch.float32, device=passed.device)
        conditioning = self.conditioning.for_rows(rows).at(timestep)
        output = predict(conditioning, z, self.guidance, counter=counter).to(z.dtype)
        return self.path.clean(z, to_native(self.prediction, output, z, level), level)


def record_model(
    pipe: Any,
    arguments: dict[str, Any],
    guidance: float | None,
    changes: dict[str, Any],
    *,
    kind: type | None = None,
    chunk: int | None = None,
) -> RecordedModel:
    """Returns the network of ``pipe`` as it would be called by ``pipe(**arguments)`` with ``changes`` made.

    Args:
        pipe: a diffusers image pipeline; its scheduler serves for its levels only: any with a noise schedule will do.
        arguments: call arguments, one latent per prompt.
        guidance: scale of its classifier-free guidance (of its embedded one where the network has that); None is what
            the call does by default.
        changes: arguments in place of those above; a prompt drops its embeddings and the other way.
        kind: the class whose call is made, where it is not the pipeline's own.
        chunk: latents per evaluation.

    Raises:
        UserError: the pipeline cannot be asked this way.
    """
    kind = kind or type(pipe)
    given = replaced(arguments, changes)
    unknown = set(given) - set(call_signature(kind).parameters)
    if unknown:
        raise UserError(f"{kind.__name__} does not take {', '.join(sorted(unknown))}; leave it out")
    check_state(pipe, given)
    levels, path = training_levels(pipe.scheduler)
    guides = call_guidance(kind, pipe, given)
    if guides.embedded is not None:
        scale = 1.0
        given = given if guidance is None else {**given, "guidance_scale": float(guidance)}
    else:
        scale = guides.scale if guidance is None else float(guidance)
        given = given if scale == 1 else with_both_halves(guides, given)
    step = record(pipe, kind, given, pipe.scheduler)
    conditioning = read_conditioning(step, call_guidance(kind, pipe, given).scales)
    total = int(pipe.scheduler.config.num_train_timesteps)
    return RecordedModel(
        conditioning=conditioning,
        guidance=scale,
        path=path,
        prediction=prediction_of(pipe.scheduler),
        table=LevelTable(levels, total),
        time_unit=_time_unit(float(conditioning.timestep.reshape(-1)[0]), float(step.timestep), total, kind),
        chunk=chunk,
    )


def _time_unit(passed: float, timestep: float, total: int, kind: type) -> float:
    """What a scheduler's timestep is multiplied with before it is passed to the network (Flux: 1 / 1000)."""
    for unit in (1.0, 1.0 / total):
        if math.isclose(passed, timestep * unit, rel_tol=1e-2):
            return unit
    raise UserError(
        f"{kind.__name__} passes its network {passed:g} at timestep {timestep:g}; known are the timestep itself and "
        f"its share of {total}"
    )
