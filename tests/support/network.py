"""No test goes onto the network: what asks for it is refused, and noted."""

from __future__ import annotations

import socket
from typing import Any

ATTEMPTS: list[str] = []  # of the test that runs


def forbid() -> None:
    """From now on sockets of this process reach this machine alone."""
    for name in ("connect", "connect_ex"):
        setattr(socket.socket, name, _guarded(getattr(socket.socket, name)))
    own = socket.getaddrinfo

    def getaddrinfo(host: Any, *rest: Any, **named: Any) -> Any:
        if not _is_here(host):
            _refuse(host)
        return own(host, *rest, **named)

    socket.getaddrinfo = getaddrinfo


def _guarded(own: Any) -> Any:
    def guarded(self: socket.socket, address: Any, *rest: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_here(address[0]):
            _refuse(address)
        return own(self, address, *rest)

    return guarded


def _is_here(host: object) -> bool:
    return host in (None, "", "localhost", "::1") or str(host).startswith("127.")


def _refuse(where: object) -> None:
    ATTEMPTS.append(str(where))
    raise OSError(f"no test goes onto the network, but this one asks for {where}")
