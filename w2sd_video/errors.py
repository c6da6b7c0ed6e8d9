"""Errors a user can act on."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


class UserError(ValueError):
    """Something the user gave cannot be used: the message says what was got, what is allowed and what to do.

    The command-line programs print it without a traceback and exit with code 2.
    """


def exit_code(program: Callable[[], int]) -> int:
    """Returns what `program` returns; what a user can act on becomes one line on standard error and code 2, an
    interrupt code 130.
    """
    try:
        code = program()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return unread()
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues where it stopped", file=sys.stderr)
        return 130


def unread() -> int:
    """Ends quietly where the reader of standard output has gone (`| head`), also for Python's own last flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
