"""Draw the paper's theory on exact Gaussian mixtures, and say where it agrees with what is measured.

python scripts/theory.py                                  every figure, into outputs/theory (a few minutes on 2 cores)
python scripts/theory.py --figure figure-12 zero-gap      some of them
python scripts/theory.py --list                           their names, and what each is about
"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from experiments.theory.catalogue import chosen

from w2sd_video.commands.command_line import EXIT_DONE, Parser, run_command


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="theory.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--figure", nargs="+", metavar="NAME", help="the figures to make (default: all; see --list)")
    parser.add_argument("--output", type=Path, default=Path("outputs/theory"), help="folder (default: outputs/theory)")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to report (default: text)")
    parser.add_argument("--list", action="store_true", help="print the figures and their claims; make none")
    return parser


def run(arguments: argparse.Namespace, words: list[str]) -> tuple[int, dict[str, Any]]:
    entries = chosen(arguments.figure)
    if arguments.list:
        listed = {name: {"source": entry.source, "claim": entry.claim} for name, entry in entries.items()}
        lines = [f"{name:14s} {entry.source}: {entry.claim}" for name, entry in entries.items()]
        return EXIT_DONE, {"figures": listed} if arguments.format == "json" else {"text": "\n".join(lines)}
    from experiments.theory.report import make_figures, text

    def told(name: str) -> None:
        if not arguments.quiet:
            print(f"making {name}", file=sys.stderr, flush=True)

    report = make_figures(entries, arguments.output, command=shlex.join(["theory.py", *words]), told=told)
    if arguments.format == "json":
        return EXIT_DONE, {"status": "done", **report}
    made = {**report, "figures": {name: report["figures"][name] for name in entries}}
    return EXIT_DONE, {"text": text(made)}


def main(words: list[str] | None = None) -> int:
    given = sys.argv[1:] if words is None else words
    return run_command(
        build_parser(), given, run, made="figures", room="The figures need little; close other programs."
    )


if __name__ == "__main__":
    raise SystemExit(main())
