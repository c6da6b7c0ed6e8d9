"""Pairs of prompts: what the strong side is told, and what the weak one is told in its place (imports no torch)."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from w2sd_video.errors import UserError
from w2sd_video.prompts import check_prompt, read_text

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
