"""The one place that goes onto the network, and that decides whether anything may be fetched.

Whoever loads weights by a library's own loader asks `may_fetch` for its `local_files_only`.
"""

from __future__ import annotations

import functools
import os
import socket
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TIMEOUT = 5.0  # seconds that the hub has to answer, once in a process; its own client tries for half a minute
PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


class Unreachable(OSError):
    """The hub cannot be asked; the message says why."""


def forbidden() -> bool:
    """Whether the environment forbids the network."""
    values = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(value.strip().lower() in {"1", "true", "yes", "on"} for value in values)


def may_fetch(*, offline: bool = False) -> bool:
    """Whether the hub may be asked: neither forbidden here (`offline`) nor by the environment, and it answers."""
    return not offline and not forbidden() and answers(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")


@functools.cache
def answers(address: str) -> bool:
    """Whether a connection to an address can be made; taken for granted where a proxy stands between."""
    if any(os.environ.get(name) for name in PROXIES):
        return True
    parts = urlsplit(address)
    try:
        socket.create_connection((parts.hostname, parts.port or 443), timeout=TIMEOUT).close()
    except OSError:
        return False
    return True


def hub_file(repository: str, file: str) -> Path | None:
    """Returns a file of a hub repository in the hub's cache, fetched where it is not there or has changed; None where
    the repository has none such.

    Raises:
        Unreachable: it is not in the cache, and the hub must not be asked or does not answer.
        Whatever else the hub's client raises: no such repository, no right to it, no room.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if not may_fetch():
        found = try_to_load_from_cache(repository, file)
        if isinstance(found, str):
            return Path(found)
        if isinstance(try_to_load_from_cache(repository, "model_index.json"), str):
            return None  # what is here of it is complete, or the loader says what is missing
        why = "the environment forbids the network (HF_HUB_OFFLINE)" if forbidden() else "the hub does not answer"
        raise Unreachable(f"{file} of {repository} is not in the hub's cache, and {why}")
    try:
        return Path(hf_hub_download(repository, file))
    except LocalEntryNotFoundError as error:
        raise Unreachable(
            f"{file} of {repository} is not in the hub's cache, and the hub does not answer ({error})"
        ) from error
    except EntryNotFoundError:
        return None


def hub_names(repository: str) -> list[str]:
    """Returns the names of a hub repository's files; [] where the hub must not be asked or does not answer."""
    if not may_fetch():
        return []
    from huggingface_hub import list_repo_files

    return list(list_repo_files(repository))


def opened(request: urllib.request.Request, timeout: float) -> Any:
    """Returns the answer to a request for a URL; raises OSError where there is none."""
    return urllib.request.urlopen(request, timeout=timeout)
