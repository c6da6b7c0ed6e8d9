"""How far scoring is: a bar with the time left on a terminal; elsewhere only what the user should know."""

from __future__ import annotations

import sys
from typing import Any


class Progress:
    """Told what happens and silent about it: the base of others."""

    def started(self, videos: int, kept: int) -> None:
        """`videos` are to be scored; `kept` are in the journal already."""

    def finished(self, path: str, error: str | None) -> None:
        """A video is journalled, with the reason if it could not be read."""

    def note(self, message: str) -> None:
        """Something the user should know, though the run goes on."""

    def close(self) -> None:
        """The run is over."""


class TerminalProgress(Progress):
    """Progress on standard error; `quiet` leaves out the bar and the notes, and keeps failures."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar: Any = None

    def started(self, videos: int, kept: int) -> None:
        if kept:
            self.note(f"in the journal already: {kept}; to go: {videos}")
        if videos and not self._quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=videos, unit="video", file=sys.stderr, dynamic_ncols=True, smoothing=0.1)

    def finished(self, path: str, error: str | None) -> None:
        if error is not None:
            self._say(f"SKIPPED {path}: {error}")
        if self._bar is not None:
            self._bar.update(1)

    def note(self, message: str) -> None:
        if not self._quiet:
            self._say(f"note: {message}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)
