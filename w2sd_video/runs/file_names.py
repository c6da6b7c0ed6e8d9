"""File names from prompts: VBench's "<prompt>-<index>" where the prompt can be a file name, else a safe unique one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

MAX_STEM_BYTES = 180  # leaves room for "-<index>", a suffix and the mark of an unfinished file within the usual 255
BLOCK = 10_000  # items of a list that are text at once
_RESERVED = frozenset(["CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))])
_PLAIN = re.compile("[A-Za-z0-9 ,.!()'_-]*")  # most prompts by far, none of them hostile
_PLAIN_LINES = re.compile("[A-Za-z0-9 ,.!()'_\n-]*")
_FORBIDDEN = frozenset("/\\" + ('<>:"|?*' if os.name == "nt" else ""))


def video_stems(prompts: Sequence[str]) -> tuple[str, ...]:
    """Returns one file-name stem per prompt, in order; a video's file is `f"{stem}-{index}{suffix}"`.

    A prompt that can be a file name is its own stem, letter for letter, as VBench looks it up (a trailing dot is
    harmless before "-<index>"). Others (slashes, control characters, marks that reorder text, leading dots, dashes or
    spaces, trailing spaces, device names of Windows, more than 180 bytes of UTF-8) get a cleaned text and a hash of
    the true prompt. Of prompts that differ only by case or Unicode normal form the first that is safe keeps its text.
    The same list always gives the same stems, and no two are equal on a file system that ignores case or normal form.
    Repeats in the list are the caller's fault (ValueError).
    """
    if len(set(prompts)) != len(prompts):
        raise ValueError("prompts repeat; drop the repeats first (prompts.without_repeats)")
    if _all_clean(prompts):
        return tuple(prompts)
    stems: dict[str, str] = {}
    taken: set[str] = set()
    for prompt in prompts:
        if clean_stem(prompt) == prompt and (key := _key(prompt)) not in taken:
            stems[prompt] = prompt
            taken.add(key)
    for prompt in prompts:
        if prompt in stems:
            continue
        digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()
        for length in range(8, len(digest) + 1, 8):
            stem = f"{clean_stem(prompt, MAX_STEM_BYTES - length - 1)}~{digest[:length]}"
            if _key(stem) not in taken:
                break
        stems[prompt] = stem
        taken.add(_key(stem))
    return tuple(stems[prompt] for prompt in prompts)


def _all_clean(prompts: Sequence[str]) -> bool:
    """Whether all are their own stems, and no two the same file: looked at together, as there may be a million."""
    if max(map(len, prompts), default=0) > MAX_STEM_BYTES:
        return False
    text = "\n".join(prompts)
    if not _PLAIN_LINES.fullmatch(text) or text.count("\n") >= max(1, len(prompts)):
        return False
    lowered = text.lower()
    if lowered != text and len(set(lowered.split("\n"))) != len(prompts):
        return False
    starts = {start.upper() for start in {prompt[:3] for prompt in prompts}}
    if any(start[:1] in ("", "-", ".", " ") for start in starts) or " " in {prompt[-1:] for prompt in prompts}:
        return False
    odd = starts & {name[:3] for name in _RESERVED}
    return not odd or all(clean_stem(prompt) == prompt for prompt in prompts if prompt[:3].upper() in odd)


def run_folder(given: str | Path | None, name: str, identity: Any) -> Path:
    """Returns the folder given, else one under outputs/ named after a pair and its `identity`, JSON data."""
    if given is not None:
        return Path(given)
    digest = hashlib.sha256()
    for part in _dumped(identity):
        digest.update(part.encode())
    clean = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:80].strip(".")
    return Path("outputs") / f"{clean}-{digest.hexdigest()[:8]}"


def _dumped(value: Any) -> Iterator[str]:
    """The JSON text of a value, long lists bit by bit."""
    if not isinstance(value, list | tuple):
        yield json.dumps(value, sort_keys=True)
        return
    texts = set(map(type, value)) == {str}
    yield "["
    if texts:
        for start in range(0, len(value), BLOCK):
            yield (", " if start else "") + json.dumps(value[start : start + BLOCK])[1:-1]
    else:
        for number, item in enumerate(value):
            yield ", " if number else ""
            yield from _dumped(item)
    yield "]"


def clean_stem(prompt: str, max_bytes: int = MAX_STEM_BYTES) -> str:
    """Returns the prompt if it can be a file name, else the nearest text that can; at most `max_bytes` of UTF-8."""
    plain = _PLAIN.fullmatch(prompt) is not None
    text = prompt if plain else "".join("_" if _hostile(character) else character for character in prompt)
    text = text.strip()
    if text.startswith((".", "-", "~")):
        text = "_" + text[1:]
    if text.split(".")[0].rstrip(" ").upper() in _RESERVED:
        text = "_" + text
    encoded = text.encode("utf-8", "replace")[:max_bytes]
    return encoded.decode("utf-8", "ignore").rstrip() or "_"


def _hostile(character: str) -> bool:
    # Cc: control; Zl, Zp: line and paragraph separators; Cs: half a surrogate pair; the rest of the test:
    # bidirectional controls.
    if character in _FORBIDDEN or unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs"):
        return True
    return unicodedata.bidirectional(character) in ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")


def _key(stem: str) -> str:
    if stem.isascii():
        return stem.casefold()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", stem).casefold())
