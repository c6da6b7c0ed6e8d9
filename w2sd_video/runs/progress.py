"""How far a run is: silent by default, a bar with the time left on a terminal, a line per video elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from w2sd_video.runs.fellows import Worker

MOST_LINES = 100  # about so many lines say how far a run is where there is no bar


class Progress:
    """Told what happens in a run and silent about it: the base of others. `bars` says whether the libraries may show
    theirs while a model is loaded.
    """

    bars = False

    def loading(self, title: str, size: int) -> None:
        """Weights of `size` bytes (0: not known) are about to be read, of what `title` says."""

    def read(self, size: int, part: str = "") -> None:
        """`size` more bytes of weights are in memory, of this part ("unet", "vae")."""

    def started(self, evaluations: int, videos: int) -> None:
        """The run is about to make `videos` videos with `evaluations` evaluations in all."""

    def making(self, label: str) -> None:
        """The video called `label` is next."""

    def evaluated(self, count: int) -> None:
        """`count` more evaluations are behind (may be negative: a failed video's are taken back)."""

    def finished(self, record: Mapping[str, Any]) -> None:
        """A video is on the disk, or failed: its line of results.jsonl."""

    def note(self, message: str) -> None:
        """Something the user should know, though the run goes on."""

    def close(self) -> None:
        """The run is over."""


class _Weights:
    """How far the weights of a run are, in lines for where there is no bar: one each time that took `EVERY` seconds,
    none for small ones.
    """

    EVERY, SMALL = 5.0, 10**8  # seconds; bytes

    def __init__(self, size: int) -> None:
        self.size, self.done, self.said = size, 0, time.monotonic()
        self.first: tuple[float, int] | None = None  # when the first were there, and how many

    def read(self, size: int, part: str) -> str:
        """Returns a line if it is time for one, with what is being read and the time left; else ""."""
        self.done += size
        now = time.monotonic()
        if size and self.first is None:  # what comes before, such as importing, says nothing of what is left
            self.first = now, self.done
        if not size or self.size < self.SMALL or now - self.said < self.EVERY:
            return ""
        self.said = now
        assert self.first is not None
        begin, read = self.first
        left = max(0, self.size - self.done) * (now - begin) / max(1, self.done - read)
        said = f"loaded {self.done / 1e9:.1f} of {self.size / 1e9:.1f} GB{f' ({part})' if part else ''}"
        return said if self.done == read else f"{said}, {left:.0f} s left"


class TerminalProgress(Progress):
    """Progress on standard error: a bar over all evaluations on a terminal, else a line per video; notes in both cases.

    `quiet` leaves failures and notes only. `noun` says what is made, if not videos.
    """

    def __init__(self, *, quiet: bool = False, noun: str = "video") -> None:
        self._silent = not Worker.of_environment().first  # of processes started together the first one reports
        self._quiet = quiet or self._silent
        self._noun = noun
        self.bars = sys.stderr.isatty() and not self._quiet
        self._bar: Any = None
        self._videos = 0
        self._done = 0
        self._weights = _Weights(0)

    def loading(self, title: str, size: int) -> None:
        if self._quiet:
            return
        self._weights = _Weights(size)
        if self.bars and size:
            from tqdm import tqdm

            self._bar = tqdm(total=size, unit="B", unit_scale=True, desc=title[:60], file=sys.stderr, leave=False)
        else:
            self._say(f"loading {f'{size / 1e9:.3g} GB of weights: ' if size else ''}{title}")

    def read(self, size: int, part: str = "") -> None:
        line = self._weights.read(size, part)
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.set_postfix_str(part, refresh=False)
            self._bar.update(size)
        elif line:
            self._say(line)

    def started(self, evaluations: int, videos: int) -> None:
        self.close()
        self._videos = videos
        if self._quiet:
            return
        if self.bars:
            from tqdm import tqdm

            self._bar = tqdm(
                total=evaluations, unit="eval", file=sys.stderr, dynamic_ncols=True, smoothing=0.1, leave=False
            )
        else:
            self._say(f"making {videos} {self._noun}{'s' * (videos != 1)}, {evaluations} evaluations")

    def making(self, label: str) -> None:
        if self._bar is not None:
            self._bar.set_description_str(f"{self._done + 1}/{self._videos} {label[:40]}")

    def evaluated(self, count: int) -> None:
        if self._bar is not None:
            self._bar.update(count)

    def finished(self, record: Mapping[str, Any]) -> None:
        self._done += 1
        if record["status"] != "done":
            what = f"{record['method']}, {record['prompt']!r}, {self._noun} {record['index']}"
            self._say(f"FAILED {what}: {record['reason']}")
        elif not self._quiet and self._bar is None and self._done % max(1, self._videos // MOST_LINES) == 0:
            self._say(f"[{self._done}/{self._videos}] {record['path']} ({record['seconds']:.3g} s)")

    def note(self, message: str) -> None:
        self._say(f"note: {message}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _say(self, line: str) -> None:
        if self._silent:
            return
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)


def calm_libraries(*, bars: bool = True) -> None:
    """Tells libraries that are not loaded yet to print errors only, unless the user's environment says otherwise."""
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    if not bars:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
