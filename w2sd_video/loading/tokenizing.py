"""How much of a text the text encoders of a pipeline read: from tokenizer files alone (no torch), or from a pipeline.

Text encoders read so many tokens and no more; what comes after is cut off without a word.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2sd_video.errors import UserError, malformed
from w2sd_video.loading.describe import Description
from w2sd_video.loading.files import read_json

TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
LENGTHS = {  # tokens that T5 reads where a call says nothing, by the pipeline's class
    "FluxPipeline": 512,
    "StableDiffusion3Pipeline": 256,
    "WanPipeline": 512,
}
CLIP_PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
LEAST_WORDS = 3  # of a vocabulary that is more than its special tokens
MOST_SAID, MOST_READ = 10, 10_000  # of long texts

Tokens = tuple[Sequence[int], Sequence[tuple[int, int]]]  # their ids, and where each lies in the text


@dataclass(frozen=True)
class TextReader:
    """One text encoder's tokenizer, with `words` in all: of a text it reads `limit` tokens, `special` ones included."""

    limit: int
    special: int
    tokens: Callable[[str], Tokens]
    words: int = LEAST_WORDS

    def read_to(self, text: str) -> int:
        """Returns how many characters of a text are read."""
        if len(text.encode("utf-8", "replace")) + self.special < self.limit:  # no token is shorter than a byte
            return len(text)
        spans = self.tokens(text)[1]
        return len(text) if len(spans) + self.special <= self.limit else spans[self.limit - self.special][0]

    def reads(self, text: str) -> list[int]:
        """Returns the ids of the tokens that are read."""
        return list(self.tokens(text)[0][: self.limit - self.special])


Readers = Sequence[TextReader]


def cut_off(readers: Readers, text: str) -> tuple[str, int] | None:
    """Returns what none of the readers reads of a text, and how many tokens they read; None where one reads it all, or
    there is none.
    """
    ends = [(reader.read_to(text), reader.limit) for reader in readers]
    end, limit = max(ends, default=(len(text), 0))
    return (text[end:].strip(), limit) if end < len(text) else None


def cut_notes(sides: Iterable[Readers | None], texts: Iterable[str]) -> list[str]:
    """Returns a sentence for each text that a side does not read to its end, with what is cut off; of many the first
    few, and how many more there are. A side of None is not known.
    """
    known = [readers for readers in sides if readers]
    least = min((reader.limit for readers in known for reader in readers), default=0)
    long = (text for text in dict.fromkeys(texts) if 4 * len(text) + 2 > least)
    found = []
    for text in itertools.islice(long, MOST_READ) if known else ():
        cut = next(filter(None, (cut_off(readers, text) for readers in known)), None)
        if cut is not None:
            found.append(
                f"a prompt has more than the {cut[1]} tokens that its text encoder reads; cut off {text!r}: {cut[0]!r}"
            )
    more = len(found) - MOST_SAID
    return found if more <= 0 else [*found[:MOST_SAID], f"so have {more} more prompts, whose ends are cut off too"]


def read_alike(strong: Readers, weak: Readers, pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Returns the pairs of texts, of the strong and the weak side, that are one when they are read."""
    least = min((reader.limit for reader in (*strong, *weak)), default=0)
    long = (pair for pair in pairs if 4 * min(map(len, pair)) + 2 > least)
    return [
        (ours, theirs)
        for ours, theirs in itertools.islice(long, MOST_READ)
        if len(strong) == len(weak) and all(a.reads(ours) == b.reads(theirs) for a, b in zip(strong, weak, strict=True))
    ]


def readers_of(files: Description, length: int | None = None) -> list[TextReader] | None:
    """Returns the tokenizers of a folder (of a single file: of its configs); None where one is not known from its files
    alone. `length` is the call's `max_sequence_length`.

    Raises:
        UserError: a tokenizer's file that is damaged.
    """
    if files.configs is None or files.kind == "network":
        return None
    readers = []
    for name in TOKENIZERS:
        folder = files.configs / name
        if not folder.is_dir():
            continue
        file = folder / "tokenizer_config.json"
        settings = read_json(file) if file.is_file() else {}
        clip = "CLIP" in str(settings.get("tokenizer_class", "CLIP" if (folder / "merges.txt").is_file() else ""))
        limit = settings.get("model_max_length") if clip else length or LENGTHS.get(str(files.class_name))
        with malformed(str(folder), "download the folder again"):
            reader = _reader(folder, limit, clip)
        if reader is None:
            return None
        encoder = files.part(name.replace("tokenizer", "text_encoder")) or {}
        check_vocabulary(name, files.given, reader.words, encoder.get("vocab_size") if clip else None)
        readers.append(reader)
    return readers


def check_vocabulary(part: str, name: str, words: int, known: Any) -> None:
    """Raises `UserError` for a tokenizer without words, or with more than its text encoder knows (None: not known)."""
    if words < LEAST_WORDS or (known is not None and words > known):
        raise UserError(
            f"the {part} of {name} has {words} tokens and its text encoder knows {known}; download the folder again "
            "with vocab.json and merges.txt"
        )


def _reader(folder: Path, limit: Any, clip: bool) -> TextReader | None:
    from tokenizers import Tokenizer

    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 3:
        return None
    try:
        if (folder / "tokenizer.json").is_file():
            made: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        elif clip and (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            made = _clip(folder)
        else:
            return None
    except Exception as error:  # tokenizers raises nothing narrower
        raise ValueError(f"{error}") from error
    made.no_truncation()
    made.no_padding()

    def tokens(text: str) -> Tokens:
        found = made.encode(text, add_special_tokens=False)
        return found.ids, found.offsets

    special = made.num_special_tokens_to_add(False) or (2 if clip else 1)
    return TextReader(limit, special, tokens, made.get_vocab_size())


def _clip(folder: Path) -> Any:
    """CLIP's tokenizer of a vocabulary and its merges, as transformers makes it."""
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    files = str(folder / "vocab.json"), str(folder / "merges.txt")
    made: Any = Tokenizer(BPE.from_file(*files, end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    made.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    pieces = pre_tokenizers.Split(Regex(CLIP_PIECES), behavior="removed", invert=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([pieces, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return made


def readers_of_pipeline(pipe: Any, length: int | None = None) -> list[TextReader]:
    """Returns the tokenizers of a pipeline in memory, those that tell where a token lies."""
    readers = []
    for name in TOKENIZERS:
        tokenizer = getattr(pipe, name, None)
        if tokenizer is None or not getattr(tokenizer, "is_fast", False):
            continue
        limit = tokenizer.model_max_length
        if "CLIP" not in type(tokenizer).__name__:  # T5 reads as much as the call says
            default = inspect.signature(type(pipe).__call__).parameters.get("max_sequence_length")
            limit = length or (default.default if default is not None else limit)
        readers.append(TextReader(limit, tokenizer.num_special_tokens_to_add(), _tokens_of(tokenizer)))
    return readers


def _tokens_of(tokenizer: Any) -> Callable[[str], Tokens]:
    def tokens(text: str) -> Tokens:
        found = tokenizer(text, add_special_tokens=False, truncation=False, return_offsets_mapping=True, verbose=False)
        return found["input_ids"], found["offset_mapping"]

    return tokens
