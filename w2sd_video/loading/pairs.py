"""Both sides of a pair as pipelines: each is lent what it lacks, and what is equal is in memory once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from diffusers import MotionAdapter

from w2sd_video.loading.animatediff import motion_adapter_of
from w2sd_video.loading.describe import WEIGHTED, Description, is_lent
from w2sd_video.loading.pair_description import PairDescription, check_pair_configs
from w2sd_video.loading.parts import ON_HOST, Places, Source, Told, progress_bars
from w2sd_video.loading.pipelines import load_described, reflectable
from w2sd_video.loading.sharing import unique_bytes

ROLES = ("strong", "weak")
NOWHERE_ELSE: Mapping[str, Places] = {}


def load_pair(
    pair: PairDescription,
    *,
    dtype: torch.dtype,
    wanted: Collection[str] = ROLES,
    video: bool = True,
    scheduler: str | None = None,
    note: Callable[[str], None] = lambda message: None,
    quiet: bool = False,
    waiting: list[Callable[[], None]] | None = None,
    places: Mapping[str, Places] = NOWHERE_ELSE,
    told: Told = lambda size, part: None,
) -> dict[str, Any]:
    """Returns the pipelines of the `wanted` sides by role ("strong", "weak"), in evaluation mode on the host, or where
    `places` has a side's tensors read to.

    A side takes from the other what it lacks: a folder with one network all the rest; a single file the VAE or text
    encoders that neither it nor its configs' folder holds; a checkpoint that makes pictures, in a pair for videos, the
    motion modules. What is equal has one storage. Nothing is fetched unless a hub id is given.

    Args:
        pair: what `describe_pair`, or `describe` of each side, found.
        dtype: of the networks; a VAE that overflows in float16 is loaded as float32.
        scheduler, note: as of `load_reflectable`; `note` is also told what one side has from the other.
        quiet: silence the libraries' progress bars.
        waiting, told: as of `load_pipeline`; `places` too, by role.

    Raises:
        UserError: as `load_pipeline`; configs of hub ids that do not make a pair.
    """
    sides = {role: side for role, side in zip(ROLES, (pair.strong, pair.weak), strict=True) if side is not None}
    sources = {
        role: Source(
            side,
            dtype,
            pair.allow_pickle,
            waiting=None if waiting is None else [],
            places=places.get(role, ON_HOST),
            told=told,
        )
        for role, side in sides.items()
    }
    made: dict[str, Any] = {}
    with progress_bars(shown=not quiet):
        motion = None
        if pair.motion_adapter is not None:
            there = places.get("strong", ON_HOST)
            motion = Source(pair.motion_adapter, dtype, pair.allow_pickle, places=there, told=told)
        if pair.put_together and pair.needs_network:  # the same checks again, now with the configs of hub ids
            fetched = {**sources, "motion": motion}
            check_pair_configs(pair, lambda role, part: _own_config(fetched[role], part))
        adapter = _motion_modules(sources, motion, video)
        leaning = {role for role, side in sides.items() if _leans(side, adapter is not None, video)}
        for role in sorted(sides, key=lambda role: role in leaning):
            other = ROLES[role == "strong"]
            if role in wanted or other in leaning or pair.put_together:
                pipe = load_described(sources[role], role, adapter, video=video, sharing=made.get(other))
                made[role] = reflectable(pipe, scheduler, role, note)
                if waiting is not None and role in wanted:
                    waiting += sources[role].weights_of(pipe, made.get(other) if other in wanted else None)
    for role in made if len(sides) == 2 else ():
        _note_lent(role, pair, note)
    if pair.put_together:  # also where one is wanted: what a side makes does not depend on what else is made
        _settle(made["strong"], made["weak"], note)
    return {role: made[role] for role in made if role in wanted}


def _own_config(source: Source | None, part: str) -> dict[str, Any] | None:
    return None if source is None or part in source.description.lacking else source.config(part)


def _motion_modules(sources: dict[str, Source], motion: Source | None, video: bool) -> MotionAdapter | None:
    """The motion modules for both sides: those given, or of a motion UNet that has nothing else."""
    if motion is not None:
        return motion.load(MotionAdapter, "motion_adapter")
    for source in sources.values() if video else ():
        side = source.description
        if side.kind == "network" and (side.part("unet") or {}).get("_class_name") == "UNetMotionModel":
            return motion_adapter_of(source.unet())
    return None


def _leans(side: Description, adapted: bool, video: bool) -> bool:
    """Whether a side cannot be loaded before the other one."""
    pictures = side.class_name is not None and not side.is_video
    return any(is_lent(side, part) for part in WEIGHTED) or (video and pictures and not adapted)


def _note_lent(role: str, pair: PairDescription, note: Callable[[str], None]) -> None:
    """Says what a side has from elsewhere: not the weak one's VAE, as the strong one's decodes."""
    side, other = (pair.strong, pair.weak) if role == "strong" else (pair.weak, pair.strong)
    assert side is not None and other is not None
    for part, words in (("vae", "VAE: that of {} decodes"), ("text_encoder", "text encoders: those of {} serve both")):
        lent = is_lent(side, part)
        told = role == "strong" or (part != "vae" and side.kind == "file")
        if told and (lent or (part in side.lacking and pair.put_together)):
            note(f"{side.given} holds no {words.format(other.given if lent else side.config)}")


def _settle(strong: Any, weak: Any, note: Callable[[str], None]) -> None:
    """Both sample on the strong side's noise levels and are decoded by its VAE; differences are noted."""
    prediction = weak.scheduler.config.prediction_type
    weak.scheduler = type(strong.scheduler).from_config(strong.scheduler.config, prediction_type=prediction)
    if unique_bytes(strong.vae, weak.vae) != unique_bytes(strong.vae):
        note(
            "the two VAEs differ in their weights though not in their scaling: the strong side's decodes, and the gap "
            "includes what the latents mean to each"
        )
    weak.register_modules(vae=strong.vae)
    texts = [[getattr(pipe, name, None) for name in ("text_encoder", "text_encoder_2")] for pipe in (strong, weak)]
    if unique_bytes(*texts[0], *texts[1]) != unique_bytes(*texts[0]):
        note("the text encoders differ: each side encodes the prompt with its own")
    motion = [motion_adapter_of(pipe.unet) for pipe in (strong, weak)]
    if unique_bytes(*motion) != unique_bytes(motion[0]):
        note("the sides hold motion modules of their own, which differ: they are part of the gap")
