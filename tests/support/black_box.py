"""Algorithm 1 around a stock pipeline that nothing is known of but its scheduler's step: a reference for hosting.

A prediction at any latent is what the pipeline hands its scheduler at that step, of a call of its own whose latent was
put in the place of the one before. No recording, no probes, no loop of ours; T + 2 lambda calls, each up to its step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from w2sd_video.core import Level, w2sd
from w2sd_video.latents.schedules import read_schedule, to_native

Call = Callable[[], Any]


class _Found(Exception):
    pass


@contextmanager
def stepped(
    scheduler: Any, on_step: Callable[[int, int, Tensor, Tensor, Any], Tensor | None], *, repeated: bool = False
) -> Iterator[None]:
    """Inside, `on_step(number, part, output, sample, timestep)` may give another result for a step of the scheduler.

    `repeated` has the first timestep twice (of a flow, whose latents have no scale).
    """
    kind, parts, counts = type(scheduler), [], {}

    @functools.wraps(kind.step)
    def step(self: Any, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        key = id(self)
        if key not in parts:
            parts.append(key)
        number = counts[key] = counts.get(key, -1) + 1
        by_token = kwargs.get("per_token_timesteps") is not None  # there the scheduler steps the other way
        other = on_step(number, parts.index(key), -model_output if by_token else model_output, sample, timestep)
        if other is None:
            return kind.step(self, model_output, timestep, sample, *args, **kwargs)
        if getattr(self, "_step_index", 0) is None:
            self._init_step_index(timestep)
        if hasattr(self, "_step_index"):
            self._step_index += 1
        return SchedulerOutput(prev_sample=other) if kwargs.get("return_dict", True) else (other,)

    @functools.wraps(kind.set_timesteps)
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> None:
        kind.set_timesteps(self, *args, **kwargs)
        for name in [name for name in ("timesteps", "sigmas") if repeated and hasattr(self, name)]:
            values = getattr(self, name)
            setattr(self, name, torch.cat([values[:1], values, *([values[-1:]] if name == "sigmas" else [])]))

    body = {"step": step, "set_timesteps": set_timesteps, "__module__": kind.__module__}
    scheduler.__class__ = type(kind.__name__, (kind,), body)
    try:
        yield
    finally:
        scheduler.__class__ = kind


def algorithm_1(
    pipe: Any,
    strong: Call,
    weak: Call,
    num_reflections: int,
    parts: int = 1,
    *,
    blended: bool = False,
    repeated: bool = False,
) -> Any:
    """What `strong()`, a call of the pipeline, comes to with reflections whose weak side is as `weak()` predicts.

    `parts` is how many latents the pipeline samples at once (a video and its sound), all on one schedule; `blended`
    whether it puts some of its own (a first frame) into each; `repeated` puts the first latent in by a timestep that is
    there twice, where it is not what the pipeline prepares.
    """
    start: list[Tensor] = []
    told: list[Any] = []

    def first(_number: int, _part: int, _output: Tensor, sample: Tensor, timestep: Any) -> None:
        start.append(sample.clone())
        told.append(timestep)
        if len(start) == parts:
            raise _Found

    _until(pipe, strong, first)
    begin = pipe.scheduler.timesteps.tolist().index(float(told[0]))  # later than 0 of image to image
    schedule = read_schedule(pipe.scheduler, start=begin, count=getattr(pipe, "_num_timesteps", None))
    levels, scales = list(schedule.levels), schedule.scales
    sizes = [part.numel() for part in start]

    def joined(latents: list[Tensor]) -> Tensor:
        return torch.cat([latent.reshape(-1) for latent in latents])

    def split(x: Tensor, scale: float) -> list[Tensor]:
        pieces = (x * scale).split(sizes)
        return [piece.reshape(part.shape).to(part.dtype) for piece, part in zip(pieces, start, strict=True)]

    changed: list[int] = []  # of samples that are not what was put in: the pipeline blends some of its own

    def asked_at(i: int, x: Tensor, call: Call) -> tuple[list[Tensor], list[Tensor]]:
        """What the pipeline hands its scheduler at step i for the latent x: predictions, and what x became."""
        given, outputs, samples = split(x, scales[i]), [], []
        asked = i + repeated

        def on_step(number: int, part: int, output: Tensor, sample: Tensor, _timestep: Any) -> Tensor | None:
            if number == asked:
                kept = sample == given[part]
                assert bool(kept.all()) or (blended and float(kept.float().mean()) > 0.05)
                changed.extend([] if bool(kept.all()) else [i])
                samples.append(sample.clone())
                learned = output.shape != sample.shape and output.shape[1] == 2 * sample.shape[1]
                outputs.append(output[:, : sample.shape[1]] if learned else output)  # without a variance
                if len(outputs) == parts:
                    raise _Found
            return given[part] if number == asked - 1 else sample  # those before do not matter

        with _beginning(pipe, start, given if asked == 0 else start):
            _until(pipe, call, on_step, repeated=repeated)
        return outputs, samples

    def denoiser(call: Call) -> Callable[[Tensor, Level], Tensor]:
        def predict(x: Tensor, level: Level) -> Tensor:
            i = next(k for k, known in enumerate(levels) if known is level)
            outputs, _ = asked_at(i, x, call)
            return to_native(schedule.prediction, joined(outputs).to(x.dtype), x, level)

        return predict

    path: list[Tensor] = []

    def note(i: int, x: Tensor) -> Tensor | None:
        path.append(x)
        if not changed or i + 1 == len(levels) - 1:
            return None
        _, samples = asked_at(i + 1, x, strong)
        return joined([sample / scales[i + 1] for sample in samples])

    x = joined([part / scales[0] for part in start])
    models, settings = (denoiser(strong), denoiser(weak)), {"num_reflections": num_reflections, "callback": note}
    w2sd(x, levels, *models, schedule.path, solver=schedule.solver, **settings)
    with stepped(pipe.scheduler, lambda number, part, *_: split(path[number], scales[number + 1])[part]):
        return strong()


def _until(pipe: Any, call: Call, on_step: Callable[..., Any], *, repeated: bool = False) -> None:
    try:
        with stepped(pipe.scheduler, on_step, repeated=repeated):
            call()
    except _Found:
        pass
    finally:
        pipe.maybe_free_model_hooks()


@contextmanager
def _beginning(pipe: Any, start: list[Tensor], given: list[Tensor]) -> Iterator[None]:
    """Inside, the latents that the pipeline prepares are `given` where they are `start`."""
    names = [name for name in ("prepare_latents", "prepare_audio_latents") if hasattr(pipe, name)]

    def other(made: Any) -> Any:
        if isinstance(made, tuple):
            return tuple(map(other, made))
        for old, new in zip(start, given, strict=True):
            if isinstance(made, Tensor) and made.shape == old.shape and float((made == old).float().mean()) > 0.5:
                return torch.where(made == old, new, made)
        return made

    for name in names:
        own = getattr(pipe, name)
        setattr(pipe, name, lambda *args, _own=own, **kwargs: other(_own(*args, **kwargs)))
    try:
        yield
    finally:
        for name in names:
            delattr(pipe, name)
