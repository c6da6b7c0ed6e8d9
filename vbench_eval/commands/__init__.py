"""The command `w2sd-vbench`: one module per verb, and how every verb ends (imports nothing heavy)."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from vbench_eval import __version__
from vbench_eval.commands import compare, doctor, fetch, images, prompts, score, static_filter, total
from vbench_eval.commands.arguments import Parser
from vbench_eval.errors import UserError

VERBS = (prompts, score, compare, total, static_filter, images, doctor, fetch)
EXIT_DONE, EXIT_INCOMPLETE, EXIT_REFUSED, EXIT_INTERRUPTED = 0, 1, 2, 130

EPILOG = """\
from prompts to a table, with the bundled demo pair and no weights at all (`make demo-vbench` does the same):
  w2sd-vbench prompts --suite sample --num-prompts 4 --samples 1 --output outputs/vbench
  w2sd-video --prompts outputs/vbench/prompts.txt --methods weak,strong,w2sd --output outputs/vbench/videos
  w2sd-vbench score outputs/vbench/videos/strong --manifest outputs/vbench/manifest.json --output outputs/vbench/scores
  w2sd-vbench score outputs/vbench/videos/w2sd --manifest outputs/vbench/manifest.json --output outputs/vbench/scores
  w2sd-vbench compare outputs/vbench/scores/strong_report.json outputs/vbench/scores/w2sd_report.json \\
      --output outputs/vbench/comparison

as in the paper's Table 12 (VBench's own prompts and weights):
  w2sd-vbench doctor                  what is installed, what each dimension needs and where to get it
  w2sd-vbench fetch table12           get it, but for AMT-S, whose licence is not for commercial use
  w2sd-vbench prompts --suite VBench_full_info.json --num-prompts 200 --samples 1 --output outputs/table12

exit codes: 0 done; 1 a report was written but lacks something: a video that is not there, could not be read or has no
value, or every dimension of VBench's that was asked for (one without weights is "unavailable", which beside others is
no failure); 2 refused: bad arguments, files or folders; 130 interrupted (the same command goes on from where it was)
"""


def build_parser() -> Parser:
    """Returns the parser of the command with all its verbs."""
    parser = Parser(
        prog="w2sd-vbench",
        description="Score videos by VBench's dimensions on any machine, and compare methods.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB", required=True, parser_class=Parser)
    for verb in VERBS:
        verb.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code (see `--help`)."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            return _answer(words)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has had enough. What is still buffered must go somewhere when Python flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE


def _answer(words: list[str]) -> int:
    # As far as can be told before the words are understood: a refusal of them is reported in this format too.
    as_json = "--format=json" in words or ("--format", "json") in pairwise(words)
    report: dict[str, Any]
    try:
        arguments = build_parser().parse_args(words)
        as_json = arguments.format == "json"
        with contextlib.redirect_stdout(sys.stderr):  # whatever libraries print
            code, report = arguments.run(arguments)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one must not tear the last words
        code, report = EXIT_INTERRUPTED, {"status": "interrupted", "error": "interrupted"}
        print("\ninterrupted; what was scored is kept: run the same command again to do the rest", file=sys.stderr)
    except BrokenPipeError:
        raise
    except UserError as error:
        code, report = EXIT_REFUSED, _refused(str(error))
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        code, report = EXIT_REFUSED, _refused(f"{error.strerror or error}{where}")
    text = report.pop("text", None)
    if as_json and report:  # of several launched processes only the first has one
        print(json.dumps({**report, "exit_code": code}, ensure_ascii=True, allow_nan=False), flush=True)
    elif text is not None:
        print(text, flush=True)
    return code


def _refused(message: str) -> dict[str, Any]:
    print(f"error: {message}", file=sys.stderr)
    return {"status": "refused", "error": message}
