"""Where weights lie on this machine: as named by the user, in our cache, VBench's or the hub's, or nowhere; checksums.

The network is asked by `fetching.fetch`, and here by `from_hub`: for a hub id that the user names.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from vbench_eval import network
from vbench_eval.backbones.weights import TOKENIZER_FILES, Weights, named
from vbench_eval.errors import UserError
from vbench_eval.files import write_json

REMEMBERED = "sha256.json"
LARGE = 64 << 20  # bytes: reading so many again in every process takes longer than it should
WEIGHT_PATTERNS = ("*.safetensors", "pytorch_model*.bin")
NETWORK_FILES = ("model.safetensors", "pytorch_model.bin")  # first choice first
_known: dict[str, str] = {}
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
    those of its packages, and the hub's. Only a hub id that is given is asked of the network, unless `offline`: weights
    that nobody named are never downloaded by looking for them.

    Raises Unavailable if it is nowhere, UserError if a found file is not the published one.
    """
    weights = named(name)
    if given:
        return _published(_given(weights, given, offline=offline), weights, cache)
    for place in places(weights, cache):
        if _usable(place, weights):
            return _published(place, weights, cache)
    raise Unavailable(missing(weights, cache), weights=name)


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
    """Returns the one command that gets the weights: of the program where it is installed, else of this clone."""
    script = Path(__file__).resolve().parents[2] / "scripts" / "evaluate_vbench.py"
    clone = script.is_file() and shutil.which("w2sd-vbench") is None
    return f"{'python scripts/evaluate_vbench.py' if clone else 'w2sd-vbench'} fetch {weights.name}"


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
    if offline or network.forbidden():
        command = f"hf download {hub}{' ' + file if file else ''}"
        raise Unavailable(
            f"{text} is no path here, is not in the hub's cache {hub_cache()}, and the network is not to be used: "
            f"allow the download, or get it where there is a network with `{command}` and give its path",
            weights=weights.name,
        )
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


# the hub's files


def fetch_hub_file(hub: str, file: str) -> Path:
    """Returns a file of a hub repository in the hub's cache; raises Unavailable if it cannot be had."""
    found = _from_hub(hub, file)
    if found is None:
        raise Unavailable(f"{hub} has no file {file}")
    return found


def fetch_hub_folder(hub: str, *, extra: Iterable[str] = TOKENIZER_FILES, network: bool = True) -> Path:
    """Returns the folder in the hub's cache with config.json, the network and the `extra` files that there are.

    Raises Unavailable if the hub does not answer or has no such repository.
    """
    folder = fetch_hub_file(hub, "config.json").parent
    for file in extra:
        _from_hub(hub, file)
    for file in NETWORK_FILES if network else ():
        if _from_hub(hub, file):
            break
    if network and not weight_files(folder):
        raise Unavailable(f"{hub} has none of {', '.join(NETWORK_FILES)}: fetch it whole with `hf download {hub}`")
    return folder


def _from_hub(hub: str, file: str) -> Path | None:
    """Returns the file in the hub's cache, None if the repository has none such; raises Unavailable for all else."""
    try:
        return network.hub_file(hub, file)
    except Exception as error:  # no answer, no such repository, not allowed, cut short: the client has a kind for each
        reason = (str(error).strip().splitlines() or [""])[0]
        raise Unavailable(f"{file} of {hub} could not be fetched ({type(error).__name__}: {reason})") from error


# checksums, each computed once: a file is known by its path, size and time of change


def own_cache(cache: str | os.PathLike[str] | None = None) -> Path:
    """Returns our cache folder: the given one, else $VBENCH_EVAL_CACHE, else ~/.cache/vbench_eval. It may not exist."""
    return Path(cache or os.environ.get("VBENCH_EVAL_CACHE") or "~/.cache/vbench_eval").expanduser()


def sha256(path: Path, *, cache: str | os.PathLike[str] | None = None) -> str:
    """Returns the hexadecimal sha256 of a file.

    It is remembered in this process, and in our cache folder if there is one; for a large file one is made.
    """
    key = _key(path)
    if key not in _known:
        store = own_cache(cache) / REMEMBERED
        _known.update({k: v for k, v in _read(store).items() if k not in _known})
        if key not in _known:
            with path.open("rb") as file:
                _known[key] = hashlib.file_digest(file, "sha256").hexdigest()
            if path.stat().st_size >= LARGE:
                with suppress(OSError):
                    store.parent.mkdir(parents=True, exist_ok=True)
            _write(store, key, _known[key])
    return _known[key]


def content_sha256(path: Path, *, cache: str | os.PathLike[str] | None = None) -> str:
    """Returns the sha256 of a weight file, or of the weight file of a saved network's folder.

    The hash of a network in several files is that of the lines "name hash" of all of them. "" if there is none.
    """
    if path.is_file():
        return sha256(path, cache=cache)
    files = weight_files(path)
    if len(files) == 1:
        return sha256(files[0], cache=cache)
    lines = "".join(f"{file.name} {sha256(file, cache=cache)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest() if files else ""


def weight_files(folder: Path) -> list[Path]:
    """Returns the files that hold the network of a folder, of the first kind there is; safetensors come first."""
    for pattern in WEIGHT_PATTERNS:
        if found := sorted(folder.glob(pattern)):
            return found
    return []


def require_sha256(path: Path, expected: str, *, cache: str | os.PathLike[str] | None = None) -> None:
    """Raises UserError if the file's sha256 is not the expected one."""
    got = sha256(path, cache=cache)
    if got != expected:
        raise UserError(
            f"{path} has sha256 {got}, the published file has {expected}: it is damaged, cut short or another file; "
            "delete it and fetch it again"
        )


def _key(path: Path) -> str:
    state = path.stat()
    return f"{path.resolve()}|{state.st_size}|{state.st_mtime_ns}"


def _read(store: Path) -> dict[str, str]:
    with suppress(OSError, ValueError):
        found = json.loads(store.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return {str(key): value for key, value in found.items() if isinstance(value, str)}
    return {}


def _write(store: Path, key: str, value: str) -> None:
    # Only a convenience: a folder that is missing or read-only costs another reading of the file, nothing else.
    if not store.parent.is_dir():
        return
    with suppress(OSError):
        write_json(store, _read(store) | {key: value}, contested=True)
