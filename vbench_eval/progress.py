"""How far a command is: a bar with the time left on a terminal; elsewhere only what the user should know."""

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


class Bars:
    """A bar on standard error for one thing after the other: told its name, how much is done and how much there is (0
    where nobody says).
    """

    def __init__(self, unit: str, *, scaled: bool = False) -> None:
        self._look = {"unit": unit, "unit_scale": scaled, "file": sys.stderr, "dynamic_ncols": True}
        self._name = ""
        self._bar: Any = None

    def __call__(self, name: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if self._bar is None or name != self._name or done < self._bar.n:
            self.close()
            self._name, self._bar = name, tqdm(total=total or None, desc=name, **self._look)
        self._bar.update(done - self._bar.n)
        if total and done >= total:
            self.close()

    def close(self) -> None:
        """Ends the bar that is shown; called by itself where all of it is done."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def bars(unit: str, *, scaled: bool = False, quiet: bool = False) -> Bars | None:
    """Returns `Bars` where somebody watches a terminal and did not ask for quiet, else None."""
    return Bars(unit, scaled=scaled) if sys.stderr.isatty() and not quiet else None
