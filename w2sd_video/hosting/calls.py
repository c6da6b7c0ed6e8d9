"""From what the user says differs (ModelSpec, call arguments) to what a pipeline has to be called with."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from w2sd_video.errors import UserError
from w2sd_video.gaps.switches import SWITCHES, SwitchBoard, switched
from w2sd_video.pair import ModelSpec

NETWORK_NAMES = ("unet", "transformer", "transformer_2")
SUPPORTED_FIELDS = ("guidance", "prompt", "negative_prompt", "levels")
# A scale that makes a pipeline prepare both halves of guidance where its own call would not.
BOTH_HALVES = 2.0


def networks_of(pipe: Any) -> list[nn.Module]:
    """Returns the denoising networks of a pipeline; `UserError` if it has none that reflection knows."""
    found = [getattr(pipe, name, None) for name in NETWORK_NAMES]
    networks = [network for network in found if isinstance(network, nn.Module)]
    if not networks:
        raise UserError(
            f"{type(pipe).__name__} has no denoising network called {', '.join(NETWORK_NAMES)}; "
            "reflected() takes a diffusers text-to-image or text-to-video pipeline"
        )
    return networks


def unconditional_of(pipe: Any) -> nn.Module | None:
    """Returns the network that makes the unconditional prediction alone (Ideogram 4), None where there is none."""
    network = getattr(pipe, "unconditional_transformer", None)
    return network if isinstance(network, nn.Module) else None


def evaluated_by(pipe: Any) -> list[nn.Module]:
    """Returns all networks that a pipeline's loop evaluates."""
    own = unconditional_of(pipe)
    return [*networks_of(pipe), *([] if own is None else [own])]


def call_signature(kind: type) -> inspect.Signature:
    """Returns the signature of a pipeline class's call; for a subclass that only hands on, the one it hands on to."""
    signatures = [inspect.signature(base.__call__) for base in kind.__mro__ if "__call__" in vars(base)]  # type: ignore
    handed_on = inspect.Parameter.VAR_POSITIONAL
    explicit = [s for s in signatures if all(p.kind != handed_on for p in s.parameters.values())]
    return (explicit or signatures)[0]


def call_arguments(kind: type, pipe: Any, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `pipe(*args, **kwargs)` by name, without those left at their default."""
    signature = call_signature(kind)
    arguments = dict(list(signature.bind(pipe, *args, **kwargs).arguments.items())[1:])
    for name, parameter in signature.parameters.items():
        if parameter.kind == inspect.Parameter.VAR_KEYWORD:  # deprecated arguments
            arguments.update(arguments.pop(name, {}))
    return arguments


@dataclass(frozen=True)
class CallGuidance:
    """How one pipeline call guides.

    Attributes:
        name: the call argument that scales classifier-free guidance, None if there is none.
        real: whether the call runs classifier-free guidance (a scale above 1; for `true_cfg_scale` also a negative
            prompt).
        scale: the scale in force: the argument's where `real`, else 1 (diffusers' meaning of a scale of 1 or less).
        embedded: the value of the guidance that is an input of the network (Flux), None if it is not, or not in charge.
        scales: every scale the pipeline may apply (Wan 2.2 has two).
    """

    name: str | None
    real: bool
    scale: float
    embedded: float | None
    scales: tuple[float, ...]


def call_guidance(kind: type, pipe: Any, arguments: Mapping[str, Any]) -> CallGuidance:
    """Returns how a call with these arguments guides."""
    parameters = call_signature(kind).parameters

    def value(name: str) -> Any:
        default = parameters[name].default if name in parameters else None
        return arguments.get(name, default)

    embeds = any(getattr(network.config, "guidance_embeds", False) for network in networks_of(pipe))
    names = ("true_cfg_scale",) if embeds else ("true_cfg_scale", "guidance_scale")
    name = next((n for n in names if n in parameters), None)
    scale = None if name is None or value(name) is None else float(value(name))
    negative = any(arguments.get(n) is not None for n in ("negative_prompt", "negative_prompt_embeds"))
    if scale is None or scale <= 1 or (name == "true_cfg_scale" and not negative):
        scale = None
    if scale is None and name == "guidance_scale" and value(name) is not None:
        scale = _guided_anyway(kind, pipe, float(value(name)))
    embedded = value("guidance_scale") if embeds and scale is None and "guidance_scale" in parameters else None
    scales = tuple(float(s) for s in (scale, value("guidance_scale_2")) if s is not None)
    return CallGuidance(name, scale is not None, 1.0 if scale is None else scale, embedded, scales)


def _guided_anyway(kind: type, pipe: Any, scale: float) -> float | None:
    """The scale in force of a call with one of 1 or less, where the pipeline guides by that too, else None.

    Those that do write cond + scale * (cond - uncond).
    """
    guides = getattr(kind, "do_classifier_free_guidance", None)
    if scale <= 0 or not isinstance(guides, property):
        return None
    missing = object()
    before = vars(pipe).get("_guidance_scale", missing)
    pipe._guidance_scale = scale
    try:
        return 1.0 + scale if guides.__get__(pipe) is True else None
    except AttributeError:
        return None
    finally:
        if before is missing:
            del pipe._guidance_scale
        else:
            pipe._guidance_scale = before


def with_both_halves(guidance: CallGuidance, arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns arguments with which the pipeline prepares the unconditional half too."""
    if guidance.real:
        return arguments
    if guidance.name is None:
        raise UserError(
            "this pipeline's call has no guidance scale (or one for each frame, as SVD's), so no side of the pair can "
            "have another guidance; let the sides differ in something else: a checkpoint, a LoRA"
        )
    changed = {**arguments, guidance.name: BOTH_HALVES}
    if guidance.name == "true_cfg_scale":
        changed.setdefault("negative_prompt", "")
    return changed


def check_spec(spec: ModelSpec, role: str, networks: Sequence[nn.Module] = ()) -> None:
    """Raises `UserError` for a field that hosting cannot put in force, so that none is silently ignored.

    `networks` are those whose settings (such as the routing) the spec may change.
    """
    if not isinstance(spec, ModelSpec):
        raise UserError(
            f"{role} has a {type(spec).__name__} where a ModelSpec belongs, such as ModelSpec(guidance=1.0)"
        )
    supported = (*SUPPORTED_FIELDS, *(("control", *SWITCHES) if networks else ()))
    for name in spec.settings():
        if name not in supported:
            raise UserError(
                f"{role} sets {name}, which reflected() does not support yet; supported: {', '.join(supported)} "
                "(give another checkpoint as a loaded pipeline or network)"
            )
    for network in networks:
        SwitchBoard().check(network, switched(spec))


def with_prompts(spec: ModelSpec, arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments with the spec's prompts in place of the call's, for as many items as the call has."""
    changes = {n: p for n in ("prompt", "negative_prompt") if (p := getattr(spec, n)) is not None}
    prompt, embeds = arguments.get("prompt"), arguments.get("prompt_embeds")
    count = len(prompt) if isinstance(prompt, list) else len(embeds) if embeds is not None else None
    if count is not None:
        changes = {name: [text] * count for name, text in changes.items()}
        if isinstance(prompt, str):
            changes = {name: texts[0] for name, texts in changes.items()}
    return replaced(arguments, changes)


def replaced(arguments: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments with `changes` made; a prompt given as text drops its embeddings, and the other way."""
    dropped = {kind for name in changes if (kind := _text_kind(name)) is not None}
    opposite = {(sign, not is_text) for sign, is_text in dropped} | {kind for kind in dropped if kind[1]}
    return {**{n: v for n, v in arguments.items() if _text_kind(n) not in opposite}, **changes}


def _text_kind(name: str) -> tuple[bool, bool] | None:
    """(negative?, text rather than embedding?) of a call argument about a prompt, None for any other."""
    negative = name.startswith("negative_")
    base = name.removeprefix("negative_")
    if re.fullmatch(r"prompt(_\d)?", base):
        return negative, True
    return (negative, False) if re.match(r"(pooled_)?prompt_", base) else None
