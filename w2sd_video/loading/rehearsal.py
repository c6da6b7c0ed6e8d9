"""What loading a model, and the first step of a call, would refuse: found from headers and configs, with networks that
have no values.

Everything here is of files on this machine; what comes from the hub is checked when it is loaded.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from typing import Any

import diffusers
import numpy as np
import torch
from torch import nn

from w2sd_video.core import ReflectionConfig
from w2sd_video.core.trained_timesteps import Timesteps
from w2sd_video.errors import UserError
from w2sd_video.hosting.refusals import check_reflections
from w2sd_video.latents.schedules import Schedule, read_schedule, trained_levels
from w2sd_video.loading.animatediff import assemble_motion_unet, motion_adapter_of
from w2sd_video.loading.describe import Description
from w2sd_video.loading.files import FAMILIES, TensorInfo
from w2sd_video.loading.loras import check_lora
from w2sd_video.loading.pair_description import PairDescription
from w2sd_video.loading.parts import (
    READABLE,
    check_all_used,
    check_device,
    check_header,
    reading,
    without_values,
)
from w2sd_video.loading.pipelines import chosen_scheduler, class_of, motion_scheduler, reflectable_scheduler
from w2sd_video.loading.tensor_checks import check_none_missing

OTHERS = ("vae", "text_encoder", "text_encoder_2", "text_encoder_3")
OLD_NAMES = (".query.weight", ".key.weight", ".value.weight", ".proj_attn.weight")
PARTS = ("unet", "transformer", "transformer_2", "motion_adapter")
Methods = Iterable[tuple[str, ReflectionConfig]]  # by the names that `reflected` has for them


def check_networks(files: Description) -> dict[str, nn.Module]:
    """Returns the networks of a model without values, by part, those whose weights are here.

    Raises:
        UserError: tensors that are missing, that its config has no place for, or of another shape.
    """
    found = {}
    for part in PARTS:
        weights, config = files.weights(part), files.part(part)
        if config is not None and config.get("quantization_config"):
            check_device(config, files.given)
        if weights is None or config is None or "quantization_config" in config:
            continue
        single = files.kind == "file" and part not in files.lacking
        entry = None if files.kind == "file" else (files.index or {}).get(part)  # which loading goes by, too
        name = str(config.get("_class_name") if entry is None else entry[1])
        name = "UNet2DConditionModel" if single and part == "unet" else name
        if files.kind == "network" and (name == "MotionAdapter") != (part == "motion_adapter"):
            continue  # such a folder holds one network, whatever it is called
        kind = class_of(["diffusers", name], files.given)
        found[part] = without_values(kind, config, files.given, part)
        if single:
            check_all_used(files, found[part], part)
        else:
            check_header(kind, config, weights.header, files.given, part)
    return found


def check_others(files: Description) -> None:
    """Raises `UserError` where the VAE or a text encoder of a model here lacks tensors, which would be random."""
    for part in OTHERS:
        weights, config = files.weights(part), files.part(part)
        entry = (files.index or {}).get(part)
        if weights is None or config is None or weights.prefix or "quantization_config" in config:
            continue  # a single file's own are in another layout
        kind = class_of(entry or ["diffusers", config.get("_class_name")], files.given)
        if part == "vae":
            check_vae(kind, config, weights.header, files.given)
        elif kind.__name__ in READABLE:
            # Some versions of transformers begin names with another word.
            known = {name.partition(".")[2] for name in weights.header}
            names = _names_of_text(kind, json.dumps(config), files.given)
            lacking = [name for name in names if not {name, name.partition(".")[2]} & (weights.header.keys() | known)]
            check_none_missing([name for name in lacking if name not in known], files.given, part)


def check_vae(kind: Any, config: dict[str, Any], header: Mapping[str, TensorInfo], name: str) -> None:
    """Raises `UserError` where headers lack tensors of a VAE of the class `kind`."""
    if any(key.endswith(OLD_NAMES) for key in header):
        return  # of an older diffusers, which renames them
    names = without_values(kind, config, name, "vae").state_dict()
    check_none_missing([key for key in names if key not in header], name, "vae")


@functools.lru_cache(maxsize=8)
def _names_of_text(kind: Any, config: str, name: str) -> frozenset[str]:
    """The names of a text encoder's tensors, without those that are others of them again."""
    with reading(name, "text encoder"), torch.device("meta"):
        made = kind(kind.config_class.from_dict(json.loads(config)))
    tied = getattr(made, "_tied_weights_keys", None) or ()
    return frozenset(key for key in made.state_dict() if key not in tied)


def pipeline_class(files: Description, *, moving: bool) -> Any:
    """Returns the class of the pipeline that is loaded of a model; `moving` puts motion modules into it.

    Raises:
        UserError: motion modules for a pipeline that takes none.
    """
    name = str(files.class_name)
    if moving and not files.is_video:
        if name not in (FAMILIES["sdxl"], FAMILIES["sd15"]):
            raise UserError(
                f"{files.given} is a {name}; a motion adapter goes with an SDXL or SD 1.5 checkpoint: leave it out"
            )
        name = "AnimateDiffSDXLPipeline" if name == FAMILIES["sdxl"] else "AnimateDiffPipeline"
    return class_of(["diffusers", name], files.given)


def with_motion(networks: Mapping[str, nn.Module], adapter: nn.Module | None) -> nn.Module | None:
    """Returns the network that samples, an adapter's motion modules (or its own) in it; None where it is not here.

    Raises:
        UserError: the two do not fit.
    """
    network = networks.get("unet", networks.get("transformer"))
    adapter = adapter or networks.get("motion_adapter")
    if isinstance(network, diffusers.UNet2DConditionModel) and isinstance(adapter, diffusers.MotionAdapter):
        return assemble_motion_unet(network, adapter)
    return network


def check_pair(pair: PairDescription) -> dict[str, nn.Module]:
    """Returns the networks of both sides, by role, with the motion modules that they are given, those whose weights are
    here.

    Raises:
        UserError: as `check_networks` and `check_others`, or motion modules that do not fit.
    """
    sides = {"strong": pair.strong, **({} if pair.weak is None else {"weak": pair.weak})}
    adapter = None if pair.motion_adapter is None else check_networks(pair.motion_adapter).get("motion_adapter")
    held = {}
    for role, side in sides.items():
        check_others(side)
        held[role] = check_networks(side)
        if adapter is None and pair.put_together and isinstance(held[role].get("unet"), diffusers.UNetMotionModel):
            adapter = motion_adapter_of(held[role]["unet"])
    made = {role: with_motion(networks, adapter) for role, networks in held.items()}
    return {role: network for role, network in made.items() if network is not None}


def check_loras(kind: Any, network: nn.Module, sources: Mapping[str, str]) -> None:
    """Raises `UserError` for LoRAs, by name, that do not fit the network of a pipeline of a class."""
    for name, given in sources.items():
        check_lora(kind, network, name, given)


def scheduler_of(files: Description, name: str | None, role: str, *, moving: bool = False) -> Any:
    """Returns the scheduler that a side samples with: the one of that name, or its own; None where it is not known.

    Raises:
        UserError: it cannot have that one.
    """
    config = files.part("scheduler")
    if config is None:
        return None
    if moving and not files.is_video:
        large = files.class_name == FAMILIES["sdxl"]
        own = motion_scheduler(str(config.get("prediction_type", "epsilon")), large=large)
    else:
        own = class_of(["diffusers", config.get("_class_name")], files.given).from_config(config)
    return reflectable_scheduler(own, role)[0] if name is None else chosen_scheduler(own, name, role)


def check_levels(scheduler: Any, levels: Iterable[Timesteps | None]) -> None:
    """Raises `UserError` for levels of a side that its scheduler does not have; with None for either it passes."""
    for told in levels:
        if told is not None and scheduler is not None:
            trained_levels(told, scheduler)


def check_schedule(scheduler: Any, steps: int, methods: Methods, *, made: int | None = None) -> Schedule | None:
    """Returns the noise levels that methods sample on, None where none of them reflects; of the grid of `steps` these
    are the last `made`.

    Raises:
        UserError: levels that cannot be reflected, or not as often.
    """
    reflecting = [(method, options) for method, options in methods if not options.plain(method)]
    if not reflecting or scheduler is None:
        return None
    dynamic = bool(scheduler.config.get("use_dynamic_shifting", False))
    # As pipelines of flows do; where the shift depends on the size any will do, as all lead through the same order.
    settings = {"sigmas": np.linspace(1.0, 1 / steps, steps).tolist(), "mu": 1.0} if dynamic else {}
    try:
        scheduler.set_timesteps(*(() if dynamic else (steps,)), **settings)
    except ValueError as error:
        raise UserError(f"{type(scheduler).__name__} has no {steps} steps: {error}; give other --steps") from error
    schedule = read_schedule(scheduler, start=0 if made is None else steps - made)
    for method, options in reflecting:
        check_reflections(method, options, schedule)
    return schedule
