"""VBench's prompt suite: which prompts there are, which dimensions they belong to, and what is wrong with them."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from vbench_eval.backbones.finding import Unavailable, find
from vbench_eval.backbones.weights import CATEGORIES
from vbench_eval.errors import UserError
from vbench_eval.files import parse_json, read_bytes
from vbench_eval.naming import collisions, nfc, not_a_name

FILE_NAME = "VBench_full_info.json"
SAMPLE = "sample"
SAMPLE_FILE = Path(__file__).with_name("sample_suite.json")

GROUPS: Mapping[tuple[str, ...], int] = {
    ("subject_consistency", "dynamic_degree", "motion_smoothness"): 72,
    ("overall_consistency", "aesthetic_quality", "imaging_quality"): 93,
    ("scene", "background_consistency"): 86,
    ("temporal_flickering",): 75,
    ("object_class",): 79,
    ("multiple_objects",): 82,
    ("human_action",): 100,
    ("color",): 85,
    ("spatial_relationship",): 84,
    ("appearance_style",): 90,
    ("temporal_style",): 100,
}
"""VBench's 11 groups of prompts: the dimensions that share them, and how many entries the official file has of each."""

ALL_DIMENSIONS = tuple(sorted(name for group in GROUPS for name in group))


@dataclass(frozen=True)
class SuitePrompt:
    """A prompt of the suite.

    Attributes:
        id: "p0007" for what stands seventh in the file (where it stands first, if it stands there twice).
        prompt: letter for letter.
        dimensions: those of all its entries.
        entries: its objects in the file, unchanged ("prompt_en", "dimension", "auxiliary_info").
    """

    id: str
    prompt: str
    dimensions: tuple[str, ...]
    entries: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Suite:
    """A suite as read: `prompts` are distinct, in the order of the file; `sha256` is that of the file's bytes."""

    path: Path
    source: str
    sha256: str
    num_entries: int
    prompts: tuple[SuitePrompt, ...]

    @cached_property
    def dimensions(self) -> tuple[str, ...]:
        """All dimensions that have a prompt, sorted."""
        return tuple(sorted({name for prompt in self.prompts for name in prompt.dimensions}))

    def of(self, dimensions: Iterable[str]) -> tuple[SuitePrompt, ...]:
        """Returns the prompts that belong to any of these dimensions; raises UserError for one that has none."""
        wanted = set(dimensions)
        if unknown := sorted(wanted - set(self.dimensions)):
            raise UserError(
                f"the suite {self.path.name} has no prompt for {', '.join(unknown)}; "
                f"it has {', '.join(self.dimensions)}"
            )
        return tuple(prompt for prompt in self.prompts if wanted & set(prompt.dimensions))

    def group_sizes(self) -> dict[tuple[str, ...], int]:
        """Returns how many entries each of VBench's groups has here; a group none of whose dimensions occur has 0."""
        entries = [set(entry["dimension"]) for prompt in self.prompts for entry in prompt.entries]
        return {group: sum(bool(names & set(group)) for names in entries) for group in GROUPS}

    def warnings(self) -> tuple[str, ...]:
        """Returns what the user of this suite has to know, a sentence each."""
        lines = []
        repeated = [prompt for prompt in self.prompts if len(prompt.entries) > 1]
        if repeated:
            lines.append(
                f"{_some(len(repeated), 'prompt stands', 'prompts stand')} in the suite more than once and is one "
                f"video here: {_quoted(prompt.prompt for prompt in repeated)}"
            )
        for group in collisions(prompt.prompt for prompt in self.prompts):
            lines.append(
                f"{_quoted(group)} are one file name where a file system ignores case or Unicode form: "
                "the later would replace the earlier"
            )
        unnameable = {prompt.prompt: reason for prompt in self.prompts if (reason := not_a_name(prompt.prompt))}
        for prompt, reason in list(unnameable.items())[:3]:
            lines.append(f"{_quoted([prompt])} cannot be a file name everywhere: {reason}")
        if len(unnameable) > 3:
            lines.append(f"and {len(unnameable) - 3} more prompts cannot be a file name everywhere")
        unknown = [name for name in self.dimensions if name not in ALL_DIMENSIONS]
        if unknown:
            lines.append(f"VBench has no dimension called {', '.join(unknown)}; is this another benchmark's suite?")
        if self.source != SAMPLE and self.group_sizes() != dict(GROUPS):
            differing = [
                f"{group[0]} {size} instead of {GROUPS[group]}"
                for group, size in self.group_sizes().items()
                if size != GROUPS[group]
            ]
            lines.append(f"the groups are not those of VBench's own file: {', '.join(differing)}")
        return tuple(lines)


def added_words(prompts: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """Returns, by prompt, what the suite adds to it for each dimension that has such words ("auxiliary_info")."""
    found: dict[str, dict[str, Any]] = {}
    for prompt in prompts:
        added = [entry.get("auxiliary_info") for entry in prompt.entries]
        # Other benchmarks' suites have lists and texts there, which belong to no dimension of VBench's.
        found[nfc(prompt.prompt)] = {
            name: words for one in added if isinstance(one, Mapping) for name, words in one.items()
        }
    return found


def read_suite(choice: str | Path | None = None) -> Suite:
    """Returns the suite: a file, a folder that holds VBench_full_info.json, "sample" (12 prompts of our own for the
    demo), or, with None, the file of an installed `vbench` package, which is found without importing it, else the one
    that was fetched.

    Raises UserError if there is none, or naming the entry that is not as VBench writes it.
    """
    path, source = _locate(choice)
    data = read_bytes(path, "prompt suite")
    entries = parse_json(data, path, "prompt suite")
    if not isinstance(entries, list) or not entries:
        raise UserError(
            f"prompt suite {path} is {'empty' if entries == [] else 'not a list'}; "
            f"give VBench's {FILE_NAME}: a list of objects with prompt_en and dimension"
        )
    found: dict[str, list[Mapping[str, Any]]] = {}
    first: dict[str, int] = {}
    for number, entry in enumerate(entries, start=1):
        checked = _entry(entry, path, number)
        found.setdefault(checked["prompt_en"], []).append(checked)
        first.setdefault(checked["prompt_en"], number)
    width = max(4, len(str(len(entries))))
    prompts = tuple(
        SuitePrompt(
            id=f"p{first[prompt]:0{width}d}",
            prompt=prompt,
            dimensions=tuple(dict.fromkeys(name for entry in of_it for name in entry["dimension"])),
            entries=tuple(of_it),
        )
        for prompt, of_it in found.items()
    )
    return Suite(path, source, hashlib.sha256(data).hexdigest(), len(entries), prompts)


def _locate(choice: str | Path | None) -> tuple[Path, str]:
    if choice is None:
        return _installed()
    path = Path(choice)
    if str(choice) == SAMPLE and not path.is_file():
        return SAMPLE_FILE, SAMPLE
    if path.is_dir():
        inside = [path / FILE_NAME, path / "vbench" / FILE_NAME]
        path = next((file for file in inside if file.is_file()), inside[0])
    return path, "file"


def _installed() -> tuple[Path, str]:
    # find_spec of a top-level name reads no code of the package, whose import would need CUDA and old libraries.
    try:
        spec = importlib.util.find_spec("vbench")
    except (ImportError, ValueError):
        spec = None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / FILE_NAME
        if path.is_file():
            try:
                return path, f"vbench {metadata.version('vbench')}"
            except metadata.PackageNotFoundError:
                return path, "vbench (version unknown)"
    with suppress(Unavailable):
        return find("vbench_suite"), "fetched"
    raise UserError(
        f"no prompt suite was given and no installed vbench package holds {FILE_NAME}; get it with w2sd-vbench fetch "
        f"vbench_suite, give the path of that file, or {SAMPLE!r} for 12 prompts of our own"
    )


def read_category(choice: str) -> tuple[str, ...]:
    """Returns the prompts of one of VBench's categories ("animal", ...), or of a file with a prompt a line.

    Raises UserError if there is no such file, and Unavailable for a category whose list is not on this machine.
    """
    path = Path(choice)
    if not path.is_file():
        if choice not in CATEGORIES:
            raise UserError(f"category is {choice!r}; give one of {', '.join(CATEGORIES)}, or a file of prompts")
        path = find(f"vbench_{choice}")
    try:
        lines = read_bytes(path, "list of prompts").decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"list of prompts {path} is not UTF-8 text; write a prompt a line") from error
    prompts = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not prompts:
        raise UserError(f"list of prompts {path} is empty; write a prompt a line")
    return prompts


def _entry(entry: Any, path: Path, number: int) -> Mapping[str, Any]:
    where = f"prompt suite {path}, entry {number}"
    if not isinstance(entry, dict) or not isinstance(entry.get("prompt_en"), str) or not entry["prompt_en"].strip():
        raise UserError(f"{where} has no text prompt_en; give VBench's {FILE_NAME} as it was published")
    names = entry.get("dimension")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise UserError(
            f'{where}: dimension is {names!r:.100}; it must be a list of names such as ["subject_consistency"]'
        )
    return entry


def _some(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"


def _quoted(texts: Iterable[str], most: int = 5) -> str:
    texts = list(texts)
    rest = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(repr(text if len(text) <= 100 else text[:97] + "...") for text in texts[:most]) + rest
