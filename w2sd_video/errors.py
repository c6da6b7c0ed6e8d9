"""Errors a user can act on."""


class UserError(ValueError):
    """Something the user gave cannot be used: the message says what was got, what is allowed and what to do.

    The command-line programs print it without a traceback and exit with code 2.
    """
