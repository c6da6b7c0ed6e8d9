"""Loads what a plan needs, in an order that refuses early and holds little at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from bridges.pixel.command.latent_spaces import Spaces, fitted_map, known_map, spaces_of
from bridges.pixel.command.making import LoadedBridge, Texts
from bridges.pixel.command.request import TINY_VAES, BridgePlan
from w2sd_video.errors import UserError
from w2sd_video.loading.pipelines import load_reflectable, load_tiny_vae, load_vae
from w2sd_video.loading.placement import can_encode, encoded_prompts, free_text_encoders, place

Note = Callable[[str], None]
FITTED_NOW = "fitted to {count} pictures that the strong model made for it"


def load_bridge(
    plan: BridgePlan,
    methods: Iterable[str],
    prompts: Iterable[str],
    *,
    note: Note,
    tell: Note,
    map_file: Path,
    quiet: bool,
) -> LoadedBridge:
    """Returns what the methods need, placed, with the prompts encoded and the text encoders of known families freed.

    For "w2sd" that includes the noise map, which is fitted (and saved at `map_file`) if there is none yet. A noise map
    of a file is checked against the two VAEs before anything else is loaded. `note` is told what a reader of the
    pictures should know, `tell` what is going on.

    Raises:
        UserError: a side cannot be used, or the noise map named does not serve the pair.
    """
    methods, wanted = set(methods), list(prompts)
    if plan.noise_map.endswith(".safetensors") and "w2sd" in methods:
        known_map(plan, load_spaces(plan))
    strong: Any = None if methods == {"weak"} else _pipeline(plan, "strong", note, quiet=quiet)
    weak: Any = _pipeline(plan, "weak", note, quiet=quiet, sharing=strong) if methods != {"strong"} else None
    tiny = _tiny_vaes(plan, strong, weak)
    chosen, missing = None, 0
    if "w2sd" in methods and plan.reflections:
        spaces = spaces_of(plan, tiny[0] or strong.vae, tiny[1] or weak.vae)
        chosen = known_map(plan, spaces)
        missing = 0 if chosen is not None else spaces.pictures_to_fit
        wanted += plan.prompts[:missing]
    bridge = LoadedBridge(plan, strong, weak, tiny, chosen=chosen, note=note)
    _place(bridge, dict.fromkeys(wanted))
    if missing:
        tell(_making(plan, missing))
        bridge.chosen = fitted_map(spaces, bridge.pictures(missing), map_file, FITTED_NOW)
    return bridge


def load_strong(plan: BridgePlan, count: int, tell: Note, *, quiet: bool) -> LoadedBridge:
    """Returns the strong side by itself, ready to make `count` pictures to fit a noise map to."""
    strong = _pipeline(plan, "strong", tell, quiet=quiet)
    bridge = LoadedBridge(plan, strong, None)
    _place(bridge, plan.prompts[:count])
    tell(_making(plan, count))
    return bridge


def _making(plan: BridgePlan, count: int) -> str:
    calls = math.ceil(count / (plan.num_frames or 1))
    return f"making {calls} {plan.noun}s of the strong model to fit the noise map ({calls * plan.steps} evaluations)"


def _pipeline(plan: BridgePlan, role: str, note: Note, *, quiet: bool, sharing: Any = None) -> Any:
    strong = role == "strong"
    return load_reflectable(
        plan.strong if strong else plan.weak,
        role=role,
        dtype=getattr(torch, plan.dtype),
        note=note,
        config=plan.config if strong else plan.weak_config,
        motion_adapter=plan.motion_adapter if strong else None,
        video=plan.video and strong,
        allow_pickle=plan.allow_pickle,
        quiet=quiet,
        sharing=sharing,
    )


def _tiny_vaes(plan: BridgePlan, strong: Any, weak: Any) -> tuple[Any, Any]:
    if plan.codec != "tiny":
        return None, None
    ours = None if strong is None else _tiny_vae(plan, "strong", strong, plan.strong_tiny_vae)
    return ours, None if weak is None else _tiny_vae(plan, "weak", weak, plan.weak_tiny_vae)


def _tiny_vae(plan: BridgePlan, role: str, pipe: Any, given: str | None) -> Any:
    name = type(pipe).__name__
    known = next((tiny for start, tiny in TINY_VAES.items() if name.startswith(start)), None)
    if given is None and known is None:
        raise UserError(f"no tiny VAE is known for the {role} side, a {name}; give --{role}-tiny-vae")
    return load_tiny_vae(given or str(known), getattr(torch, plan.dtype)).to(plan.device)


def load_spaces(plan: BridgePlan) -> Spaces:
    """Returns the two latent spaces with only the VAEs loaded."""
    dtype = getattr(torch, plan.dtype)
    vaes = []
    for role, given, config, tiny in (
        ("strong", plan.strong, plan.config, plan.strong_tiny_vae),
        ("weak", plan.weak, plan.weak_config, plan.weak_tiny_vae),
    ):
        if plan.codec == "tiny" and tiny is not None:
            vaes.append(load_tiny_vae(tiny, dtype))
            continue
        if plan.codec == "tiny":
            raise UserError(f"give --{role}-tiny-vae: which one fits is not known before the {role} side is loaded")
        video = plan.video and role == "strong"
        vaes.append(load_vae(given, role=role, dtype=dtype, config=config, allow_pickle=plan.allow_pickle, video=video))
    return spaces_of(plan, *(vae.to(plan.device) for vae in vaes))


def _place(bridge: LoadedBridge, prompts: Iterable[str]) -> None:
    """Encode the prompts, free the text encoders, and put both sides where the memory plan wants them.

    Layer by layer placing comes first: then the text encoders, too, never are on the device as a whole.
    """
    plan, prompts = bridge.plan, list(prompts)
    first = plan.memory == "sequential"
    if first:
        place(bridge.strong, bridge.weak, plan.device, plan.memory)
    for side, pipe in (("strong", bridge.strong), ("weak", bridge.weak)):
        if pipe is not None:
            bridge.texts[side] = _texts(plan, side, pipe, prompts)
    if not first:
        place(bridge.strong, bridge.weak, plan.device, plan.memory)


def _texts(plan: BridgePlan, side: str, pipe: Any, prompts: list[str]) -> Texts | None:
    if not can_encode(pipe):
        return None
    # Without true guidance Flux has no use for a negative prompt.
    unused = type(pipe).__name__ == "FluxPipeline" and (side == "weak" or plan.true_cfg is None)
    texts = encoded_prompts(
        pipe,
        prompts,
        None if unused else plan.negative_prompt,
        device=plan.device,
        max_sequence_length=plan.max_sequence_length,
    )
    free_text_encoders(pipe)
    return texts
