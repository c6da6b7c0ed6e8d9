"""Errors a user can act on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

# What Python raises where data is not of the shape that the code reading it relies on.
MALFORMED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError)


class UserError(ValueError):
    """What was given cannot be used; the one message says what was got, what is allowed and what to do."""


@contextmanager
def malformed(what: str, remedy: str, refusal: type[ValueError] = UserError) -> Iterator[None]:
    """Inside, data of a wrong shape is refused: what Python raises over it becomes a `refusal` that names `what`.

    For the few lines that take a file's content apart, so that no place in it can end in a traceback. A `refusal` that
    is raised inside stays as it is.
    """
    try:
        yield
    except refusal:
        raise
    except MALFORMED as error:
        reason = f"{type(error).__name__}: {error}"
        raise refusal(f"{what} is damaged, or of another kind ({reason:.200}); {remedy}") from error
