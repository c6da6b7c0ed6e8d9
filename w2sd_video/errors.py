"""Errors a user can act on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NoReturn

import vbench_eval.errors


class UserError(ValueError):
    """Something the user gave cannot be used: the message says what was got, what is allowed and what to do.

    The command-line programs print it without a traceback and exit with code 2.
    """


def malformed(what: str, remedy: str) -> AbstractContextManager[None]:
    """Inside, what Python raises over data of a wrong shape becomes a `UserError` that names `what`, the file."""
    return vbench_eval.errors.malformed(what, remedy, UserError)


class TerminatedError(KeyboardInterrupt):
    """The process was asked to end by SIGTERM; like an interrupt from the keyboard it runs every `finally`."""


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM raises TerminatedError; outside the main thread nothing changes."""

    def end(number: int, frame: Any) -> NoReturn:
        raise TerminatedError

    try:
        before = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_code(program: Callable[[], int]) -> int:
    """Returns what `program` returns; what a user can act on becomes one line on standard error and code 2, an
    interrupt code 130, SIGTERM 143.
    """
    try:
        with terminable():
            code = program()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return unread()
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        ended = isinstance(error, TerminatedError)
        said = "terminated" if ended else "interrupted"
        print(f"\n{said}; the same command continues where it stopped", file=sys.stderr)
        return 143 if ended else 130


def unread() -> int:
    """Ends quietly where the reader of standard output has gone (`| head`), also for Python's own last flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
