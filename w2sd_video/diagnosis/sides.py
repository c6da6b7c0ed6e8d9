"""What one side of a pair is, from its files: configs, and where each part's weights lie (imports no torch)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from w2sd_video.latents.spaces import LatentSpace
from w2sd_video.loading.describe import NETWORKS, WEIGHTED, Description, Weights, describe, named
from w2sd_video.loading.files import FAMILIES, GGUF, family_of, is_hub_id, read_json, read_safetensors_header
from w2sd_video.loading.fingerprints import Fingerprint, fingerprint
from w2sd_video.loading.pipeline_families import makes_videos

FAMILY_IDS = {
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "flux": "black-forest-labs/FLUX.1-dev",
}


@dataclass(frozen=True)
class Side:
    """One side as it was given, as far as its files are on this machine.

    `kind` is "hub", "folder" (a whole pipeline), "network" (one network alone) or "file" (a single .safetensors file).
    `class_name` is the pipeline's class, None where nothing tells. `parts` are the configs by part ("network", "vae",
    "scheduler", "text_encoder" ...), `weights` where their weights lie; `borrowed` are those that are the other side's.
    `notes` are what a reader should know.
    """

    given: str
    role: str
    kind: str
    class_name: str | None = None
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    weights: Mapping[str, Weights] = field(default_factory=dict, repr=False)
    tokenizers: Mapping[str, Path] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()
    borrowed: frozenset[str] = frozenset()

    @property
    def unknown(self) -> bool:
        """Whether nothing is known of it before it is fetched."""
        return self.class_name is None and not self.parts

    @property
    def network(self) -> Mapping[str, Any]:
        return self.parts.get("network", {})

    @property
    def makes_videos(self) -> bool:
        return makes_videos(self.class_name) or self.network.get("_class_name") == "UNetMotionModel"

    @property
    def space(self) -> LatentSpace:
        return LatentSpace(self.parts.get("vae"), self.parts.get("scheduler"), lambda: self.fingerprint("vae"))

    def fingerprint(self, part: str) -> Fingerprint | None:
        """The fingerprint of a part's weights, None where they are not here, or are not compared (pickles, GGUF)."""
        known = part in self.weights and not any(path.suffix == GGUF for path in self.weights[part].files)
        return _fingerprint(self.weights[part]) if known else None


@cache
def _fingerprint(weights: Weights) -> Fingerprint:
    return fingerprint(weights)


def read_side(given: str, role: str, *, config: str | None = None, allow_pickle: bool = False) -> Side:
    """Returns what `given` is.

    Raises:
        FileNotFoundError: nothing of that name is on this machine, and it is no hub id.
        UserError: it is damaged, incomplete, or of a kind that cannot be one side of a pair.
    """
    path = Path(given).expanduser()
    if not path.exists():
        if is_hub_id(given):
            return _from_hub(given, role)
        raise FileNotFoundError(
            f"the {role} side {given!r} does not exist; give a diffusers folder, a single .safetensors file, or a hub "
            "id such as stabilityai/stable-diffusion-xl-base-1.0"
        )
    if path.is_file() and config is None and path.suffix == ".safetensors":
        return _from_file_alone(given, path, role)
    alone = path.is_dir() and not (path / "model_index.json").is_file()
    reading: dict[str, Any] = {"allow_pickle": allow_pickle, "video": None, "from_text": False}
    return _described(describe(given, role, config=config, lent=alone, **reading), role)


def borrowing(side: Side, other: Side) -> Side:
    """Returns a side with what it lacks taken from the other, as loading does: the configs of a single file of the
    other's family, and all but the network of a network alone.
    """
    if side.kind == "network" and other.parts:
        borrowed = {name: part for name, part in other.parts.items() if name not in side.parts}
        note = f"the {side.role} side is a network alone: all else, its prediction type too, is the {other.role} side's"
        return replace(
            side,
            class_name=other.class_name,
            parts={**borrowed, **side.parts},
            weights={**other.weights, **side.weights},
            tokenizers=other.tokenizers,
            notes=(*side.notes, note),
            borrowed=frozenset(borrowed) | {"tokenizers"},
        )
    alike = (side.class_name or "").removesuffix("Pipeline") == (other.class_name or "").removesuffix("Pipeline")
    if side.kind == "file" and not side.parts.get("network") and other.parts and alike:
        note = f"the configs of the {side.role} side's single file are taken to be the {other.role} side's"
        lacking = frozenset(other.parts.keys() - side.weights.keys())
        return replace(
            side,
            parts={**other.parts, **side.parts},
            weights={**{name: other.weights[name] for name in lacking & other.weights.keys()}, **side.weights},
            notes=(*side.notes, note),
            borrowed=lacking,
        )
    return side


def _from_hub(given: str, role: str) -> Side:
    """What the local cache of the hub has of it; nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(given, "model_index.json")
    if not isinstance(index, str):
        return Side(given, role, "hub", notes=(f"{given} is not on this machine; it has to be fetched to be judged",))
    side = _described(Description(given, "folder", Path(index).parent), role)
    return replace(side, kind="hub", notes=(f"the {role} side is read from the local cache of the hub",))


def _from_file_alone(given: str, path: Path, role: str) -> Side:
    header = read_safetensors_header(path)
    family = family_of(header, path)
    parts: dict[str, Mapping[str, Any]] = {}
    note = (
        f"{given} is a single file without configs: its schedule and VAE's scale are not known; give --config "
        f"(a diffusers folder of its family, or {FAMILY_IDS[family]})"
    )
    weights = _weights_of(Description(given, "file", path, family, header), WEIGHTED)
    return Side(given, role, "file", FAMILIES[family], parts, weights, notes=(note,))


def _described(found: Description, role: str) -> Side:
    index, folder = found.index or {}, found.configs
    held = NETWORKS if found.kind == "network" else tuple(part for part in WEIGHTED if named(index, part))
    parts = {_name(part): config for part in (*held, "scheduler") if (config := found.part(part)) is not None}
    tokenizers = {} if folder is None else {part.name: part for part in sorted(folder.glob("tokenizer*"))}
    return Side(found.given, role, found.kind, found.class_name, parts, _weights_of(found, held), tokenizers)


def _weights_of(found: Description, parts: Iterable[str]) -> dict[str, Weights]:
    return {_name(part): weights for part in parts if (weights := found.weights(part)) is not None}


def _name(part: str) -> str:
    return "network" if part in NETWORKS else part


def tokens_of(folder: Path) -> str:
    """Returns what names a tokenizer: its vocabulary's entries, whatever file they are in."""
    for name, keys in (("tokenizer.json", ("model", "vocab")), ("vocab.json", ())):
        if (folder / name).is_file():
            content: Any = read_json(folder / name)
            for key in keys:
                content = content.get(key, {})
            return repr(sorted(map(str, content))) if isinstance(content, dict) else repr(content)
    return ""
