"""Pairs of prompts: what the strong side is told, and what the weak one is told in its place (imports no torch)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from w2sd_video.commands.prompts import check_prompt, read_text, without_repeats
from w2sd_video.errors import UserError
from w2sd_video.pair import ModelPair, check_pair

Pairs = Sequence[tuple[str, str]]
HEADERS = (["refined", "raw"], ["strong", "weak"])


def read_prompt_pairs(path: str | Path) -> tuple[tuple[str, str], ...]:
    """Returns the (refined, raw) prompts of a UTF-8 file of two columns, in their order.

    Columns are separated by commas in a `.csv` file and by tabs in any other. A first line "refined, raw" (or
    "strong, weak") is a header.

    Raises:
        UserError: naming the line, for a file that cannot be read, a row without exactly two prompts, a refined prompt
            with two raw ones, or no pair at all.
    """
    path = Path(path)
    comma = path.suffix.lower() == ".csv"
    kind = "commas" if comma else "tabs (a file separated by commas must end in .csv)"
    reader = csv.reader(
        io.StringIO(read_text(path), newline=""),
        delimiter="," if comma else "\t",
        quoting=csv.QUOTE_MINIMAL if comma else csv.QUOTE_NONE,
        strict=True,
    )
    found: dict[str, str] = {}
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if not any(cells) or (not found and [cell.lower() for cell in cells] in HEADERS):
                continue
            where = f"{path}, line {reader.line_num}"
            if len(cells) != 2:
                raise UserError(f"{where}: {len(cells)} columns; give two, refined and raw, separated by {kind}")
            refined, raw = (check_prompt(cell, where) for cell in cells)
            if found.setdefault(refined, raw) != raw:
                raise UserError(f"{where}: {refined!r} has another raw prompt further up; give each refined one once")
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}; quote text that holds commas or quotes") from None
    if not found:
        raise UserError(f"{path} holds no pair of prompts; write lines of two columns, refined and raw")
    return tuple(found.items())


def both_sides(
    prompts: Sequence[str], pairs: Pairs, weak_prompt: str | None, default: Sequence[str], *, preset: str
) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """Returns the strong side's prompts, each once, and the weak side's by those where they differ.

    `default` are the prompts of a `preset` where none are given.

    Raises:
        UserError: prompts given in two ways, none at all, or one that is empty.
    """
    if pairs:
        if prompts or weak_prompt is not None:
            raise UserError(
                "--prompt-pairs has the prompts of both sides; leave --prompt, --prompts, --weak-prompt out"
            )
        return tuple(dict(pairs)), {refined: raw for refined, raw in dict(pairs).items() if refined != raw}
    if prompts:
        found = tuple(check_prompt(p, f"prompt {n}") for n, p in enumerate(without_repeats(prompts), start=1))
    elif default:
        found = tuple(default)
    else:
        raise UserError(f"preset {preset!r} has no prompts of its own; give --prompt TEXT or --prompts FILE")
    if weak_prompt is None:
        return found, {}
    return found, {prompt: weak_prompt for prompt in found if prompt != check_prompt(weak_prompt, "the weak prompt")}


def check_gap(pair: ModelPair, raw_prompts: Mapping[str, str]) -> None:
    """Raises `UserError` for a pair whose sides differ in nothing, prompts included."""
    if not raw_prompts:
        check_pair(pair)
