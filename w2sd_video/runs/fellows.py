"""Processes that share a run's folder: who is alive, and who makes what.

Each process keeps its finished lines in a file of its own, `.shared/HOST.PID.ID.jsonl`, and holds a lock on it. The
lock goes with the process, also when it is killed. A batch is claimed by creating a file whose name only one process
can create; a claim whose owner is gone is taken over by creating the next one. Nothing is ever claimed twice, and no
claim is ever removed while anyone is there. Where locks do not reach other hosts, a process of another host counts as
alive until its file was not touched for LEASE seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from w2sd_video.errors import UserError

SHARED = ".shared"  # in a run's folder, while several processes make it
LEASE = 120.0  # seconds
_BEAT = 20.0


def locked(descriptor: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Takes a lock on an open file or folder and returns whether it is held now; True where there are no locks at all.

    The lock goes with the descriptor, also when the process is killed.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


@dataclass(frozen=True)
class Worker:
    """One of `count` processes that were started together and share a run; the one of `number` 0 reports."""

    number: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        return self.number == 0

    @classmethod
    def of_environment(cls) -> Worker:
        """Returns what `accelerate launch` and torchrun say of this process."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        return cls(int(os.environ.get("RANK", "0")), count) if count > 1 else cls()

    def device(self, device: str) -> str:
        """Returns the device that this process is to use: of several accelerators its own."""
        if self.count == 1 or device not in ("auto", "cuda"):
            return device
        import torch

        if not torch.cuda.is_available():
            return device
        return f"cuda:{int(os.environ.get('LOCAL_RANK', self.number)) % torch.cuda.device_count()}"


class Fellows:
    """This process among those that share `folder`."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / SHARED
        self.home.mkdir(exist_ok=True)
        host = "".join(c if c.isalnum() or c == "-" else "-" for c in socket.gethostname())
        self.name = f"{host}.{os.getpid()}.{uuid.uuid4().hex[:12]}.jsonl"
        self.own = self.home / self.name
        self._lock = os.open(self.own, os.O_CREAT | os.O_RDWR | os.O_APPEND)
        locked(self._lock, wait=True)
        if not self._keeps_others_out():
            raise UserError(
                f"the file system of {folder} has no locks, which processes that share a folder need; "
                "start one process, or give --output a folder on another file system"
            )
        self._mutex = os.open(self.home, os.O_RDONLY)
        self._read: dict[str, int] = {}  # how many bytes of the others' files
        self._left = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, no other process of this folder is in here."""
        import fcntl

        locked(self._mutex, wait=True)
        try:
            yield
        finally:
            fcntl.flock(self._mutex, fcntl.LOCK_UN)

    def claim(self, what: str) -> bool:
        """Returns whether this process is the one to make `what`: False while another that claimed it is alive."""
        name = hashlib.sha256(what.encode("utf-8", "surrogatepass")).hexdigest()[:24]
        for generation in range(1_000_000):
            path = self.home / f"{name}.{generation}"
            with self.alone():  # so that nobody reads a claim before its owner stands in it
                try:
                    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
                except FileExistsError:
                    owner = path.read_text("utf-8")
                else:
                    os.write(descriptor, self.name.encode())
                    os.close(descriptor)
                    return True
            if owner == self.name:
                return True
            if self._alive(owner):
                return False
        raise UserError(f"{self.home} holds claims without end; delete that folder")

    def news(self) -> bytes:
        """Returns the whole lines that the others wrote since the last call."""
        found = []
        for path in sorted(self.home.glob("*.jsonl")):
            if path.name == self.name:
                continue
            with open(path, "rb") as file:
                file.seek(self._read.get(path.name, 0))
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]  # a line that is cut off is being written, or its writer was killed
            self._read[path.name] = self._read.get(path.name, 0) + len(whole)
            found.append(whole)
        return b"".join(found)

    def leave(self) -> None:
        """Tells the others that this process makes nothing any more; its lines stay."""
        self._left.set()
        os.close(self._lock)
        os.close(self._mutex)

    def _alive(self, owner: str) -> bool:
        if not owner:  # killed between creating the claim and signing it
            return False
        path = self.home / owner
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            return False
        try:
            if not locked(descriptor, shared=True):
                return True
        finally:
            os.close(descriptor)
        if owner.partition(".")[0] == self.name.partition(".")[0]:
            return False
        os.utime(self.own)  # both times are of the file system's clock
        return self.own.stat().st_mtime - path.stat().st_mtime < LEASE

    def _keeps_others_out(self) -> bool:
        other = os.open(self.own, os.O_RDONLY)
        try:
            return not locked(other)
        finally:
            os.close(other)

    def _beat(self) -> None:
        while not self._left.wait(_BEAT):
            with contextlib.suppress(OSError):
                os.utime(self.own)


def left_lines(folder: Path) -> bytes:
    """Returns the whole lines of processes that shared the folder and are gone; to be followed by `forget`."""
    files = sorted((folder / SHARED).glob("*.jsonl"))
    return b"".join(data[: data.rfind(b"\n") + 1] for data in (path.read_bytes() for path in files))


def forget(folder: Path) -> None:
    """Removes the claims and lines of processes that are gone."""
    shutil.rmtree(folder / SHARED, ignore_errors=True)
