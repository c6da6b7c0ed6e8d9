"""Which backbone a dimension has and how it is made: of its own weights, a path, a hub id or a function of the user."""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbench_eval.backbones.finding import Unavailable, fetch_command, find, missing
from vbench_eval.backbones.weights import WEIGHTS
from vbench_eval.errors import UserError
from vbench_eval.profiles import Profile, get_profile

if TYPE_CHECKING:
    import torch

__all__ = ["WEIGHTS_OF", "Unavailable", "inventory", "resolve", "stock"]

# What each dimension's own backbone is made of; temporal_flickering needs none.
WEIGHTS_OF: dict[str, tuple[str, ...]] = {
    "subject_consistency": ("dino_vitb16",),
    "background_consistency": ("clip_vit_b_32",),
    "motion_smoothness": ("amt_s",),
    "dynamic_degree": ("raft_things",),
    "aesthetic_quality": ("clip_vit_l_14", "aesthetic_linear"),
    "imaging_quality": ("musiq_spaq",),
    "temporal_flickering": (),
    "appearance_style": ("clip_vit_b_32", "clip_merges"),
    "temporal_style": ("viclip", "clip_merges"),
    "overall_consistency": ("viclip", "clip_merges"),
    "human_action": ("umt_l16", "kinetics_400"),
    "scene": ("tag2text", "tag2text_tags", "bert_vocabulary"),
    "i2v_subject": ("dino_vitb16",),
    "i2v_background": ("dreamsim",),
}
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True)
class _Asked:
    """What `resolve` was asked for, but for the dimension."""

    antialias: bool
    device: str
    dtype: str | torch.dtype | None
    offline: bool
    allow_pickle: bool
    cache: str | os.PathLike[str] | None
    imaging_mode: str

    def find(self, name: str, given: str | None) -> Path:
        return find(name, given, cache=self.cache, offline=self.offline)


def resolve(
    dimension: str,
    choice: str | None = None,
    *,
    profile: Profile | str,
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
    offline: bool = True,
    allow_pickle: bool = False,
    cache: str | os.PathLike[str] | None = None,
    imaging_mode: str = "longer",
) -> Any:
    """Returns the loaded backbone of a dimension, None for one that needs none.

    Args:
        dimension: an official name.
        choice: None for the dimension's own weights, wherever they are found; a path (also "path:..."), a file or a
            folder; a hub id "org/name"; "package.module:function", a function of the user's that returns the backbone
            and is given those of `device`, `dtype` and `profile` that it names. aesthetic_quality is made of two: a
            choice is its encoder's, "head=FILE" its head's, "ENCODER,head=FILE" both. So are those that read
            texts, whose second part is the list of merges, "merges=FILE"; human_action
            takes "labels=FILE", scene "tags=FILE,vocabulary=FILE", motion_smoothness
            "CHECKOUT,weights=FILE".
        profile: decides about antialiasing only.
        dtype: "float32" (None), "float16" or "bfloat16", of the network; what it returns is float32.
        offline: whether missing weights are an error rather than downloaded.
        allow_pickle: whether files that can run code may be opened.
        cache: our cache folder, else $VBENCH_EVAL_CACHE, else ~/.cache/vbench_eval.
        imaging_mode: VBench's imaging_quality_preprocessing_mode.

    Raises Unavailable if weights are not on this machine, UserError if they cannot be used.
    """
    if dimension not in WEIGHTS_OF:
        raise UserError(f"dimension is {dimension!r}; choose one of {', '.join(WEIGHTS_OF)}")
    profile = get_profile(profile) if isinstance(profile, str) else profile
    if not WEIGHTS_OF[dimension]:
        if choice:
            raise UserError(f"{dimension} needs no backbone; leave out {choice!r}")
        return None
    if choice and not choice.startswith("path:") and DOTTED.fullmatch(choice) and not Path(choice).exists():
        return _made(dimension, choice, {"device": device, "dtype": dtype, "profile": profile})
    asked = _Asked(profile.antialias, device, dtype, offline, allow_pickle, cache, imaging_mode)
    return _LOADERS[dimension](choice, asked)


def inventory(cache: str | os.PathLike[str] | None = None) -> list[dict[str, Any]]:
    """Returns a row per official dimension and set of weights, without the network and without loading anything.

    Keys: dimension, backbone (the weights' name; None where none are needed), what, found (path or None), and, for what
    is missing or damaged, problem; file (the hub id of what is fetched as a folder), size, licence, commercial_ok,
    where (addresses), command (None for a plug-in).
    """
    rows: list[dict[str, Any]] = []
    for dimension, names in WEIGHTS_OF.items():
        if not names:
            rows.append({"dimension": dimension, "backbone": None, "what": "needs no weights", "found": None})
        for name in names:
            row = {"dimension": dimension, **stock(name, cache)}
            if not WEIGHTS[name].fetchable:  # a checkpoint alone is of no use: only what the user names can serve
                row["found"] = None
                row["problem"] = f"only as a plug-in of yours: --backbone {dimension}=path:FILE or =module:function"
            rows.append(row)
    return rows


def stock(name: str, cache: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Returns the row of one set of weights, as `inventory` has it, without a dimension."""
    weights = WEIGHTS[name]
    row: dict[str, Any] = {"backbone": name, "what": weights.what, "found": None}
    try:
        row["found"] = str(find(name, cache=cache))
    except Unavailable:
        row["problem"] = missing(weights, cache)
    except UserError as error:
        row["problem"] = str(error)
    return row | {
        "file": weights.file if weights.hub_file or not weights.hub else weights.hub,
        "size": weights.size,
        "licence": weights.licence,
        "commercial_ok": weights.commercial_ok,
        "where": list(weights.origins),
        "command": fetch_command(weights) if weights.fetchable else None,
    }


def _dino(choice: str | None, asked: _Asked) -> Any:
    path = asked.find("dino_vitb16", choice)
    from vbench_eval.backbones.dino import load_dino

    return load_dino(path, antialias=asked.antialias, **_placing(asked))


def _dino_i2v(choice: str | None, asked: _Asked) -> Any:
    path = asked.find("dino_vitb16", choice)
    from vbench_eval.backbones.dino import DinoForPictures, load_dino

    return load_dino(path, antialias=True, kind=DinoForPictures, **_placing(asked))


def _dreamsim(choice: str | None, asked: _Asked) -> Any:
    weights = WEIGHTS["dreamsim"]
    message = (
        f"i2v_background needs {weights.what}, from the package dreamsim, which wants timm and open_clip and is not "
        "part of this one; give a function of yours that returns it as a vbench_eval.protocols.PictureEncoder, "
        "--backbone i2v_background=package.module:function"
    )
    raise UserError(message) if choice else Unavailable(message, weights=weights.name)


def _clip(choice: str | None, asked: _Asked, *, name: str) -> Any:
    path = asked.find(name, choice)
    from vbench_eval.backbones.clip import load_clip

    return load_clip(name, path, antialias=asked.antialias, **_placing(asked))


def _tokenizer(path: Path, given: str | None, asked: _Asked) -> Any:
    """The tokenizer of the list of merges that is named, that lies in the CLIP's own folder, or that is found."""
    from vbench_eval.backbones.bpe import read_tokenizer

    own = path.is_dir() and any((path / file).is_file() for file in ("merges.txt", "tokenizer.json"))
    return read_tokenizer(path if own and not given else asked.find("clip_merges", given))


def _clip_text(choice: str | None, asked: _Asked) -> Any:
    from vbench_eval.backbones.clip_text import load_clip_text

    network, merges = _two(choice, "merges")
    path = asked.find("clip_vit_b_32", network)
    return load_clip_text(path, _tokenizer(path, merges, asked), **_placing(asked))


def _viclip(choice: str | None, asked: _Asked) -> Any:
    from vbench_eval.backbones.viclip import load_viclip

    network, merges = _two(choice, "merges")
    path = asked.find("viclip", network)
    return load_viclip(path, _tokenizer(path, merges, asked), antialias=asked.antialias, **_placing(asked))


def _umt(choice: str | None, asked: _Asked) -> Any:
    from vbench_eval.backbones.umt import load_umt

    network, labels = _two(choice, "labels")
    # The small file first: there is no use in loading the large network if its labels are missing.
    names = asked.find("kinetics_400", labels)
    return load_umt(asked.find("umt_l16", network), names, **_placing(asked))


def _tag2text(choice: str | None, asked: _Asked) -> Any:
    from vbench_eval.backbones.tag2text import load_tag2text

    rest, vocabulary = _two(choice, "vocabulary")
    network, tags = _two(rest, "tags")
    small = asked.find("tag2text_tags", tags), asked.find("bert_vocabulary", vocabulary)
    return load_tag2text(asked.find("tag2text", network), *small, **_placing(asked))


def resolve_detector(
    choice: str,
    *,
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
    offline: bool = True,
    allow_pickle: bool = False,
    cache: str | os.PathLike[str] | None = None,
) -> Any:
    """Returns the open-vocabulary detector of "owlv2", a folder, a hub id or "package.module:function"; either of the
    first three may be followed by ",merges=FILE". Raises as `resolve` does.
    """
    from vbench_eval.protocols import Detector

    if DOTTED.fullmatch(choice) and not Path(choice).exists():
        made = called(choice, {"device": device, "dtype": dtype})
        if not isinstance(made, Detector):
            raise UserError(f"{choice} returned a {type(made).__name__}, no detector: see vbench_eval.protocols")
        return made
    from vbench_eval.backbones.owlv2 import load_owlv2

    asked = _Asked(True, device, dtype, offline, allow_pickle, cache, "longer")
    network, merges = _two(choice, "merges")
    path = asked.find("owlv2", None if network == "owlv2" and not Path(network).exists() else network)
    return load_owlv2(path, _tokenizer(path, merges, asked), **_placing(asked))


def _two(choice: str | None, second: str) -> tuple[str | None, str | None]:
    """The two parts of "FIRST,second=FILE", either of which may be left out."""
    first, _, other = (choice or "").partition(f"{second}=")
    return first.rstrip(",") or None, other or None


def _raft(choice: str | None, asked: _Asked) -> Any:
    path = asked.find("raft_things", choice)
    from vbench_eval.backbones.raft import load_raft

    return load_raft(path, **_placing(asked))


def _musiq(choice: str | None, asked: _Asked) -> Any:
    path = asked.find("musiq_spaq", choice)
    from vbench_eval.backbones.musiq import load_musiq

    return load_musiq(path, antialias=asked.antialias, mode=asked.imaging_mode, **_placing(asked))


def _aesthetic(choice: str | None, asked: _Asked) -> Any:
    encoder, head = _two(choice, "head")
    # The small file first: there is no use in loading the large network if its head is missing.
    path = asked.find("aesthetic_linear", head)
    from vbench_eval.backbones.aesthetic import load_aesthetic

    tower = _clip(encoder, asked, name="clip_vit_l_14")
    return load_aesthetic(tower, path, allow_pickle=asked.allow_pickle, cache=asked.cache)


def _amt(choice: str | None, asked: _Asked) -> Any:
    from vbench_eval.backbones.amt import load_amt, load_checkout, without_amt

    if not choice:
        raise without_amt()
    checkout, weights = _two(choice, "weights")
    path = Path((checkout or "").removeprefix("path:")).expanduser()
    if checkout and path.is_dir():
        return load_checkout(path, asked.find("amt_s", weights), **_placing(asked))
    if not path.is_file():
        raise UserError(
            f"{path} is not there; motion_smoothness takes a checkout of AMT's repository, an exported network or "
            "package.module:function"
        )
    return load_amt(path, **_placing(asked))


_LOADERS: dict[str, Callable[[str | None, _Asked], Any]] = {
    "subject_consistency": _dino,
    "background_consistency": partial(_clip, name="clip_vit_b_32"),
    "motion_smoothness": _amt,
    "dynamic_degree": _raft,
    "aesthetic_quality": _aesthetic,
    "imaging_quality": _musiq,
    "appearance_style": _clip_text,
    "temporal_style": _viclip,
    "overall_consistency": _viclip,
    "human_action": _umt,
    "scene": _tag2text,
    "i2v_subject": _dino_i2v,
    "i2v_background": _dreamsim,
}


def _placing(asked: _Asked) -> dict[str, Any]:
    return {"device": asked.device, "dtype": asked.dtype, "allow_pickle": asked.allow_pickle, "cache": asked.cache}


def called(choice: str, offered: dict[str, Any]) -> Any:
    """Returns what the function "package.module:function" makes, given those of the offered that it names."""
    module, _, attribute = choice.partition(":")
    try:
        factory: Any = importlib.import_module(module)
        for part in attribute.split("."):
            factory = getattr(factory, part)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{choice} cannot be imported: {error}") from error
    if not callable(factory):
        raise UserError(f"{choice} is a {type(factory).__name__}, not a function")
    try:
        accepted = set(inspect.signature(factory).parameters)
    except ValueError:  # some that are written in C tell nothing
        accepted = set()
    return factory(**{name: value for name, value in offered.items() if name in accepted})


def _made(dimension: str, choice: str, offered: dict[str, Any]) -> Any:
    """Returns what the user's function makes; for motion_smoothness a network of AMT's kind will do as well."""
    from vbench_eval import dimensions, protocols

    made = called(choice, offered)
    kind = dimensions.BACKBONE_KINDS[dimension]
    if isinstance(made, getattr(protocols, str(kind))):
        return made
    if dimension == "motion_smoothness":
        from torch import nn

        from vbench_eval.backbones.amt import wrapped

        if isinstance(made, nn.Module):
            return wrapped(made, choice, device=offered["device"], dtype=offered["dtype"])
    raise UserError(
        f"{choice} returned a {type(made).__name__}, and {dimension} needs a {kind}: see vbench_eval.protocols.{kind}"
    )
