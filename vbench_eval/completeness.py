"""Whether a folder holds the videos that were asked for: which are missing, which files are too many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vbench_eval.folders import VideoFolder
from vbench_eval.manifest import Manifest
from vbench_eval.naming import nfc

MOST_LINES = 20


@dataclass(frozen=True)
class Completeness:
    """What a folder lacks and what it has too many.

    Attributes:
        expected: how many videos the manifest asks for.
        found: how many of them are there.
        missing: (prompt, index), in the manifest's order.
        reasons: why the generator could not make some of the missing.
        surplus: names of files that are none of those asked for.
        repeated: (prompt, index) -> the names of several files that all are it; the first is the one that counts.
    """

    expected: int
    found: int
    missing: tuple[tuple[str, int], ...]
    reasons: Mapping[tuple[str, int], str]
    surplus: tuple[str, ...]
    repeated: Mapping[tuple[str, int], tuple[str, ...]]

    @property
    def complete(self) -> bool:
        """Whether all videos are there, each once; surplus files do no harm."""
        return not self.missing and not self.repeated

    def lines(self, most: int = MOST_LINES) -> tuple[str, ...]:
        """Returns what to tell the user: one line in all, then one per prompt at fault, at most `most` of a kind."""
        lines = [f"{self.found} of {self.expected} videos are there"]
        by_prompt: dict[str, list[int]] = {}
        for prompt, index in self.missing:
            by_prompt.setdefault(prompt, []).append(index)
        for prompt, indices in list(by_prompt.items())[:most]:
            why = next((self.reasons[prompt, index] for index in indices if (prompt, index) in self.reasons), None)
            lines.append(f"missing: {prompt!r}, index {_ranges(indices)}{f' ({why})' if why else ''}")
        if len(by_prompt) > most:
            lines.append(f"missing: videos of {len(by_prompt) - most} more prompts")
        for (prompt, index), names in list(self.repeated.items())[:most]:
            lines.append(f"several files are {prompt!r}, index {index}: {', '.join(names)}; only {names[0]} counts")
        if len(self.repeated) > most:
            lines.append(f"several files: {len(self.repeated) - most} more prompts and indices")
        if self.surplus:
            shown = ", ".join(self.surplus[:3])
            lines.append(f"surplus: {len(self.surplus)} files are none of these videos, such as {shown}")
        return tuple(lines)

    def to_json(self) -> dict[str, Any]:
        return {
            "complete": self.complete,
            "expected": self.expected,
            "found": self.found,
            "missing": [
                {"prompt": prompt, "index": index, "reason": self.reasons.get((prompt, index))}
                for prompt, index in self.missing
            ],
            "surplus": list(self.surplus),
            "repeated": [
                {"prompt": prompt, "index": index, "files": list(names)}
                for (prompt, index), names in self.repeated.items()
            ],
        }


def check_completeness(manifest: Manifest, folder: VideoFolder) -> Completeness:
    """Returns what the folder lacks of the manifest's prompts, each at indices 0 to `samples` - 1."""
    wanted = {
        (nfc(prompt.prompt), index): (prompt.prompt, index)
        for prompt in manifest.prompts
        for index in range(prompt.samples)
    }
    files: dict[tuple[str, int], list[str]] = {}
    surplus = []
    for video in folder.videos:
        key = wanted.get((nfc(video.prompt), video.index))
        if key is None:
            surplus.append(video.name)
        else:
            files.setdefault(key, []).append(video.name)
    reasons = {(nfc(prompt), index): reason for (prompt, index), reason in folder.failed.items()}
    missing = tuple(key for key in wanted.values() if key not in files)
    return Completeness(
        expected=len(wanted),
        found=len(files),
        missing=missing,
        reasons={key: reasons[nfc(key[0]), key[1]] for key in missing if (nfc(key[0]), key[1]) in reasons},
        surplus=tuple(surplus),
        repeated={key: tuple(names) for key, names in files.items() if len(names) > 1},
    )


def _ranges(indices: list[int]) -> str:
    """ "0-4, 7" for 0, 1, 2, 3, 4, 7 (in ascending order)."""
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][-1] + 1:
            parts[-1].append(index)
        else:
            parts.append([index])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
