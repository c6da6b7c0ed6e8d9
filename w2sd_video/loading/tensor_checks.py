"""Whether files hold the tensors of their networks, by name and shape, from headers and configs alone (no torch).

Of the networks of `tensor_names` each against its config, of others one side of a pair against the other where both are
of one class and config; LoRAs against the network that they are for.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from w2sd_video.errors import UserError
from w2sd_video.loading.describe import Description, Weights
from w2sd_video.loading.files import GGUF, TensorInfo, found_lora
from w2sd_video.loading.tensor_names import Shapes, expected_tensors

NETWORKS = ("unet", "transformer", "transformer_2")
LORA_NAMES = (  # how the name of a LoRA's tensor says which layer it is for, and on which end of it
    re.compile(r"lora_unet_(?P<flat>\w+)\.lora_(?P<end>down|up)\.weight"),
    re.compile(r"(?:unet|transformer)\.(?P<name>.+)\.lora_(?P<end>A|B)\.weight"),
    re.compile(r"(?:unet|transformer)\.(?P<name>.+)\.lora\.(?P<end>down|up)\.weight"),
)


def first_of(names: Iterable[str]) -> str:
    """The first ten of some names, in their order."""
    listed = sorted(names)
    return ", ".join(listed[:10]) + (", ..." if len(listed) > 10 else "")


def check_none_missing(names: Collection[str], name: str, part: str) -> None:
    """Raises `UserError` if there are names of tensors that a checkpoint lacks."""
    if names:
        raise UserError(
            f"the {part} of {name} lacks {len(names)} tensors, which would be random: {first_of(names)}; download the "
            "checkpoint again, or give the config made for it"
        )


def check_tensors(
    shapes: Shapes, header: Mapping[str, TensorInfo], name: str, part: str, unused: Iterable[str] = ()
) -> None:
    """Raises `UserError` unless a header describes the very tensors of these shapes; patterns of `unused` may be there
    beside.
    """
    extra = [key for key in header if key not in shapes and not any(re.search(pattern, key) for pattern in unused)]
    other = [
        f"{key} (of {header[key].shape}, the config describes {shape})"
        for key, shape in shapes.items()
        if key in header and header[key].shape != shape
    ]
    check_none_missing([key for key in shapes if key not in header], name, part)
    for found, problem, remedy in (
        (
            extra,
            "holds {} tensors that its config has no place for",
            "they would be dropped: give the config made for it",
        ),
        (other, "holds {} tensors of another shape than its config describes", "give the config made for it"),
    ):
        if found:
            raise UserError(f"the {part} of {name} {problem.format(len(found))}: {first_of(found)}; {remedy}")


def check_names(sides: Mapping[str, Description], loras: Mapping[str, Iterable[tuple[str, str]]]) -> tuple[str, ...]:
    """Returns what was checked of the sides of a pair, by role: "strong unet", "LoRA style".

    `loras` has names and files of each side's.

    Raises:
        UserError: tensors that a network lacks, that it has no place for, or of another shape; a LoRA with tensors that
            its network has no place for.
    """
    done = [f"{role} {part}" for role, side in sides.items() for part in NETWORKS if _check_network(side, part)]
    if {"strong", "weak"} <= sides.keys():
        for part in NETWORKS:
            if f"strong {part}" not in done and _compared(sides["strong"], sides["weak"], part):
                done.append(f"{part} of both sides against each other")
    for role, files in loras.items():
        for name, source in files:
            if role in sides and _check_lora(sides[role], name, source) and f"LoRA {name}" not in done:
                done.append(f"LoRA {name}")
    return tuple(done)


def _held(side: Description, part: str) -> tuple[Weights, dict[str, Any]] | None:
    """Where a network's tensors lie, and its config; None where it is not here, or quantised."""
    weights, config = side.weights(part), side.part(part)
    if weights is None or config is None or config.get("quantization_config"):
        return None
    return None if any(file.suffix == GGUF for file in weights.files) else (weights, config)


def _check_network(side: Description, part: str) -> bool:
    found = _held(side, part)
    if found is None:
        return False
    weights, config = found
    original = side.kind == "file" and part not in side.lacking
    shapes = expected_tensors(config, original=original)
    if shapes is None:
        return False
    header = {name.removeprefix(weights.prefix): tensor for name, tensor in weights.header.items()}
    if original:  # such a file may hold other things beside
        starts = {name.split(".")[0] for name in shapes}
        header = {name: tensor for name, tensor in header.items() if name.split(".")[0] in starts}
    check_tensors(shapes, header, side.given, part)
    return True


def _compared(strong: Description, weak: Description, part: str) -> bool:
    """Whether two networks of one class and config were compared: they must have the same tensors."""
    ours, theirs = _held(strong, part), _held(weak, part)
    if ours is None or theirs is None or ours[0].prefix or theirs[0].prefix or _plain(ours[1]) != _plain(theirs[1]):
        return False
    shapes = [{name: tensor.shape for name, tensor in weights.header.items()} for weights, _ in (ours, theirs)]
    for one, other, names in ((0, 1, (strong, weak)), (1, 0, (weak, strong))):
        lacking = [name for name in shapes[one] if name not in shapes[other]]
        differing = [name for name, shape in shapes[one].items() if shapes[other].get(name, shape) != shape]
        for found, word in ((lacking, "lacks"), (differing, "has other sizes of")):
            if found:
                raise UserError(
                    f"the {part} of {names[1].given} {word} {len(found)} tensors of that of {names[0].given}, though "
                    f"both configs describe one network: {first_of(found)}; download the checkpoint again, or give "
                    "the config made for it"
                )
    return True


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config makes the network's layers."""
    kept = {name: value for name, value in config.items() if not name.startswith("_") and name != "sample_size"}
    return {**kept, "class": config.get("_class_name")}


def _check_lora(side: Description, name: str, source: str) -> bool:
    path = found_lora(name, source)
    found = None if path is None or "." in name else _layers(side)
    if path is None or found is None:
        return False
    kind, layers = found
    flat = {layer.replace(".", "_"): shape for layer, shape in layers.items()}
    known, misfits = 0, []
    for key, tensor in Weights((path,)).header.items():
        match = next((match for pattern in LORA_NAMES if (match := pattern.fullmatch(key))), None)
        if match is None or "motion_modules" in key:
            continue
        known += 1
        groups = match.groupdict()
        shape = flat.get(groups["flat"]) if groups.get("flat") else layers.get(groups["name"])
        into = int(groups["end"] in ("down", "A"))
        if shape is None:
            misfits.append(f"{key} (no such layer)")
        elif len(tensor.shape) > 1 and len(shape) > 1 and tensor.shape[into] != shape[into]:
            misfits.append(f"{key} (for {tensor.shape[into]}, the layer has {shape[into]})")
    if misfits:
        raise UserError(
            f"the LoRA {source} does not fit {kind}: it has {len(misfits)} of {known} tensors without their "
            f"place: {first_of(misfits)}; give a LoRA made for the checkpoint's family"
        )
    return known > 0


def _layers(side: Description) -> tuple[str, Shapes] | None:
    """The class of a side's network, and the sizes of its weights by layer, under diffusers' names and, where these are
    known, the original ones.
    """
    for part in NETWORKS:
        found = _held(side, part)
        if found is None:
            continue
        weights, config = found
        both = [expected_tensors(config, original=original) for original in (False, True)]
        if both[0] is None and weights.prefix:
            return None
        shapes = both[0] or {name: tensor.shape for name, tensor in weights.header.items()}
        layers = {name.removesuffix(".weight"): shape for name, shape in {**(both[1] or {}), **shapes}.items()}
        return str(config.get("_class_name")), layers
    return None
