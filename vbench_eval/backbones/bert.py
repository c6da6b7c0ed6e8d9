"""BERT that also looks at something else, its word pieces, and the beam search that writes with it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vbench_eval.errors import UserError
from vbench_eval.files import read_bytes

EPSILON = 1e-12
CLS, SEP, UNKNOWN, PADDING = "[CLS]", "[SEP]", "[UNK]", "[PAD]"
DECODER, ENCODER = "[DEC]", "[ENC]"  # the two that Tag2Text adds behind BERT's own


@dataclass(frozen=True)
class BertSizes:
    """Those of the published text networks; `seen` is the width of what it looks at."""

    vocabulary: int = 30524
    width: int = 768
    layers: int = 12
    heads: int = 12
    seen: int = 768
    positions: int = 512


class _Heads(nn.Module):
    def __init__(self, width: int, seen: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(seen, width), nn.Linear(seen, width)

    def forward(self, x: Tensor, seen: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (
            layer(of).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, of in ((self.query, x), (self.key, seen), (self.value, seen))
        )
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class _Sum(nn.Module):
    """A linear layer beside a skip, normalised."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(inputs, outputs), nn.LayerNorm(outputs, eps=EPSILON)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x) + skip)


class _Attention(nn.Module):
    def __init__(self, width: int, seen: int, heads: int) -> None:
        super().__init__()
        self.self, self.output = _Heads(width, seen, heads), _Sum(width, width)

    def forward(self, x: Tensor, seen: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.output(self.self(x, seen, mask), x)


class BertLayer(nn.Module):
    """Attention to itself (if `alone`), to something else, and two linear layers."""

    def __init__(self, sizes: BertSizes, *, alone: bool = True) -> None:
        super().__init__()
        width = sizes.width
        self.attention = _Attention(width, width, sizes.heads) if alone else None
        self.crossattention = _Attention(width, sizes.seen, sizes.heads)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, 4 * width)})
        self.output = _Sum(4 * width, width)

    def forward(self, x: Tensor, seen: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.attention is not None:
            x = self.attention(x, x, mask)
        x = self.crossattention(x, seen)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class Bert(nn.Module):
    """Token ids, and something to look at, to features."""

    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(sizes.vocabulary, sizes.width, padding_idx=0),
                "position_embeddings": nn.Embedding(sizes.positions, sizes.width),
                "LayerNorm": nn.LayerNorm(sizes.width, eps=EPSILON),
            }
        )
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(BertLayer(sizes) for _ in range(sizes.layers))})

    def forward(self, tokens: Tensor, seen: Tensor, *, causal: bool = False, there: Tensor | None = None) -> Tensor:
        """Returns features `[B, n, width]` of tokens `[B, n]` that look at `seen [B, m, seen]`.

        With `causal` each looks at itself and those before it; `there [B, n]` says which tokens there are to look at.
        """
        length = tokens.shape[1]
        words = self.embeddings["word_embeddings"](tokens)
        x = self.embeddings["LayerNorm"](words + self.embeddings["position_embeddings"].weight[:length])
        mask = None if there is None else there[:, None, None, :]
        if causal:
            mask = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
        for layer in self.encoder["layer"]:
            x = layer(x, seen, mask)
        return x


class WordPieces:
    """BERT's uncased tokenizer: lower case, no accents, words and marks, each cut into the longest known pieces."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = (*words, DECODER, ENCODER)
        self._ids = {word: number for number, word in enumerate(self._words)}
        self.first, self.end = self._ids[CLS], self._ids[SEP]
        self.start, self.encoder = self._ids[DECODER], self._ids[ENCODER]
        self._special = {self._ids[word] for word in (CLS, SEP, UNKNOWN, PADDING, DECODER, ENCODER)}

    def __len__(self) -> int:
        return len(self._words)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without any of its start and end."""
        plain = "".join(letter for letter in unicodedata.normalize("NFD", text.lower()) if not _accent(letter))
        spaced = "".join(f" {letter} " if _mark(letter) else letter for letter in plain)
        return [number for word in spaced.split() for number in self._pieces(word)]

    def _pieces(self, word: str) -> list[int]:
        found: list[int] = []
        start = 0
        while start < len(word):
            for stop in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:stop]
                if piece in self._ids:
                    found.append(self._ids[piece])
                    start = stop
                    break
            else:
                return [self._ids[UNKNOWN]]
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids; marks that close are joined to what stands before them."""
        text = " ".join(self._words[number] for number in ids if number not in self._special).replace(" ##", "")
        return re.sub(r" ([.?!,])| ' | (n't|'m|'s|'ve|'re)", lambda m: m[1] or m[2] or "'", text).strip()


def _accent(letter: str) -> bool:
    return unicodedata.category(letter) == "Mn"


def _mark(letter: str) -> bool:
    return unicodedata.category(letter).startswith("P") or (letter.isascii() and letter in "$+<=>^`|~")


def read_vocabulary(path: Path) -> WordPieces:
    """Returns the tokenizer of bert-base-uncased's vocab.txt; raises UserError for a file without its special words."""
    words = read_bytes(path, "vocabulary").decode("utf-8", errors="replace").splitlines()
    if absent := [word for word in (PADDING, UNKNOWN, CLS, SEP) if word not in words]:
        raise UserError(f"vocabulary {path} has no {', '.join(absent)}; give the vocab.txt of bert-base-uncased")
    return WordPieces(words)


@dataclass
class _Found:
    """The best finished texts of one picture: their mean log-likelihood per token, and their ids."""

    most: int
    texts: list[tuple[float, list[int]]]
    done: bool = False

    def add(self, likelihood: float, ids: list[int]) -> None:
        self.texts.append((likelihood / len(ids), ids))
        if len(self.texts) > self.most:
            self.texts.remove(min(self.texts, key=lambda text: text[0]))

    @property
    def worst(self) -> float:
        return min(score for score, _ in self.texts)


def beam_search(
    logits: Callable[[Tensor], Tensor], prompt: Tensor, *, beams: int, shortest: int, longest: int, end: int
) -> list[list[int]]:
    """Returns the likeliest text for each row of `prompt [B, n]`, as transformers 4.33 finds it with those beams.

    `logits` gives those of the next token, `[B * beams, vocabulary]`, of `[B * beams, n]` ids. A text's likelihood is
    its log-likelihood per token, those of the prompt counted; one ends at `end`, not before it has `shortest` tokens,
    or at `longest`.
    """
    batch = len(prompt)
    ids = prompt.repeat_interleave(beams, 0)
    scores = torch.full((batch, beams), -1e9, device=prompt.device)  # only the first beam counts at the beginning
    scores[:, 0] = 0
    found = [_Found(beams, []) for _ in range(batch)]
    while ids.shape[1] < longest and not all(one.done for one in found):
        likelihoods = logits(ids).float().log_softmax(-1)
        if ids.shape[1] < shortest:
            likelihoods[:, end] = -torch.inf
        words = likelihoods.shape[1]
        best = (likelihoods.view(batch, beams, words) + scores[:, :, None]).flatten(1).topk(2 * beams)
        rows, tokens, after = [], [], []
        length = ids.shape[1] + 1
        for number, (values, places) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            kept: list[tuple[int, int, float]] = []
            for rank, (value, place) in enumerate(zip(values, places, strict=True)):
                row, token = number * beams + place // words, place % words
                if token != end:
                    kept.append((row, token, value))
                elif rank < beams and not found[number].done:
                    found[number].add(value, ids[row].tolist())
                if len(kept) == beams:
                    break
            one = found[number]
            one.done = one.done or (len(one.texts) == beams and one.worst >= values[0] / length)
            rows += [row for row, _, _ in kept]
            tokens += [token for _, token, _ in kept]
            after += [value for _, _, value in kept]
        ids = torch.cat([ids[rows], torch.tensor(tokens, device=ids.device)[:, None]], dim=1)
        scores = torch.tensor(after, device=ids.device).view(batch, beams)
    for number, one in enumerate(found):
        for beam in range(beams):
            if not one.done:
                one.add(float(scores[number, beam]), ids[number * beams + beam].tolist())
    return [max(one.texts, key=lambda text: text[0])[1] for one in found]
