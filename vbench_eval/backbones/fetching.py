"""Gets published weights over the network, only when asked to: the hub's by its client, others resumably by URL."""

from __future__ import annotations

import os
import shutil
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from vbench_eval import network
from vbench_eval.backbones.finding import (
    HUB_ID,
    Unavailable,
    fetch_hub_file,
    fetch_hub_folder,
    find,
    from_hub,
    missing,
    own_cache,
    require_sha256,
)
from vbench_eval.backbones.weights import WEIGHTS, Weights, named
from vbench_eval.errors import UserError

Progress = Callable[[str, int, int], None]  # file name, bytes so far, bytes in all (0 where nobody says)
BLOCK = 1 << 20


def fetch(
    name: str, *, offline: bool = True, cache: str | os.PathLike[str] | None = None, progress: Progress | None = None
) -> Path:
    """Returns the file or folder of the weights called `name`, from this machine if they are here, else downloaded.

    `name` is one of the table of weights, or a hub id, org/name or org/name/file, of these or any others.

    Files go to our cache folder, folders to the hub's cache, where transformers finds them too. What was cut short is
    continued by the next call. Raises Unavailable if offline (nothing is tried then), or if no address answers; raises
    UserError for weights that cannot be used by themselves and for a file that is not the published one.
    """
    weights = of_name(name)
    if weights.name not in WEIGHTS:
        return from_hub(weights, name, offline=offline)
    name = weights.name
    with suppress(Unavailable):
        return find(name, cache=cache)
    if not weights.fetchable:
        raise UserError(
            f"{weights.what} (licence {weights.licence}) is not fetched: its file is of use only with code that is not "
            f"ours to bring. {missing(weights, cache)}"
        )
    if offline or network.forbidden():
        raise Unavailable(f"offline, nothing is downloaded: {missing(weights, cache)}", weights=name)
    if weights.hub and not weights.hub_file:
        return fetch_hub_folder(weights.hub, extra=weights.extra, network=weights.network)
    problems = []
    for attempt in _attempts(weights, own_cache(cache), progress):
        try:
            path = attempt()
        except (OSError, Unavailable, zipfile.BadZipFile, KeyError) as error:
            problems.append(f"{type(error).__name__}: {error}")
            continue
        try:
            if weights.sha256:
                require_sha256(path, weights.sha256, cache=cache)
        except UserError as error:
            path.unlink()  # else it would be found, and refused, from now on
            problems.append(str(error))
            continue
        return path
    raise Unavailable(f"could not be fetched ({'; '.join(problems)}). {missing(weights, cache)}", weights=name)


def of_name(name: str) -> Weights:
    """Returns the entry of the table that a name or a hub id means, or one made for the hub id of something else.

    Raises UserError for any other name, and for a hub id of several entries.
    """
    if name in WEIGHTS or not HUB_ID.fullmatch(name):
        return named(name)
    hub, file = "/".join(name.split("/")[:2]), "/".join(name.split("/")[2:])
    known = [weights for weights in WEIGHTS.values() if weights.hub == hub and file in ("", weights.hub_file)]
    if len(known) > 1:
        raise UserError(f"{hub} holds {' and '.join(weights.name for weights in known)}; name one of them")
    if known:
        return known[0]
    return Weights(name, name, 0, "see its page", None, file=file, hub=hub, hub_file=file)


def fetchable_names() -> list[str]:
    """Returns the names that `fetch` can get."""
    return [name for name, weights in WEIGHTS.items() if weights.fetchable]


def _attempts(weights: Weights, folder: Path, progress: Progress | None) -> Iterable[Callable[[], Path]]:
    def from_hub() -> Path:
        return fetch_hub_file(weights.hub, weights.hub_file)

    def from_url() -> Path:
        target = folder / weights.file
        if not weights.member:
            return download(weights.url, target, progress=progress)
        archive = download(weights.url, folder / weights.url.rpartition("/")[2], progress=progress)
        beside = target.with_name(target.name + ".part")
        with zipfile.ZipFile(archive) as inside, inside.open(weights.member) as member, beside.open("wb") as out:
            shutil.copyfileobj(member, out, BLOCK)
        beside.replace(target)
        archive.unlink()
        return target

    if weights.hub_file:
        yield from_hub
    if weights.url:
        yield from_url


def download(url: str, target: Path, *, progress: Progress | None = None, timeout: float = 30.0) -> Path:
    """Returns `target` once it holds all of `url`; until then the bytes are in "<target>.part".

    A download that was cut short is continued, unless the server does not: then it starts anew. `progress` is told the
    bytes so far and in all after every block; `timeout` seconds without a byte end it. Raises OSError, also if fewer
    bytes came than were announced.
    """
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "vbench_eval"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = network.opened(request, timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        part.unlink()  # it is as long as the file or longer, yet was not renamed: not to be trusted
        return download(url, target, progress=progress, timeout=timeout)
    with answer:
        continued = getattr(answer, "status", 200) == 206
        have = have if continued else 0
        announced = answer.headers.get("Content-Length")
        total = have + int(announced) if announced else 0
        with part.open("ab" if continued else "wb") as out:
            while block := answer.read(BLOCK):
                out.write(block)
                have += len(block)
                if progress is not None:
                    progress(target.name, have, total)
    if total and have != total:
        raise OSError(f"{url} ended after {have} of {total} bytes; the next try continues there")
    part.replace(target)
    return target
