"""What is asked of a program: the values that were given, by the fields of the table (imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from w2sd_video.commands.option import Option
from w2sd_video.commands.options import options_of
from w2sd_video.commands.prompts import without_repeats


class Request:
    """The settings given to one program; every other field of its rows has the table's default.

    `Request("image", steps=20).steps` is 20, `.guidance` None ("as the preset has it"), `.seed` 0. Nothing at all is a
    request for the bundled demo. Two requests for the same are equal.

    Raises:
        UserError: a value of another kind or outside its range.
        TypeError: a field that the program does not have.
    """

    __slots__ = ("_rows", "family", "given")

    family: str
    given: Mapping[str, Any]

    def __init__(self, family: str, **values: Any) -> None:
        rows = {option.field: option for option in options_of(family) if option.field not in _OF_THE_PARSER}
        if strange := values.keys() - rows.keys():
            raise TypeError(f"{family} has no setting {', '.join(sorted(strange))}")
        given = {name: rows[name].checked(_plain(value)) for name, value in values.items() if value is not None}
        if "prompts" in given:
            given["prompts"] = without_repeats(given["prompts"])
        object.__setattr__(self, "family", family)
        object.__setattr__(self, "given", MappingProxyType(given))
        object.__setattr__(self, "_rows", rows)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self._rows:
            raise AttributeError(f"{self.family} has no setting {name!r}")
        return self.given[name] if name in self.given else self.default(name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("a request is not changed; make another with `changed`")

    def default(self, name: str) -> Any:
        """Returns what a field is where nothing is given: () for one that may be given several times."""
        option: Option = self._rows[name]
        return () if option.many or name == "prompts" else option.default

    def get(self, name: str) -> Any:
        """Returns a field's value, None for a field that this program does not have."""
        return getattr(self, name) if name in self._rows else None

    def asks(self, name: str) -> bool:
        """Whether a field is given and says something; 0 does."""
        value = self.given.get(name)
        return not (value is None or value is False or value == ())

    def has(self, name: str) -> bool:
        """Whether the program has a field."""
        return name in self._rows

    def changed(self, **values: Any) -> Request:
        """Returns the request with some fields at other values; None takes a field back."""
        return Request(self.family, **{**self.given, **values})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Request):
            return NotImplemented
        return self.family == other.family and dict(self.given) == dict(other.given)

    def __hash__(self) -> int:
        return hash((self.family, frozenset(self.given)))

    def __repr__(self) -> str:
        return f"Request({self.family!r}, {', '.join(f'{k}={v!r}' for k, v in sorted(self.given.items()))})"


_OF_THE_PARSER = ("prompt", "format", "quiet", "dry_run")


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else tuple(value) if isinstance(value, list) else value
