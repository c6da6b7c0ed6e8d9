"""Folders of videos as they stand: which prompt and index each file is.

Three sources, the surest first: a generator's results.jsonl (in the folder, or beside it), which holds the true prompts
of files with cleaned names; VBench's prompt file (file name -> prompt); the file names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vbench_eval.errors import UserError
from vbench_eval.files import read_bytes, read_json
from vbench_eval.manifest import Manifest
from vbench_eval.naming import KnownPrompts, nfc, parse_name

JOURNAL = "results.jsonl"
_GENERATION = ("method", "seed", "frames", "fps", "num_evaluations")


@dataclass(frozen=True)
class FolderVideo:
    """A video and what it is of.

    Attributes:
        path: of the file, or of the folder of its frames.
        name: relative to the folder, with "/".
        prompt, index: index 0 where the name gives none.
        source: what said so: "results.jsonl", "prompt file", "file name", or "surplus" for a file name that no known
            prompt fits, whose prompt is then the name, by VBench's rule.
        generation: what the generator wrote down of it.
    """

    path: Path
    name: str
    prompt: str
    index: int
    source: str
    generation: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class VideoFolder:
    """The videos of a folder, sorted by name; `failed` says of (prompt, index) why its generator could not make it."""

    path: Path
    videos: tuple[FolderVideo, ...]
    failed: Mapping[tuple[str, int], str] = field(default_factory=dict)


def methods_of(folder: Path) -> tuple[str, ...]:
    """Returns the methods whose videos stand in subfolders of a generator's output folder, in the order they were
    made; () for any other folder.
    """
    if not (folder / JOURNAL).is_file():
        return ()
    lines = [line for line in _journal(folder / JOURNAL) if line.get("path")]
    methods = dict.fromkeys(str(line.get("method", "")) for line in lines)
    return tuple(method for method in methods if method and (folder / method).is_dir())


def read_folder(
    folder: str | Path,
    *,
    prompts: Iterable[str] = (),
    ids: Mapping[str, str] | None = None,
    prompt_file: str | Path | Mapping[str, str] | None = None,
    videos: Sequence[Path] | None = None,
) -> VideoFolder:
    """Returns what is in a folder of videos, or in a single video.

    `prompts` are those that names may mean and `ids` their short ids (both from a manifest); without them the prompt of
    a file is its name, by VBench's rule. `prompt_file` is VBench's: a JSON object {file name relative to the folder:
    prompt}, as a file or as data, which must cover all videos. `videos` are the paths, if they have been listed.

    An output folder of scripts/generate_video.py is taken as it stands if it holds one method; of several, give one's
    subfolder. Raises UserError then, and for a folder that is not there, and a prompt file that leaves videos out.
    """
    path = Path(folder)
    if not path.exists():
        raise UserError(f"{path} is not there; give a folder of videos, or a video")
    if len(methods := methods_of(path)) > 1:
        raise UserError(
            f"{path} holds the videos of {len(methods)} methods ({', '.join(methods)}); score them one by one, "
            f"for example {path / methods[-1]}"
        )
    if methods:
        path = path / methods[0]
    if videos is None:
        videos = _list(path)
    root = path if path.is_dir() else path.parent
    recorded, failed = _recorded(root)
    given = None if prompt_file is None else _prompt_file(prompt_file, root, videos)
    known = KnownPrompts(prompts, ids)
    found = []
    for video in videos:
        name = video.relative_to(root).as_posix()
        parsed = parse_name(video.name)
        index = 0 if parsed.index is None else parsed.index
        if given is not None:
            found.append(FolderVideo(video, name, given[nfc(name)], index, "prompt file"))
        elif (line := recorded.get(_key(video))) is not None:
            generation = {key: line[key] for key in _GENERATION if key in line}
            found.append(FolderVideo(video, name, line["prompt"], line["index"], JOURNAL, generation))
        elif (match := known.find(video.name)) is not None:
            found.append(FolderVideo(video, name, match[0], match[1] or 0, "file name"))
        else:
            found.append(FolderVideo(video, name, parsed.prompt, index, "surplus" if known.prompts else "file name"))
    found.sort(key=lambda video: video.name)
    if given is not None:
        found = _numbered(found)
    return VideoFolder(path, tuple(found), failed)


def _list(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    from vbench_eval.videos import find_videos

    return find_videos(path)


def _recorded(folder: Path) -> tuple[dict[str, Mapping[str, Any]], dict[tuple[str, int], str]]:
    """The journal's lines by the file they name, and the reasons of this folder's videos that could not be made."""
    lines: dict[str, Mapping[str, Any]] = {}
    failed: dict[tuple[str, int], str] = {}
    for run in (folder, folder.parent):
        if not (run / JOURNAL).is_file():
            continue
        for line in _journal(run / JOURNAL):
            key = line["prompt"], line["index"]
            if line.get("path"):
                lines[_key(run / line["path"])] = line
                if line.get("method") == folder.name:
                    failed.pop(key, None)
            elif line.get("method") == folder.name:
                failed[key] = str(line.get("reason") or "its generator gives no reason")
        break
    return lines, failed


def _journal(path: Path) -> list[Mapping[str, Any]]:
    """The lines that name a prompt and an index; others (torn ones, or another program's) say nothing here."""
    lines: list[Mapping[str, Any]] = []
    for text in read_bytes(path, "results of the generator").split(b"\n"):
        try:
            line = json.loads(text.decode("utf-8")) if text.strip() else None
        except (ValueError, RecursionError):
            continue
        if not isinstance(line, dict) or not isinstance(line.get("prompt"), str):
            continue
        if isinstance(line.get("index"), int) and isinstance(line.get("path"), str | None):
            lines.append(line)
    return lines


def _prompt_file(given: str | Path | Mapping[str, str], root: Path, videos: Sequence[Path]) -> dict[str, str]:
    what = "the prompt file" if isinstance(given, Mapping) else f"prompt file {given}"
    data = given if isinstance(given, Mapping) else read_json(Path(given), "prompt file")
    if not isinstance(data, Mapping) or not all(isinstance(value, str) for value in data.values()):
        raise UserError(f'{what} is not an object of file names and prompts; write {{"a.mp4": "a cat", ...}}')
    prompts = {nfc(str(key)).replace("\\", "/").removeprefix("./"): value for key, value in data.items()}
    names = [nfc(video.relative_to(root).as_posix()) for video in videos]
    for name, video in zip(
        names, videos, strict=True
    ):  # VBench joins folder and name, so absolute paths work there too
        if name not in prompts and (absolute := nfc(video.absolute().as_posix())) in prompts:
            prompts[name] = prompts[absolute]
    if missing := [name for name in names if name not in prompts]:
        raise UserError(
            f"{what} has no prompt for {len(missing)} of {len(names)} videos, such as {', '.join(missing[:3])}; "
            f"it must name all, relative to {root}"
        )
    return prompts


def _numbered(videos: list[FolderVideo]) -> list[FolderVideo]:
    """Where names give two videos of a prompt the same index, all of that prompt are numbered in the order of names."""
    of: dict[str, list[FolderVideo]] = {}
    for video in videos:
        of.setdefault(video.prompt, []).append(video)
    numbers = {
        video.name: number
        for group in of.values()
        if len({video.index for video in group}) < len(group)
        for number, video in enumerate(group)
    }
    return [
        FolderVideo(video.path, video.name, video.prompt, numbers.get(video.name, video.index), video.source)
        for video in videos
    ]


def _key(path: Path) -> str:
    return nfc(os.path.realpath(path))  # which takes loops as they are


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
