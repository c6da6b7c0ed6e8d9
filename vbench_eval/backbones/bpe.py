"""CLIP's byte-pair tokenizer, from the list of merges that CLIP and ViCLIP publish: the same ids in every version."""

from __future__ import annotations

import gzip
import html
import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from vbench_eval.errors import UserError, malformed
from vbench_eval.files import read_json

MERGES = 49152 - 256 - 2  # of the published list, which is longer
START, END = "<|startoftext|>", "<|endoftext|>"
_PIECES = rf"{re.escape(START)}|{re.escape(END)}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+"
_QUOTES = {ord(curly): straight for straight, some in {"'": "‘’‚‛ʼ", '"': "“”„‟"}.items() for curly in some}


class BytePairTokenizer:
    """Texts to token ids: cleaned, in lower case, cut into pieces, their bytes merged by rank."""

    def __init__(self, merges: Sequence[tuple[str, str]]) -> None:
        import regex  # which transformers brings

        symbols = _byte_symbols()
        self._symbols = dict(enumerate(symbols))
        ordered = sorted(symbols, key=_place)
        words = [*ordered, *(symbol + "</w>" for symbol in ordered), *map("".join, merges), START, END]
        self._ids = {word: number for number, word in enumerate(words)}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._pieces = regex.compile(_PIECES, regex.IGNORECASE)
        self._known: dict[str, list[int]] = {START: [self._ids[START]], END: [self._ids[END]]}

    def __len__(self) -> int:
        return len(self._ids)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without those of its start and end."""
        return [number for piece in self._pieces.findall(cleaned_text(text)) for number in self._of(piece)]

    def __call__(self, texts: Iterable[str], length: int) -> Tensor:
        """Returns ids `[N, length]`: start, text, end, zeros; a longer text is cut and ends with the end all the same.

        The end has the largest of all ids, by which the networks find it.
        """
        rows = [[self._ids[START], *self.encode(text), self._ids[END]] for text in texts]
        found = torch.zeros(len(rows), length, dtype=torch.long)
        for row, ids in zip(found, rows, strict=True):
            ids = ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]
            row[: len(ids)] = torch.tensor(ids)
        return found

    def _of(self, piece: str) -> list[int]:
        if piece not in self._known:
            letters = [self._symbols[byte] for byte in piece.encode("utf-8")]
            self._known[piece] = [self._ids[word] for word in self._merged([*letters[:-1], letters[-1] + "</w>"])]
        return self._known[piece]

    def _merged(self, word: list[str]) -> list[str]:
        while len(word) > 1:
            best = min(pairwise(word), key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            after: list[str] = []
            for symbol in word:
                if after and (after[-1], symbol) == best:
                    after[-1] = "".join(best)
                else:
                    after.append(symbol)
            word = after
        return word


def cleaned_text(text: str) -> str:
    """Returns the text as CLIP reads it: composed letters, straight quotes, HTML's entities resolved, single spaces,
    lower case.

    VBench cleans with ftfy, which also repairs text that was decoded wrongly; prompts are taken as they stand here.
    """
    text = "".join(unicodedata.normalize("NFKC", letter) if _compatible(letter) else letter for letter in text)
    text = unicodedata.normalize("NFC", text.translate(_QUOTES))
    return re.sub(r"\s+", " ", html.unescape(html.unescape(text)).strip()).strip().lower()


def read_tokenizer(path: Path) -> BytePairTokenizer:
    """Returns the tokenizer of a list of merges (bpe_simple_vocab_16e6.txt.gz), or of a CLIP's folder that has one.

    Raises UserError if there is no list of merges of the published length.
    """
    remedy = "give bpe_simple_vocab_16e6.txt.gz as published, or the folder of a CLIP with its tokenizer"
    with malformed(str(path), remedy):
        if path.is_dir() and (path / "merges.txt").is_file():
            lines = (path / "merges.txt").read_text(encoding="utf-8").split("\n")
        elif path.is_dir():
            merges = read_json(path / "tokenizer.json", "tokenizer")["model"]["merges"]
            lines = ["#version", *(merge if isinstance(merge, str) else " ".join(merge) for merge in merges)]
        else:
            try:
                lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
            except gzip.BadGzipFile as error:
                raise ValueError(str(error)) from error
    pairs = [tuple(line.split()) for line in lines[1 : MERGES + 1]]
    if len(pairs) != MERGES or any(len(pair) != 2 for pair in pairs):
        raise UserError(f"{path} holds no list of CLIP's {MERGES} merges; {remedy}")
    return BytePairTokenizer([(first, second) for first, second in pairs])


def _byte_symbols() -> list[str]:
    """One visible character per byte: itself where it is one, else one from 256 on, in order."""
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]


def _place(symbol: str) -> int:
    return ord(symbol)  # the vocabulary begins with the bytes that show, then those that do not


def _compatible(letter: str) -> bool:
    """Whether ftfy writes the letter otherwise: a ligature of Latin letters, or one of another width."""
    return "\ufb00" <= letter <= "\ufb06" or "\uff01" <= letter <= "\uffee" or letter == "\u3000"
