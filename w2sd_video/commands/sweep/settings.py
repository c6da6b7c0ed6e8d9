"""What can be swept, the values of a grid, and which methods a setting changes (imports no torch)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from w2sd_video.commands.checks import one_of
from w2sd_video.commands.lora_flags import LoraFlag
from w2sd_video.commands.method_settings import AS_THEY_SAMPLE, GAPPED, REFLECTING, users_of
from w2sd_video.commands.option import unknown
from w2sd_video.commands.options import option_of, options_of
from w2sd_video.commands.request import Request
from w2sd_video.errors import UserError
from w2sd_video.pair import MODES
from w2sd_video.runs.tasks import METHODS

Value = int | float | str
MAX_VALUES = 1000


_BY_THE_GAP = ("weak", *GAPPED, *AS_THEY_SAMPLE)
OLD = {"lambda": "reflections", "T": "steps"}  # the paper's letters, by the setting
COMPOSED = {  # settings that are part of another
    "weak-lora": ("gap", "LoRA scale of the weak side (Figure 12, left)"),
    "window-end": ("users", "where in the steps reflections end: 0.5 is the noisier half"),
}


def sweepable(family: str) -> dict[str, str]:
    """Returns what can be swept of a family, by name, in words: rows of the table, the paper's letters for two."""
    old = {field: name for name, field in OLD.items()}
    rows = {
        old.get(option.field, option.field.replace("_", "-")): option.about
        for option in options_of(family)
        if option.sweeps
    }
    parts = {"weak-lora": "weak_loras", "window-end": "window"}
    has = {option.field for option in options_of(family)}
    return rows | {name: about for name, (_, about) in COMPOSED.items() if parts[name] in has}


def _changed(sweeps: str, field: str) -> tuple[str, ...]:
    """The methods that a setting changes."""
    if sweeps == "users":
        return users_of(field)
    return {"all": tuple(METHODS), "reflecting": REFLECTING, "gap": _BY_THE_GAP}[sweeps]


@dataclass(frozen=True)
class Axis:
    """A setting and its values in order; `name` is of the LoRA, where that is what is swept."""

    setting: str
    values: tuple[Value, ...]
    name: str | None = None
    family: str = "image"

    @property
    def label(self) -> str:
        return self.setting if self.name is None else f"{self.setting} {self.name}"

    def changes(self, method: str) -> bool:
        """Whether what a method makes depends on the setting; if not it is made once."""
        if self.setting in COMPOSED:
            return method in _changed(COMPOSED[self.setting][0], "window")
        return method in _changed(option_of(self.family, self.field).sweeps, self.field)

    @property
    def field(self) -> str:
        """The field of a request that the setting is."""
        return OLD.get(self.setting, self.setting.replace("-", "_"))

    def given(self, request: Request) -> Value | None:
        """Returns the value that the request has for the setting itself, which the grid's take the place of."""
        if self.setting == "window-end":
            return None if request.window is None else request.window[1]
        return None if self.setting == "weak-lora" else request.given.get(self.field)

    def at(self, request: Request, value: Value) -> Request:
        """Returns the request with the setting at a value."""
        if self.setting == "window-end":
            assert isinstance(value, float)
            return request.changed(window=(request.window[0] if request.window else 0.0, value))
        if self.setting != "weak-lora":
            return request.changed(**{self.field: value})
        assert isinstance(value, float)
        name = self.name or _only_lora(request)
        own = next((lora.source for lora in request.weak_loras if lora.name == name), None)
        others = tuple(lora for lora in request.weak_loras if lora.name != name)
        return request.changed(weak_loras=(*others, LoraFlag(name, own, value)))


def read_axis(setting: str, values: str, family: str = "image") -> Axis:
    """Returns the axis that two flags describe: a setting (weak-lora:NAME for one of several LoRAs) and its values,
    separated by commas, or START:STOP:STEP with both ends.

    Raises:
        UserError: no such setting, no value, or one that the setting cannot have.
    """
    kind, _, name = setting.partition(":")
    kind = {field.replace("_", "-"): letter for letter, field in OLD.items()}.get(kind, kind)
    known = sweepable(family)
    if kind not in known or (name and kind != "weak-lora"):
        unknown("setting", setting, known)
    asked = float if kind in COMPOSED else option_of(family, OLD.get(kind, kind.replace("-", "_"))).kind
    parts = [part.strip() for part in values.split(",") if part.strip()]
    found: list[Value] = []
    for part in parts:
        if asked is str:
            found.append(one_of(part, MODES, "mode"))
        else:
            numbers = [_number(word, kind) for word in part.split(":")]
            found += [_as(asked, number, kind) for number in _grid(numbers, part)]
    if not found:
        raise UserError(f"no value of {kind} is given; give some, such as 0,5,10 or 0:10:5")
    return Axis(kind, tuple(dict.fromkeys(found)), name or None, family)


def _grid(numbers: Sequence[float], part: str) -> list[float]:
    if len(numbers) == 1:
        return list(numbers)
    if len(numbers) != 3 or not numbers[2] or (numbers[1] - numbers[0]) / numbers[2] < 0:
        raise UserError(f"the values are {part!r}; give numbers, or START:STOP:STEP that leads from one to the other")
    start, stop, step = numbers
    count = math.floor((stop - start) / step + 1e-9) + 1
    if count > MAX_VALUES:
        raise UserError(f"{part} is {count} values; give at most {MAX_VALUES}")
    return [round(start + step * k, 12) for k in range(count)]


def _number(word: str, kind: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{word!r} is no value of {kind}; give finite numbers")
    return value


def _as(asked: type, number: float, kind: str) -> Value:
    if asked is int and number != int(number):
        raise UserError(f"{number:g} is no value of {kind}; give whole numbers")
    return asked(number)


def _only_lora(request: Request) -> str:
    from w2sd_video.presets import PRESETS

    own = PRESETS[request.preset].loras if request.preset is not None and request.preset in PRESETS else ()
    names = dict.fromkeys([*(lora.name for lora in (*request.loras, *request.weak_loras)), *own])
    if len(names) != 1:
        got = "no LoRA" if not names else f"{len(names)} LoRAs ({', '.join(names)})"
        raise UserError(f"the pair has {got}; say which one's scale is swept: --setting weak-lora:NAME")
    return next(iter(names))
