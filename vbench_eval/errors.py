"""Errors a user can act on."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(ValueError):
    """What was given cannot be used; the one message says what was got, what is allowed and what to do."""


def exit_code(run: Callable[[], int]) -> int:
    """Returns the exit code of a command: what `run` returns, 2 for a `UserError` or a file that cannot be used (its
    message goes to standard error as one "error: ..." line), 130 when it was interrupted.
    """
    try:
        return run()
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues where it stopped", file=sys.stderr)
        return 130
