"""One setting of a command: how its value is read and checked (imports no torch)."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

from w2sd_video.errors import UserError


@dataclass(frozen=True)
class Option:
    """One setting.

    Attributes:
        field: its name in a `Request`.
        kind: int, float, str or bool (a flag without a value), or a function from the flag's text to the value.
        help: one sentence, for `--help`.
        group: the heading that it stands under.
        families: the programs that take it.
        flags: its flags, the name first, then aliases; () is the field with dashes.
        metavar: what stands for the value in the help.
        everyday: whether `--help` shows it; `--help-all` shows all.
        default: the value where none is given; None leaves it to the preset.
        low, high: the range, both ends included, of numbers.
        choices: the words allowed; `aliases` maps older words to them.
        many: the flag may be given several times, and the value is a tuple.
        said: what messages call it; "" is the field with blanks.
        sweeps: which methods a sweep over it changes: "all", "reflecting", "gap" (those that ask the weak side),
            "users" (those that take the setting), "" for a setting that is not swept.
        about: what a sweep over it shows, in words.
        of_run: it says how to run and report, and is no setting of what is made.
    """

    field: str
    kind: Any
    help: str
    group: str
    families: tuple[str, ...]
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    everyday: bool = False
    default: Any = None
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] | None = None
    aliases: Mapping[str, str] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    many: bool = False
    said: str = ""
    sweeps: str = ""
    about: str = ""
    of_run: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The flags."""
        return self.flags or (f"--{self.field.replace('_', '-')}",)

    @property
    def title(self) -> str:
        return self.said or self.field.replace("_", " ")

    def read(self, text: Any) -> Any:
        """Returns the value that a flag's text stands for, which argparse has as a number where it is one."""
        if self.kind in (int, float, str, bool):
            return text
        return self.kind(text)

    def checked(self, value: Any) -> Any:
        """Returns the value, an older word replaced.

        Raises:
            UserError: another kind of value, one outside the range, or a word that is not among the choices.
        """
        if value is None:
            return None
        if self.kind is int:
            low, high = self.low, self.high
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                bounds = f"from {low:.0f} to {high:.0f}" if math.isfinite(high) else f"of {low:.0f} or more"
                raise UserError(f"{self.title} is {value!r}; it must be a whole number {bounds}")
        elif self.kind is float:
            finite = not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
            if not finite:
                raise UserError(f"{self.title} is {value!r}; it must be a finite number")
            if not self.low <= value <= self.high:
                bounds = f" to {self.high:g}" if math.isfinite(self.high) else " or more"
                raise UserError(f"{self.title} is {value!r}; it must be a number from {self.low:g}{bounds}")
            return float(value)
        elif self.choices is not None and not self.many:
            value = self.aliases.get(value, value)
            if value not in self.choices:
                unknown(self.title, str(value), self.choices)
        return value


def unknown(kind: str, got: str, allowed: Iterable[str]) -> NoReturn:
    """Raises UserError naming those allowed, and the nearest of them."""
    allowed = list(allowed)
    near = difflib.get_close_matches(got.lower(), allowed, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UserError(f"unknown {kind} {got!r}: choose from {', '.join(allowed)}{hint}")
