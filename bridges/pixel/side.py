"""The weak side of a bridge through pixels, as hosting sees it: what it is told, where it is asked, what it counts."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from bridges.pixel.noise_maps import Identity, Mapped, NoiseMap, Paired, noise_map_of
from bridges.pixel.step import (
    Bridge,
    Crossing,
    gap_in_pairs,
    gap_through_pixels,
    reflect_in_pairs,
    reflect_through_pixels,
)
from w2sd_video.core import Denoiser, Level
from w2sd_video.errors import UserError
from w2sd_video.hosting import Run
from w2sd_video.hosting.calls import call_signature
from w2sd_video.hosting.cross_latent import LevelTable, RecordedModel, record_model
from w2sd_video.latents.codecs import Codec, codec_of, resize, same_space
from w2sd_video.latents.layouts import picture_size
from w2sd_video.latents.schedules import Schedule
from w2sd_video.pair import ModelSpec

SHARED_ARGUMENTS = ("prompt", "negative_prompt", "max_sequence_length")
MAX_PIXELS_AT_ONCE = 4 * 1024 * 1024  # through a VAE or the weak network
RECORDED_STEPS = 4  # of the weak pipeline's call, which is stopped at its first


class BridgeWarning(UserWarning):
    """What a caller should know at once of how a call is bridged; `run.notes` has it too."""


@dataclass
class PixelSide:
    """The weak side of a bridge, see `hosting.cross_latent.CrossLatentSide`; ``weak`` None is the strong model."""

    weak: Any
    spec: ModelSpec
    inputs: dict[str, Any]
    noise: NoiseMap | Paired | str
    vae: Any
    weak_vae: Any
    chunk: int | None
    tiled: bool
    seed: int
    strength: float
    run: Run = field(default_factory=Run)

    def prepare(self, pipe: Any, kind: type, arguments: dict[str, Any]) -> None:
        """Notes the size of the pictures, and records what the weak pipeline is told."""
        parameters = call_signature(kind).parameters
        given = {name: arguments.get(name, parameters[name].default) for name in parameters if name != "self"}
        self.run.notes.clear()  # they are of one call
        self._pipe = pipe
        self._size = picture_size(pipe, given)
        self._frames = given.get("num_frames")
        if self.weak is None:
            self._model, self._weak_size = None, self._size
            return
        height, width = (int(self.inputs.get(n, s)) for n, s in zip(("height", "width"), self._size, strict=True))
        self._weak_size = (height, width)
        sizes = {"height": height, "width": width, "num_inference_steps": RECORDED_STEPS}
        weak_kind = kind if self.weak is pipe else type(self.weak)  # while hosted, type(pipe) is a stand-in
        taken = call_signature(weak_kind).parameters
        shared = {n: given[n] for n in SHARED_ARGUMENTS if n in taken and given.get(n) is not None}
        changes = {**self._prompts(shared), **self.inputs}
        if not {"prompt", "prompt_embeds"} & (shared.keys() | changes.keys()):
            raise UserError(
                "the weak pipeline has no prompt: the call gives embeddings, which are the strong model's own; call "
                "with prompt, or give the weak side's in weak_inputs"
            )
        self._model = record_model(
            self.weak, {**shared, **sizes}, self.spec.guidance, changes, kind=weak_kind, chunk=self._chunk
        )
        if self.spec.negative_prompt is not None and self._model.guidance == 1:
            raise UserError(
                "the weak side is given a negative_prompt, but its guidance 1 uses none; set another guidance"
            )

    def _prompts(self, shared: Mapping[str, Any]) -> dict[str, Any]:
        """The prompts of the weak side's own, for as many pictures as the call has prompts."""
        prompts = {n: p for n in ("prompt", "negative_prompt") if (p := getattr(self.spec, n)) is not None}
        several = shared.get("prompt")
        return {n: [p] * len(several) for n, p in prompts.items()} if isinstance(several, list) else prompts

    def begin(self, schedule: Schedule, steps: Sequence[int], sample: Tensor, evaluated: Callable[[], None]) -> None:
        """Makes the bridge for latents like ``sample``, once the schedule and its reflected steps are known."""
        self._path, self._steps, self._evaluated = schedule.path, steps, evaluated
        ours = self._codec(self._pipe, sample.shape, self._size, self._frames, self.vae)
        theirs = ours
        if self._model is not None:
            shape = self._model.conditioning.latent_shape
            theirs = self._codec(self.weak, shape, self._weak_size, None, self.weak_vae)
        pictures = ours.layout.grid(sample).shape[0]
        if self._model is not None:
            prompts = self._model.conditioning.latent_shape[0]
            if pictures % prompts:
                raise UserError(
                    f"the weak pipeline was given {prompts} prompts for {pictures} pictures; give one per picture, or "
                    "one for all"
                )
            self._rows = [i * prompts // pictures for i in range(pictures)]
        self._ours, self._theirs = ours, theirs
        noise, resizers = self._chosen_noise(), (_resizer(theirs), _resizer(ours))
        paired = isinstance(noise, Paired)
        bridge = Bridge[Any](ours, theirs, noise, *resizers, one_space=getattr(noise, "shared", False))
        reflection, gap = (reflect_in_pairs, gap_in_pairs) if paired else (reflect_through_pixels, gap_through_pixels)
        self._reflection: Callable[..., Crossing | None] = functools.partial(reflection, bridge=bridge)
        self._gap: Callable[..., Crossing | None] = functools.partial(gap, bridge=bridge)
        self._check_levels(schedule, noise.scale)

    def reflect(self, x: Tensor, start: Level, end: Level, strong: Denoiser) -> Tensor | None:
        sides = strong, self._weak_at(start, strong), self._path
        return self._crossed(self._reflection(x, start, end, *sides, strength=self.strength))

    def gap(self, x: Tensor, level: Level, prediction: Tensor, strong: Denoiser) -> Tensor | None:
        sides = strong, self._weak_at(level, strong), self._path
        return self._crossed(self._gap(x, level, *sides, prediction=prediction))

    def _weak_at(self, level: Level, strong: Denoiser) -> _Itself | _Other:
        return _Itself(strong, level, self) if self._model is None else _Other(self._model, self)

    def _crossed(self, crossing: Crossing | None) -> Tensor | None:
        self._count()
        if crossing is None:
            self.run.num_skipped += 1
            return None
        return crossing.latent

    def finish(self) -> None:
        """Says how many reflections were left out, and why, where that was not known before."""
        if self.run.num_skipped and (said := self._skipped(self.run.num_skipped)) not in self.run.notes:
            self._warn(said)

    def close(self) -> None:
        """Lets the weak pipeline's offloading have its models back."""
        if self.weak is not None and self.weak is not self._pipe:
            self.weak.maybe_free_model_hooks()

    @property
    def _chunk(self) -> int:
        return max(1, MAX_PIXELS_AT_ONCE // math.prod(self._size)) if self.chunk is None else self.chunk

    def _codec(self, pipe: Any, shape: torch.Size, size: tuple[int, ...], frames: int | None, vae: Any) -> Codec:
        height, width = size
        return codec_of(pipe, shape, height, width, frames, vae=vae, chunk=self._chunk, tiled=self.tiled)

    def _chosen_noise(self) -> NoiseMap | Paired:
        """The noise asked for, checked against the two autoencoders and begun anew."""
        chosen = noise_map_of(self.noise, self.seed) if isinstance(self.noise, str) else self.noise
        if isinstance(chosen, Paired):
            sizes = [(codec.height, codec.width) for codec in (self._ours, self._theirs)]
            # The control's two spaces are one, and its noise is independent as that of the pair it stands for.
            shared = self._model is not None and sizes[0] == sizes[1] and same_space(self._ours, self._theirs)
            chosen = chosen if self._model is not None else replace(chosen, scale=None)
            return chosen.between(self._ours, self._theirs, shared=shared, frames=self._ours.layout.num_frames or 1)
        if self._model is None and isinstance(chosen, Mapped):
            chosen = Identity()  # the control has the strong model's own space on both sides
        chosen.check(self._ours, self._theirs)
        ours, theirs = ((1, c.channels, c.layout.height, c.layout.width) for c in (self._ours, self._theirs))
        chosen(torch.zeros(ours), torch.Size(theirs))  # refuses sizes it is not for
        chosen.reset()
        return chosen

    def _check_levels(self, schedule: Schedule, known: float | None) -> None:
        """Refuses a window in which the weak model could not be asked at a single step."""
        window = [schedule.levels[i] for i in self._steps]
        if self._model is None or not window:
            return
        table = self._model.table
        unknown = count_unknown(window, table, known or 1.0)
        if unknown and known is not None:  # else it is measured, step by step
            self._warn(skipped(unknown, len(window), table))

    def _skipped(self, count: int) -> str:
        assert self._model is not None
        return skipped(count, len(self._steps), self._model.table)

    def _warn(self, message: str) -> None:
        self.run.note(message)
        warnings.warn(message, BridgeWarning, stacklevel=2)

    def _count(self) -> None:
        codecs = {id(codec): codec for codec in (self._ours, self._theirs)}.values()
        self.run.num_encodes = sum(codec.num_encodes for codec in codecs)
        self.run.num_decodes = sum(codec.num_decodes for codec in codecs)


@dataclass(frozen=True)
class _Other:
    """The weak pipeline's network on grids."""

    model: RecordedModel
    side: PixelSide

    def nearest(self, kappa: float) -> Level | None:
        return self.model.table.nearest(kappa)

    def clean(self, grid: Tensor, level: Level) -> Tensor:
        side, layout = self.side, self.side._theirs.layout
        estimate = self.model.clean(layout.latents(grid), level, side._rows, side.run._counter)
        side._evaluated()
        return layout.grid(estimate)


@dataclass(frozen=True)
class _Itself:
    """The strong model in the weak one's place: the zero-gap control."""

    strong: Denoiser
    start: Level
    side: PixelSide

    def nearest(self, kappa: float) -> Level:
        return self.start

    def clean(self, grid: Tensor, level: Level) -> Tensor:
        layout, path = self.side._ours.layout, self.side._path
        latents = layout.latents(grid)
        return layout.grid(path.clean(latents, self.strong(latents, level), level))


def count_unknown(window: Sequence[Level], table: LevelTable, scale: float) -> int:
    """Returns at how many reflected levels of a strong model the weak one knows no level of that noise.

    Raises:
        UserError: at all of them.
    """
    unknown = sum(table.nearest(level.kappa * scale) is None for level in window)
    if window and unknown == len(window):
        raise UserError(
            f"none of the {len(window)} reflections can be made: the strong model's sigma/alpha there is "
            f"{window[-1].kappa:.3g} to {window[0].kappa:.3g}, beyond the weak model's {table.noisiest:.3g}; use more "
            "--reflections or another weak model"
        )
    return unknown


def skipped(count: int, of: int, table: LevelTable) -> str:
    """Returns the sentence on reflections that are left out."""
    return (
        f"{count} of {of} reflections are skipped: the weak model knows no level of that noise (its sigma/alpha is "
        f"{table.cleanest:.3g} to {table.noisiest:.3g})"
    )


def _resizer(codec: Codec) -> Callable[[Tensor], Tensor]:
    """Resizes to the pictures of a codec."""
    return lambda pixels: resize(pixels, codec.height, codec.width)
