"""Where weights lie on this machine: as named by the user, in our cache, VBench's or the hub's, or nowhere."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from vbench_eval.backbones.hashing import own_cache, require_sha256, weight_files
from vbench_eval.backbones.weights import Weights, named
from vbench_eval.errors import UserError

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(/\w[\w.+-]*)*")  # org/name, or org/name/file


class Unavailable(UserError):
    """Weights that are on none of the places looked at; the message says how large they are and how to get them."""

    def __init__(self, message: str, *, weights: str = "") -> None:
        super().__init__(message)
        self.weights = weights


def find(
    name: str, given: str | None = None, *, cache: str | os.PathLike[str] | None = None, offline: bool = True
) -> Path:
    """Returns the file or folder of the weights called `name`.

    Looked for in this order: `given` (a path, "path:..." or a hub id; nothing else is tried then), our cache folder
    (`cache`, $VBENCH_EVAL_CACHE or ~/.cache/vbench_eval), VBench's own ($VBENCH_CACHE_DIR or ~/.cache/vbench) and
    those of its packages, the hub's, and, unless `offline`, the network.

    Raises Unavailable if it is nowhere, UserError if a found file is not the published one.
    """
    weights = named(name)
    if given:
        return _published(_given(weights, given, offline=offline), weights, cache)
    for place in places(weights, cache):
        if _usable(place, weights):
            return _published(place, weights, cache)
    if offline or not weights.fetchable:
        raise Unavailable(missing(weights, cache), weights=name)
    from vbench_eval.backbones.fetching import fetch

    return fetch(name, offline=False, cache=cache)


def places(weights: Weights, cache: str | os.PathLike[str] | None = None) -> Iterator[Path]:
    """Yields every path at which the weights may lie, in the order of looking."""
    ours = own_cache(cache)
    vbench = Path(os.environ.get("VBENCH_CACHE_DIR") or "~/.cache/vbench").expanduser()
    if weights.file:
        yield ours / weights.file
        if weights.vbench:
            yield ours / weights.vbench
    yield ours / weights.name
    if weights.hub and not weights.hub_file:
        yield ours / weights.hub.replace("/", "--")
        yield ours / weights.hub.partition("/")[2]
    if weights.vbench:
        yield vbench / weights.vbench
    for place in map(os.path.expandvars, weights.elsewhere):
        if "$" not in place:  # the variable is set
            yield Path(place).expanduser()
    if weights.hub and (found := _in_hub_cache(weights.hub, weights.hub_file)):
        yield found


def hub_cache() -> Path:
    """Returns the hub's cache folder as the environment names it now."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()


def missing(weights: Weights, cache: str | os.PathLike[str] | None = None) -> str:
    """Returns the message for weights that are nowhere: name, size, licence, places, addresses and the one command."""
    published = [weights.file] if weights.hub_file or not weights.hub else [weights.hub, weights.file]
    called = " or ".join(filter(None, published))
    what = f"{weights.what} ({called}, about {weights.size}, licence {weights.licence})"
    looked = ", ".join(dict.fromkeys(str(place.parent) for place in places(weights, cache)))
    where = " or ".join(weights.origins)
    if weights.fetchable:
        remedy = f"get it with `{fetch_command(weights)}` (from {where}) or name it by path"
    else:
        remedy = f"it comes from {where}, and is of use only as a plug-in you make from it"
    return f"{what} is not on this machine (looked in {looked}, {hub_cache()}); {remedy}"


def fetch_command(weights: Weights) -> str:
    """Returns the one command that gets the weights."""
    return f"python scripts/evaluate_vbench.py fetch {weights.name}"


def _published(path: Path, weights: Weights, cache: str | os.PathLike[str] | None) -> Path:
    # A file of the user's own under another name may be anything; under the published name it must be that file.
    if weights.sha256 and path.is_file() and path.name == weights.file:
        require_sha256(path, weights.sha256, cache=cache)
    return path


def _given(weights: Weights, given: str, *, offline: bool) -> Path:
    text = given.removeprefix("path:")
    path = Path(text).expanduser()
    if path.exists():
        if path.is_file() or _usable(path, weights) or not weights.hub:
            return path
        inside = path / weights.file
        if weights.file and inside.is_file():
            return inside
        raise UserError(
            f"{path} holds no {weights.what}: neither {weights.file or 'a file'} nor config.json with its weights"
        )
    if given.startswith("path:") or not HUB_ID.fullmatch(text):
        raise UserError(f"{text} does not exist; give {weights.what} as a file, as a folder or as a hub id org/name")
    return from_hub(weights, text, offline=offline)


def from_hub(weights: Weights, text: str, *, offline: bool) -> Path:
    """Returns the folder of a hub id org/name, or the file of org/name/file, or of weights that are one file.

    Raises Unavailable if it is not in the hub's cache and either `offline` or not to be had.
    """
    hub, file = "/".join(text.split("/")[:2]), "/".join(text.split("/")[2:])
    if not file and (weights.hub_file or not weights.hub):
        file = weights.file
    found = _in_hub_cache(hub, file)
    if found and (file or _usable(found, weights)):
        return found
    if offline:
        command = f"hf download {hub}{' ' + file if file else ''}"
        raise Unavailable(
            f"{text} is no path here, is not in the hub's cache {hub_cache()}, and the network is not to be used: "
            f"allow the download, or get it where there is a network with `{command}` and give its path",
            weights=weights.name,
        )
    from vbench_eval.backbones.fetching import fetch_hub_file, fetch_hub_folder

    if file:
        return fetch_hub_file(hub, file)
    return fetch_hub_folder(hub, extra=weights.extra, network=weights.network)


def _usable(place: Path, weights: Weights) -> bool:
    if place.is_file():
        return True
    if not (place / "config.json").is_file():
        return False
    return not weights.network or bool(weight_files(place))


def _in_hub_cache(hub: str, file: str) -> Path | None:
    """Returns the file, or the folder with config.json, that the hub's cache holds of a repository's main revision."""
    if not (hub_cache() / f"models--{hub.replace('/', '--')}").is_dir():
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub, file or "config.json", cache_dir=hub_cache())
    if not isinstance(found, str):
        return None
    return Path(found) if file else Path(found).parent
