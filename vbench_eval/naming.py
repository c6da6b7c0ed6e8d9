"""File names of videos: VBench's "<prompt>-<index>.mp4" read back, and which prompts cannot be a name."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

SUFFIXES = (".mp4", ".mov", ".webm", ".mkv", ".m4v", ".avi", ".gif", ".webp", ".png")
MAX_NAME_BYTES = 255  # of the usual file systems
_INDEX = re.compile(r"(?P<prompt>.+)-(?P<index>[0-9]{1,18})\Z", re.DOTALL)
_DIGEST = re.compile(r".*~(?P<digest>(?:[0-9a-f]{8})+)\Z", re.DOTALL)
_DEVICES = frozenset(["CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))])


@dataclass(frozen=True)
class ParsedName:
    """What a file name says: `stem` is the name without its suffix, `index` is None where it ends in no "-<digits>"."""

    stem: str
    prompt: str
    index: int | None
    suffix: str


def parse_name(name: str) -> ParsedName:
    """Returns the parts of a file's or folder's name, by VBench's rule: the suffix off, then a trailing "-<digits>".

    Only the suffix of a video counts as one: a folder of frames called "Mt. Fuji-0" is not cut at its dot. The text
    is returned in the normal form NFC, since some file systems hand names back decomposed.
    """
    text = nfc(name)
    suffix = next((suffix for suffix in SUFFIXES if text.lower().endswith(suffix)), "")
    stem = text[: len(text) - len(suffix)] if len(text) > len(suffix) else text
    suffix = text[len(stem) :]
    match = _INDEX.match(stem)
    if match is None:
        return ParsedName(stem, stem, None, suffix)
    return ParsedName(stem, match["prompt"], int(match["index"]), suffix)


def nfc(text: str) -> str:
    """Returns the text in Unicode normal form NFC: "façades" is the same prompt however its ç is spelled."""
    return unicodedata.normalize("NFC", text)


def name_key(text: str) -> str:
    """Returns what two names share if a file system that ignores case or normal form takes them for one."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def collisions(prompts: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Returns the groups of different prompts that are one file name on some file system, in order of appearance."""
    groups: dict[str, dict[str, None]] = {}
    for prompt in prompts:
        groups.setdefault(name_key(prompt), {})[prompt] = None
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def not_a_name(prompt: str, *, room: int = len("-00.mp4")) -> str | None:
    """Returns why "<prompt>-<index>.mp4" cannot be a file name everywhere, or None if it can.

    `room` is how many bytes index and suffix need. A generator has to give such a prompt another name, which only its
    results.jsonl or a prompt file (file name -> prompt) can lead back to the prompt.
    """
    if bad := sorted({character for character in prompt if character in '/\\<>:"|?*'}):
        return f"it holds {' '.join(bad)}"
    # Cc: control; Zl, Zp: line and paragraph separators; Cs: half a surrogate pair
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs") for character in prompt):
        return "it holds a control character or a line break"
    if not prompt or prompt != prompt.strip():
        return "it is empty, or begins or ends with a space"
    if prompt.startswith((".", "-", "~")):
        return f"it begins with {prompt[0]!r}"
    if prompt.split(".")[0].rstrip().upper() in _DEVICES:
        return f"{prompt.split('.')[0]!r} is a device of Windows"
    if (size := len(prompt.encode("utf-8")) + room) > MAX_NAME_BYTES:
        return f"its file name has {size} bytes; at most {MAX_NAME_BYTES} are allowed"
    return None


class KnownPrompts:
    """Finds the prompt that a file name means among those that are known.

    A name may hold the prompt itself (in any normal form, and in another case where that names one prompt only), a
    short id ("p0007-0.mp4"), or a shortened text with "~" and the start of the prompt's SHA-256, which is how
    scripts/generate_video.py names what cannot be a file name.
    """

    def __init__(self, prompts: Iterable[str], ids: Mapping[str, str] | None = None) -> None:
        self._exact = {nfc(prompt): prompt for prompt in prompts}
        self._ids = dict(ids or {})
        self._loose: dict[str, list[str]] = {}
        self._digests = {_sha256(prompt): prompt for prompt in self._exact.values()}
        for prompt in self._exact.values():
            self._loose.setdefault(name_key(prompt), []).append(prompt)

    @property
    def prompts(self) -> tuple[str, ...]:
        return tuple(self._exact.values())

    def find(self, name: str) -> tuple[str, int | None] | None:
        """Returns the prompt and the index that the name gives (None if it has none), or None if no prompt fits.

        "<prompt>-<index>" is tried before a prompt that itself ends in "-<digits>", as VBench reads names.
        """
        parsed = parse_name(name)
        candidates: list[tuple[str, int | None]] = [(parsed.prompt, parsed.index)]
        if parsed.index is not None:
            candidates.append((parsed.stem, None))
        for search in (self._exact.get, self._ids.get, self._by_digest, self._by_case):
            for text, index in candidates:
                if (prompt := search(text)) is not None:
                    return prompt, index
        return None

    def _by_digest(self, text: str) -> str | None:
        match = _DIGEST.match(text)
        if match is None:
            return None
        found = [prompt for digest, prompt in self._digests.items() if digest.startswith(match["digest"])]
        return found[0] if len(found) == 1 else None

    def _by_case(self, text: str) -> str | None:
        found = self._loose.get(name_key(text), [])
        return found[0] if len(found) == 1 else None


def _sha256(prompt: str) -> str:
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()
