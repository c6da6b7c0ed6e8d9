"""What `--lora` and `--weak-lora` say: adapter names, files and scales (imports no torch)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from w2sd_video.errors import UserError
from w2sd_video.loading.files import HUB_ID, found_lora
from w2sd_video.pair import Loras


@dataclass(frozen=True)
class LoraFlag:
    """One LoRA as it was given; None is what was left out."""

    name: str
    source: str | None = None
    scale: float | None = None


@dataclass(frozen=True)
class LoraPlan:
    """Where every adapter comes from, by name (absolute where it is a local file), and its scale on each side."""

    sources: Mapping[str, str]
    strong: Loras
    weak: Loras


def parse_lora(text: str, flag: str = "--lora") -> LoraFlag:
    """Returns NAME=FILE:SCALE taken apart; FILE or SCALE may be left out (NAME:SCALE, NAME=FILE).

    Raises:
        UserError: no name, or neither file nor scale.
    """
    rest, colon, last = text.rpartition(":")
    scale = _number(last) if colon else None
    if scale is None:
        rest = text
    name, _, source = rest.partition("=")
    if not name.strip() or (not source and scale is None):
        raise UserError(f"{flag} is {text!r}; give NAME=FILE:SCALE, such as style=./style.safetensors:0.8")
    return LoraFlag(name.strip(), source.strip() or None, scale)


def plan_loras(
    given: Sequence[LoraFlag],
    weak: Sequence[LoraFlag],
    *,
    sources: Mapping[str, str | None],
    strong_scales: Loras = (),
    weak_scales: Loras = (),
) -> LoraPlan:
    """Returns the LoRAs of both sides from the flags and a preset's (`sources` and scales).

    A LoRA of the strong side is at 0 on the weak one, as if it were not there, unless the flags or the preset say
    otherwise; its own scale, if none is given, is the preset's, else 1.

    Raises:
        UserError: a name given twice, without a file, or with two; a file that does not exist or is no LoRA.
    """
    places: dict[str, str | None] = dict(sources)
    for flag, loras in (("--lora", given), ("--weak-lora", weak)):
        names = [lora.name for lora in loras]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise UserError(f"{flag} names {', '.join(sorted(repeated))} twice; give each LoRA one scale")
    for lora in (*given, *weak):
        if lora.source is not None:
            if any(other.name == lora.name and other.source not in (None, lora.source) for other in (*given, *weak)):
                raise UserError(f"LoRA {lora.name!r} is given with two files; give different LoRAs different names")
            places[lora.name] = lora.source
    ours, theirs = dict(strong_scales), dict(weak_scales)
    for lora in given:
        ours[lora.name] = lora.scale if lora.scale is not None else ours.get(lora.name, 1.0)
    for lora in weak:
        theirs[lora.name] = lora.scale if lora.scale is not None else theirs.get(lora.name, 1.0)
    found = {}
    for name in sorted({*ours, *theirs}):
        source = places.get(name)
        if source is None:
            raise UserError(f"nothing says where the LoRA {name!r} comes from; give --lora {name}=FILE")
        found[name] = _located(name, source)
        ours.setdefault(name, 0.0)
        theirs.setdefault(name, 0.0)
    return LoraPlan(found, tuple(sorted(ours.items())), tuple(sorted(theirs.items())))


def _located(name: str, source: str) -> str:
    path = Path(source).expanduser()
    if path.exists():
        found_lora(name, source)  # refused here, not after a model is loaded
        return str(path.resolve())
    on_hub = re.fullmatch(rf"{HUB_ID.pattern}(/[\w./-]+\.safetensors)?", source) is not None
    local = path.parent.is_dir() or (source.count("/") < 2 and path.suffix in (".safetensors", ".bin", ".pt", ".ckpt"))
    if local or not on_hub:
        raise UserError(f"there is no LoRA at {source}; give a .safetensors file, a folder with one, or a hub id")
    return source


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    if not math.isfinite(value):
        raise UserError(f"a LoRA's scale is {text}; it must be a finite number (negative ones are allowed)")
    return value
