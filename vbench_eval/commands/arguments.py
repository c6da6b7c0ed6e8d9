"""Flags that several verbs share, and how values are read from them (imports nothing heavy)."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable, Sequence
from typing import NoReturn

from vbench_eval.errors import UserError


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are told like every other refusal, in the format asked for."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; {self.prog} --help shows every flag")


def add_verb(
    subparsers: argparse._SubParsersAction, name: str, *, help: str, examples: str, aliases: tuple[str, ...] = ()
) -> Parser:
    """Adds a verb whose help ends with examples, and returns its parser."""
    parser: Parser = subparsers.add_parser(
        name,
        aliases=aliases,
        help=help,
        description=f"{help[0].upper()}{help[1:]}.",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    return parser


def add_output_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --format and --quiet, which every verb has."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        help="json: one summary on standard output and nothing else there (default: text)",
    )
    group.add_argument("--quiet", action="store_true", help="no progress and no notes, only failures")


def add_weight_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --cache and --offline, of the verbs that look for weights."""
    group = parser.add_argument_group("weights")
    group.add_argument(
        "--cache",
        metavar="FOLDER",
        help="where to look for weights first (default: $VBENCH_EVAL_CACHE, VBench's own cache, the hub's cache)",
    )
    group.add_argument("--offline", action="store_true", help="never touch the network")


def add_network_flags(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds --device, --dtype and --allow-pickle, of the verbs that run networks; returns the group of the machine."""
    machine = parser.add_argument_group("the machine")
    machine.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    machine.add_argument("--dtype", help="of the networks: float32, float16, bfloat16 (default: float32)")
    add_weight_flags(parser)
    parser.add_argument(
        "--allow-pickle", action="store_true", help="open weights that can run code: only if you trust them"
    )
    return machine


def add_place_flags(parser: argparse.ArgumentParser, *spellings: str) -> argparse._ArgumentGroup:
    """Adds --output (and other spellings of it) and --name, of the verbs that score; returns their group."""
    out = parser.add_argument_group("files")
    out.add_argument(
        "--output",
        *spellings,
        default="evaluation_results",
        metavar="FOLDER",
        help="where to write (default: evaluation_results)",
    )
    out.add_argument("--name", help="begins the names of the files (default: the folder's name)")
    return out


def positive(text: str) -> int:
    """Reads a whole number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return number


def listed(title: str, names: Iterable[str]) -> str:
    """Returns "title: a, b, c" in lines short enough for a help text."""
    return textwrap.fill(f"{title}: {', '.join(names)}", 118, subsequent_indent="  ", break_on_hyphens=False)


def table(rows: Sequence[tuple[str, ...]], *, indent: str = "  ") -> str:
    """Returns the rows with aligned columns; the last column is not padded."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)] if rows else []
    lines = [
        indent + "  ".join([cell.ljust(width) for cell, width in zip(row, widths, strict=False)] + [row[-1]])
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)
