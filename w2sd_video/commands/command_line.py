"""What the command-line programs share: how they end, and how they say so (imports no torch)."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NoReturn

from w2sd_video.errors import TerminatedError, UserError, terminable, unread
from w2sd_video.runs.fellows import Worker

EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 1, 2, 130, 143

Run = Callable[[argparse.Namespace, list[str]], tuple[int, dict[str, Any]]]
"""Does what the arguments (parsed, and as words) ask for: the exit code, and a report, for people under "text"."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help shows every flag")  # reported by `run_command` in the format asked for


def run_command(parser: argparse.ArgumentParser, words: Sequence[str], run: Run, *, made: str, room: str) -> int:
    """Parses the words, runs and returns the exit code.

    One report goes to standard output, as JSON if `--format json` is among the arguments, and whatever libraries print
    to standard error. `made` is what the program makes ("videos"), `room` what to do when memory runs out.
    """
    # As far as can be told before the words are understood: a refusal of them is reported in this format too.
    as_json = "--format=json" in words or ("--format", "json") in pairwise(words)
    try:
        arguments = parser.parse_args(words)
        as_json = arguments.format == "json"
        with terminable(), contextlib.redirect_stdout(sys.stderr):
            code, report = run(arguments, list(words))
    except KeyboardInterrupt as error:
        ended = isinstance(error, TerminatedError)
        code, said = (EXIT_TERMINATED, "terminated") if ended else (EXIT_INTERRUPTED, "interrupted")
        report = {"status": said, "error": said}
        print(f"\n{said}; finished {made} are kept: run the same command again to make the rest", file=sys.stderr)
    except UserError as error:
        code, report = EXIT_REFUSED, _refused(str(error))
    except BrokenPipeError:
        return unread()
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        kept = f"\nFinished {made} are kept; once there is room and permission, run the same command again."
        code, report = EXIT_REFUSED, _refused(f"{error.strerror or error}{where}" + (kept if error.errno else ""))
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":
            raise
        print(f"error: out of memory ({error}).\nFinished {made} are kept. {room}", file=sys.stderr)
        code, report = EXIT_FAILED, {"status": "out of memory", "error": str(error)}
    if not Worker.of_environment().first:  # of processes started together the first one reports
        return code
    try:
        if as_json:
            print(json.dumps({**report, "exit_code": code}, ensure_ascii=True), flush=True)
        elif "text" in report:
            print(report["text"], flush=True)
    except BrokenPipeError:
        unread()
    return code


def _refused(message: str) -> dict[str, Any]:
    print(f"error: {message}", file=sys.stderr)
    return {"status": "refused", "error": message}
