"""Prompts and pairs of prompts from files: read strictly, refused with the place of the fault (imports no torch)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from w2sd_video.errors import UserError

SUFFIXES = (".txt", ".csv", ".json")
KEYS = ("prompt", "prompt_en")  # "prompt_en" is what VBench's own prompt list calls it
MAX_BYTES = 64 * 2**20
MAX_CHARACTERS = 20_000  # of one prompt: no text encoder here reads more than 512 tokens
OF_ALL = ("seed", "steps", "guidance", "height", "width", "fps", "num_frames", "negative_prompt", "lora")
FLAGS = {  # columns that would be settings of one row, and what sets them for all
    **{name: f"--{name.replace('_', '-')}" for name in OF_ALL},
    **dict.fromkeys(("guidance_scale", "cfg"), "--guidance"),
    **dict.fromkeys(("raw", "weak", "weak_prompt"), "--prompt-pairs FILE"),
}
Pairs = Sequence[tuple[str, str]]
HEADERS = (["refined", "raw"], ["strong", "weak"])


def read_prompts(path: str | Path) -> tuple[str, ...]:
    """Returns the prompts of a UTF-8 file in their order, repeats included.

    - `.txt`: one prompt a line; blank lines and lines starting with `#` are skipped (a prompt that starts with `#`
      needs csv or json).
    - `.csv`: a header line with a column `prompt` (or `prompt_en`).
    - `.json`: a list of strings, or of objects with `prompt` (or `prompt_en`).

    Other columns and keys are labels and ignored, but for those of settings (`seed`), which are refused by name.

    A byte-order mark is accepted. Raises UserError, naming the line or the byte, for a file that cannot be read, is
    empty, binary, not UTF-8, not of that shape, or holds no prompt.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(
            f"prompt file {path}: its name ends in {repr(suffix) if suffix else 'nothing'}; "
            f"use one of {', '.join(SUFFIXES)}"
        )
    text = read_text(path)
    prompts = _lines(text) if suffix == ".txt" else ()
    if not prompts or max(map(len, prompts)) > MAX_CHARACTERS:  # one by one, with the place of the fault
        parse = {".txt": _numbered, ".csv": _table, ".json": _list}[suffix]
        prompts = tuple(check_prompt(prompt, f"{path}, {place}") for prompt, place in parse(text, path))
    if not prompts:
        raise UserError(
            f"prompt file {path} holds no prompt; write at least one (see --help for the three file formats)"
        )
    return prompts


def read_text(path: Path) -> str:
    """Returns the text of a file of prompts; raises UserError if it cannot be read, is empty, binary or not UTF-8."""
    return _decode(_read(path), path)


def check_prompt(prompt: str, where: str) -> str:
    """Returns the prompt if it can be used, else raises UserError saying where it stands."""
    if not prompt.strip():
        raise UserError(f"{where}: the prompt is empty; write some text or leave it out")
    if len(prompt) > MAX_CHARACTERS:
        raise UserError(f"{where}: the prompt has {len(prompt)} characters; at most {MAX_CHARACTERS} are taken")
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: character {error.start} of the prompt is not valid Unicode text; write it as UTF-8"
        ) from None
    return prompt


def _usable(prompts: Sequence[str]) -> bool:
    """Whether `check_prompt` takes all of them, of which there may be a million."""
    try:
        "".join(prompts).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return all(map(str.strip, prompts)) and max(map(len, prompts), default=0) <= MAX_CHARACTERS


def without_repeats(prompts: Iterable[str]) -> tuple[str, ...]:
    """Returns the prompts with only the first of any exact repeat kept: a repeat would be the same video (same noise,
    same text).
    """
    given = tuple(prompts)
    return given if len(set(given)) == len(given) else tuple(dict.fromkeys(given))


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
    prompts: Sequence[str], pairs: Pairs, weak_prompt: str | None, default: Sequence[str], preset: str
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
        found = tuple(prompts)
        for number, prompt in enumerate(() if _usable(found) else found, start=1):
            check_prompt(prompt, f"prompt {number}")
    elif default:
        found = tuple(default)
    else:
        raise UserError(f"preset {preset!r} has no prompts of its own; give --prompt TEXT or --prompts FILE")
    if weak_prompt is None:
        return found, {}
    return found, {prompt: weak_prompt for prompt in found if prompt != check_prompt(weak_prompt, "the weak prompt")}


def _read(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise UserError(f"prompt file {path} is no file; give the path of an existing file")
        if path.stat().st_size > MAX_BYTES:
            raise UserError(
                f"prompt file {path} has {path.stat().st_size} bytes; at most {MAX_BYTES} are read; give a prompt file"
            )
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"prompt file {path} cannot be read: {error.strerror}; give the path of an existing file"
        ) from None


def _decode(data: bytes, path: Path) -> str:
    if not data:
        raise UserError(f"prompt file {path} is empty; write at least one prompt")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"prompt file {path} is UTF-16 (byte 0 is 0x{data[0]:02x}); save it as UTF-8")
    zero = data.find(b"\0")
    if zero >= 0:
        raise UserError(
            f"prompt file {path} is binary: line {_line(data, zero)} (byte {zero}) holds a NUL; give a UTF-8 text file"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        offset = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        raise UserError(
            f"prompt file {path} is not UTF-8: line {_line(data, offset)} (byte {offset}) holds 0x{data[offset]:02x}; "
            "save it as UTF-8"
        ) from None


def _line(data: bytes, offset: int) -> int:
    return data.count(b"\n", 0, offset) + 1


def _split(text: str) -> list[str]:
    """The lines of a text, whatever system wrote it."""
    return (text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text).split("\n")


def _lines(text: str) -> tuple[str, ...]:
    return tuple([line for line in map(str.strip, _split(text)) if line and line[0] != "#"])


def _numbered(text: str, path: Path) -> Iterable[tuple[str, str]]:
    for number, line in enumerate(map(str.strip, _split(text)), start=1):
        if line and line[0] != "#":
            yield line, f"line {number}"


def _check_columns(names: Iterable[str], where: str) -> None:
    for name in names:
        if flag := FLAGS.get(name.strip().lower().replace(" ", "_").replace("-", "_")):
            raise UserError(
                f"prompt file {where}: {name!r} would be a setting of one prompt, which a prompt file cannot have; "
                f"leave it out and give {flag}, in a run of its own for each value"
            )


def _table(text: str, path: Path) -> Iterable[tuple[str, str]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        column = next((header.index(key) for key in KEYS if key in header), None)
        if column is None:
            raise UserError(
                f"prompt file {path}, line 1: the columns are {', '.join(header) or 'none'}; one must be called prompt"
            )
        _check_columns(header, f"{path}, line 1")
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) <= column:
                raise UserError(
                    f"prompt file {path}, line {reader.line_num}: {len(row)} columns; the prompt is column {column + 1}"
                )
            yield row[column].strip(), f"line {reader.line_num}"
    except csv.Error as error:
        raise UserError(
            f"prompt file {path}, line {reader.line_num}: {error}; quote text that holds commas or quotes"
        ) from None


def _list(text: str, path: Path) -> Iterable[tuple[str, str]]:
    try:
        data: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"prompt file {path}, line {error.lineno} column {error.colno}: not JSON: {error.msg}"
        ) from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"prompt file {path}: {error}; write a list of strings") from None
    except RecursionError:
        raise UserError(f"prompt file {path}: nested too deeply; write a list of strings") from None
    if not isinstance(data, list):
        raise UserError(
            f"prompt file {path}: the JSON is {_kind(data)}; it must be a list of strings or of objects with a prompt"
        )
    for number, entry in enumerate(data, start=1):
        value = next((entry[key] for key in KEYS if key in entry), None) if isinstance(entry, dict) else entry
        if not isinstance(value, str):
            raise UserError(
                f"prompt file {path}, entry {number} is {_kind(entry)} without a text prompt; "
                "write a string or an object with a prompt"
            )
        if isinstance(entry, dict):
            _check_columns(entry, f"{path}, entry {number}")
        yield value.strip(), f"entry {number}"


def _kind(value: Any) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null")
