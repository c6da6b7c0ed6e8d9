"""Errors a user can act on."""


class UserError(ValueError):
    """What was given cannot be used; the one message says what was got, what is allowed and what to do."""
