"""Flags that several programs have, and the prompts that they come to (imports no torch)."""

from __future__ import annotations

import argparse

from w2sd_video.commands.options import DTYPES
from w2sd_video.commands.prompts import read_prompts, without_repeats
from w2sd_video.runs.progress import Progress


def add_prompts(what: argparse._ArgumentGroup) -> None:
    """Adds --prompt and --prompts."""
    what.add_argument("--prompt", action="append", metavar="TEXT", help="a prompt; may be given several times")
    what.add_argument("--prompts", metavar="FILE", help="a file of prompts: .txt, .csv or .json, as for w2sd-video")


def add_machine(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds --device and --dtype, in the group that is returned."""
    machine = parser.add_argument_group("the machine")
    machine.add_argument("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    machine.add_argument(
        "--dtype", metavar="DTYPE", help=f"{', '.join(DTYPES)} (default: auto: float32 on a CPU, else 16 bits)"
    )
    return machine


def add_output(parser: argparse.ArgumentParser, kind: str, about: str) -> None:
    """Adds --output (of a `kind`, FOLDER or FILE), --format, --quiet and --dry-run."""
    out = parser.add_argument_group("output")
    out.add_argument("--output", metavar=kind, help=about)
    out.add_argument(
        "--format", choices=("text", "json"), default="text", help="how to report on standard output (default: text)"
    )
    out.add_argument("--quiet", action="store_true", help="no progress, only failures")
    out.add_argument("--dry-run", action="store_true", help="print what would be done and written; load no model")


def gathered_prompts(arguments: argparse.Namespace, progress: Progress) -> tuple[str, ...]:
    """Returns the prompts of --prompt and --prompts, each once, and says so where some repeat.

    Raises UserError for a file that cannot be used.
    """
    prompts = list(arguments.prompt or [])
    if arguments.prompts is not None:
        prompts += read_prompts(arguments.prompts)
    if repeated := len(prompts) - len(without_repeats(prompts)):
        progress.note(
            f"{repeated} repeated prompts are made once: a repeat would be the same picture (--num-pictures makes more)"
        )
    return without_repeats(prompts)
