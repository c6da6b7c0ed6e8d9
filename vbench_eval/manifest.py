"""Which prompts are scored: a seeded sample of the suite, fixed in a manifest, and the generator's prompt file.

manifest = sample(read_suite("VBench_full_info.json"), num_prompts=200, seed=0)
write_manifest(Path("eval/manifest.json"), manifest)
write_prompts(Path("eval"), manifest)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vbench_eval.errors import UserError, malformed
from vbench_eval.files import read_json, write_json, write_text
from vbench_eval.naming import nfc
from vbench_eval.suite import Suite, SuitePrompt

SCHEMA = "vbench_eval.manifest/1"
SAMPLES = 5
FLICKERING_SAMPLES = 25  # VBench filters these videos for static ones and keeps up to 5
MAX_SAMPLES = 100_000


@dataclass(frozen=True)
class ManifestPrompt:
    """A prompt to make videos of: indices 0 to `samples` - 1. The rest as in `SuitePrompt`."""

    id: str
    prompt: str
    dimensions: tuple[str, ...]
    samples: int
    entries: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Manifest:
    """A fixed set of prompts.

    Attributes:
        prompts: in the order they were drawn, so that any first part of them is a random sample too.
        dimensions: what the prompts were chosen for.
        seed: of the draw; None if all were taken.
        suite: the name, source and SHA-256 of the suite's file and its number of entries.
    """

    prompts: tuple[ManifestPrompt, ...]
    dimensions: tuple[str, ...]
    seed: int | None
    suite: Mapping[str, Any]

    @property
    def num_videos(self) -> int:
        return sum(prompt.samples for prompt in self.prompts)

    @property
    def ids(self) -> dict[str, str]:
        """Short id -> prompt."""
        return {prompt.id: prompt.prompt for prompt in self.prompts}

    def to_json(self) -> dict[str, Any]:
        """Returns the manifest as JSON data, with a SHA-256 of the rest of it."""
        body = {
            "schema": SCHEMA,
            "suite": dict(self.suite),
            "seed": self.seed,
            "num_prompts": len(self.prompts),
            "num_videos": self.num_videos,
            "dimensions": list(self.dimensions),
            "prompts": [
                {
                    "id": prompt.id,
                    "prompt": prompt.prompt,
                    "dimensions": list(prompt.dimensions),
                    "samples": prompt.samples,
                    "entries": [dict(entry) for entry in prompt.entries],
                }
                for prompt in self.prompts
            ],
        }
        return {**body, "sha256": _digest(body)}


def sample(
    suite: Suite,
    dimensions: Iterable[str] | None = None,
    num_prompts: int | None = None,
    seed: int = 0,
    *,
    samples: int | None = None,
) -> Manifest:
    """Returns `num_prompts` distinct prompts drawn at random, without replacement, from those of the dimensions.

    A prompt's place in the draw is the SHA-256 of the seed and its text: the same on every machine, Python and order of
    the suite's file, and a larger sample of the same seed and dimensions begins with the smaller one. `dimensions` None
    takes all prompts of the suite, `num_prompts` None all there are, in the suite's order. `samples` is how many videos
    each prompt gets; None means VBench's 5, and 25 where the prompt is asked for by temporal_flickering.

    Raises UserError for an unknown dimension, or more prompts than there are.
    """
    wanted = suite.dimensions if dimensions is None else tuple(dict.fromkeys(dimensions))
    pool = suite.of(wanted)
    _whole(seed, "seed", 0, 2**63 - 1)
    if samples is not None:
        _whole(samples, "samples per prompt", 1, MAX_SAMPLES)
    if num_prompts is not None:
        _whole(num_prompts, "number of prompts", 1, len(pool))
        pool = tuple(sorted(pool, key=lambda prompt: _ticket(seed, prompt.prompt))[:num_prompts])
    return Manifest(
        prompts=tuple(_chosen(prompt, wanted, samples) for prompt in pool),
        dimensions=wanted,
        seed=None if num_prompts is None else seed,
        suite={
            "file": suite.path.name,
            "source": suite.source,
            "sha256": suite.sha256,
            "entries": suite.num_entries,
            "distinct_prompts": len(suite.prompts),
        },
    )


def samples_per_prompt(dimensions: Iterable[str]) -> int:
    """Returns how many videos VBench asks for of a prompt scored in these dimensions."""
    return FLICKERING_SAMPLES if "temporal_flickering" in dimensions else SAMPLES


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Writes the manifest; refuses (UserError) to replace one of other prompts, which fixes what was made already."""
    if path.exists():
        old = read_manifest(path)
        if old != manifest:
            raise UserError(
                f"{path} fixes another set: {_summary(old)}, not {_summary(manifest)}; "
                "use it as it is, or write the new one to another folder"
            )
        return
    write_json(path, manifest.to_json(), ascii_only=False)


def read_manifest(path: Path, suite: Suite | None = None) -> Manifest:
    """Returns the manifest of a file, checked against its own SHA-256 and, if a suite is given, against that.

    Raises UserError if the file is none, was edited, or was drawn from another suite.
    """
    data = read_json(path, "manifest")
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        got = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise UserError(f"manifest {path}: schema is {got!r}; give a manifest.json written by the verb prompts")
    body = {key: value for key, value in data.items() if key != "sha256"}
    if data.get("sha256") != _digest(body):
        raise UserError(
            f"manifest {path} was changed since it was written (its SHA-256 differs), so it no longer says which "
            "prompts were drawn; restore it, or draw again with the same suite, dimensions, number and seed"
        )
    with malformed(f"manifest {path}", "draw it again with the verb prompts"):
        manifest = Manifest(
            prompts=tuple(_prompt(entry) for entry in data["prompts"]),
            dimensions=_texts(data["dimensions"]),
            seed=None if data["seed"] is None else int(data["seed"]),
            suite={**data["suite"], "sha256": str(data["suite"]["sha256"])},
        )
    if suite is not None:
        verify(manifest, suite)
    return manifest


def _prompt(entry: Mapping[str, Any]) -> ManifestPrompt:
    _whole(entry["samples"], "samples of a prompt", 1, MAX_SAMPLES)
    id_, prompt = _texts([entry["id"], entry["prompt"]])
    entries = tuple({**one} for one in entry["entries"])
    return ManifestPrompt(id_, prompt, _texts(entry["dimensions"]), entry["samples"], entries)


def _texts(values: Iterable[Any]) -> tuple[str, ...]:
    found = tuple(values)
    if not all(isinstance(value, str) for value in found):
        raise TypeError(f"{found!r:.60} is to be text")
    return found


def verify(manifest: Manifest, suite: Suite) -> None:
    """Raises UserError unless the manifest was drawn from this very file and drawing again gives the same prompts."""
    if manifest.suite["sha256"] != suite.sha256:
        here = {nfc(prompt.prompt) for prompt in suite.prompts}
        absent = sum(nfc(prompt.prompt) not in here for prompt in manifest.prompts)
        raise UserError(
            f"the manifest was drawn from a file with SHA-256 {manifest.suite['sha256'][:12]}..., {suite.path} has "
            f"{suite.sha256[:12]}... ({absent} of its {len(manifest.prompts)} prompts are not in it); "
            "give the suite it was drawn from, or none: the manifest holds all that is needed"
        )
    again = sample(
        suite, manifest.dimensions, None if manifest.seed is None else len(manifest.prompts), manifest.seed or 0
    )
    if [prompt.prompt for prompt in again.prompts] != [prompt.prompt for prompt in manifest.prompts]:
        raise UserError(
            f"drawing again from {suite.path} with seed {manifest.seed} gives other prompts than the manifest holds; "
            "it was not written by this version: keep it, and leave the suite out"
        )


def not_a_line(prompt: str) -> str | None:
    """Returns why the prompt cannot be a line of the generator's .txt prompt file, or None if it can."""
    if re.search(r"[\r\n]", prompt):
        return "it holds a line break"
    if (reason := _not_in_any_file(prompt)) is not None:
        return reason
    if prompt.startswith("#"):
        return "it begins with #, which marks a comment"
    if "\0" in prompt:
        return "it holds a NUL"
    if prompt.startswith("\ufeff"):
        return "it begins with a byte-order mark"
    return None


def write_prompts(folder: Path, manifest: Manifest) -> tuple[Path, tuple[str, ...]]:
    """Writes the prompts for `scripts/generate_video.py --prompts`; returns the file and what to know of it.

    prompts.txt has a prompt a line. If one of them cannot be a line, all go into prompts.json (a list of strings)
    instead and a note says why. Raises UserError for a prompt that neither file can carry.
    """
    prompts = [prompt.prompt for prompt in manifest.prompts]
    for prompt in prompts:
        if (reason := _not_in_any_file(prompt)) is not None:
            raise UserError(f"{prompt!r:.120} cannot be given to a generator: {reason}; take it out of the suite")
    reasons = {prompt: reason for prompt in prompts if (reason := not_a_line(prompt)) is not None}
    if not reasons:
        write_text(folder / "prompts.txt", "".join(f"{prompt}\n" for prompt in prompts))
        return folder / "prompts.txt", ()
    write_text(folder / "prompts.json", json.dumps(prompts, indent=1, ensure_ascii=False) + "\n")
    notes = (f"{prompt!r:.120} cannot be a line of a text file: {reason}" for prompt, reason in reasons.items())
    return folder / "prompts.json", tuple(notes)


def _not_in_any_file(prompt: str) -> str | None:
    if not prompt or prompt != prompt.strip():
        return "it is empty, or begins or ends with a space, which readers of prompt files cut off"
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError:
        return "it is not valid Unicode text"
    return None


def _chosen(prompt: SuitePrompt, wanted: Iterable[str], samples: int | None) -> ManifestPrompt:
    number = samples or samples_per_prompt(set(prompt.dimensions) & set(wanted))
    return ManifestPrompt(prompt.id, prompt.prompt, prompt.dimensions, number, prompt.entries)


def _summary(manifest: Manifest) -> str:
    return (
        f"{len(manifest.prompts)} prompts and {manifest.num_videos} videos for {', '.join(manifest.dimensions)} "
        f"(seed {manifest.seed}, suite {str(manifest.suite['sha256'])[:12]})"
    )


def _ticket(seed: int, prompt: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{nfc(prompt)}".encode("utf-8", "surrogatepass")).digest()


def _digest(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _whole(value: object, name: str, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"{name} is {value!r}; give a whole number from {low} to {high}")
