"""A whole suite of prompts as one run: its prompts drawn, and its videos scored as they are made (no torch)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from w2sd_video.commands.request import Request
from w2sd_video.errors import UserError

if TYPE_CHECKING:
    from vbench_eval.manifest import Manifest

SAMPLES = 5  # VBench's own
EVERY = 600.0  # seconds between two looks at what is there to be scored
SCORES = "scores"  # in a run's folder
INTERRUPTED = 130, 143


def with_suite(request: Request, choice: str) -> tuple[Request, Manifest]:
    """Returns the request for all prompts of a suite, and the manifest that says what belongs to which dimension.

    `choice` is "vbench" (the suite of an installed or fetched copy), "sample" (12 prompts of our own) or a file.

    Raises:
        UserError: no such suite, or prompts that are given besides.
    """
    from vbench_eval.errors import UserError as SuiteError
    from vbench_eval.manifest import sample
    from vbench_eval.suite import read_suite

    if given := [name for name in ("prompts", "prompt_pairs") if request.asks(name)]:
        flags = " or ".join(f"--{name.replace('_', '-')}" for name in ("prompt", *given))
        raise UserError(f"--suite has the prompts; leave {flags} out")
    count = request.num if request.asks("num") else SAMPLES
    try:
        manifest = sample(read_suite(None if choice == "vbench" else choice), samples=count)
    except SuiteError as error:
        raise UserError(f"--suite {choice}: {error}") from error
    return request.changed(prompts=tuple(each.prompt for each in manifest.prompts), num=count), manifest


class SuiteScores:
    """The scores of one run's videos, in its folder `scores`: what is scored once is not scored again.

    A video that is not there yet is scored later; a killed run goes on where it was.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        methods: Sequence[str],
        *,
        device: str,
        note: Callable[[str], None],
        alone: bool,
        first: bool = True,
        every: float = EVERY,
    ) -> None:
        self._folder, self._manifest, self._methods, self._device = folder, manifest, methods, device
        self._note, self._alone, self._first, self._every = note, alone, first, every
        self._last = time.monotonic()

    def between(self) -> None:
        """Scores what is there, if that was not done for a while; processes that were started together wait until all
        is made, as they score together.
        """
        if self._alone and time.monotonic() - self._last >= self._every:
            self._score()
            self._last = time.monotonic()

    def finish(self) -> Mapping[str, str]:
        """Scores what is left, compares the methods, and returns where both are, by name."""
        reports = self._score()
        written = {f"scores of {method}": str(path) for method, path in reports.items()}
        if len(reports) > 1 and self._first:
            target = self._folder / SCORES / "comparison"
            self._run("compare", *map(str, reports.values()), "--labels", *reports, "--output", str(target))
            written["comparison of scores"] = str(target)
        return written

    def _score(self) -> dict[str, Path]:
        """The reports there are afterwards, by method."""
        from vbench_eval.manifest import write_manifest

        target, reports = self._folder / SCORES, {}
        target.mkdir(parents=True, exist_ok=True)
        manifest = target / "manifest.json"
        write_manifest(manifest, self._manifest)
        for method in self._methods:
            videos = self._folder / method
            if not videos.is_dir():
                continue
            told = ("--manifest", str(manifest), "--output", str(target), "--name", method, "--device", self._device)
            self._run("score", str(videos), *told, "--dimensions", "all")
            if (report := target / f"{method}_report.json").is_file():
                reports[method] = report
        return reports

    def _run(self, verb: str, *words: str) -> None:
        from vbench_eval.commands import main

        code = main([verb, *words, "--quiet"])
        if code in INTERRUPTED:
            raise KeyboardInterrupt
        if code == 2:
            self._note(f"{verb} refused: another process may be at it; the same command makes the scores later")
