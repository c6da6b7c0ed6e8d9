"""Functions of the user's own, named on a command line: MODULE:FUNCTION or FILE.py:FUNCTION (imports no torch)."""

from __future__ import annotations

import functools
import hashlib
import importlib
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from w2sd_video.errors import UserError

FORMS = "MODULE:FUNCTION or FILE.py:FUNCTION"
MOST_SAID = 200  # characters of what a function returned or raised


class FunctionFailedError(Exception):
    """A function raised, or gave no finite number; the message, one line, follows its name ("failed: ...")."""


def is_named(given: str) -> bool:
    """Whether a word has the form of one of these names."""
    module, colon, function = given.rpartition(":")
    return bool(module and colon and function)


def find_function(given: str, kind: str) -> Callable[..., Any]:
    """Returns the function that `given` names, its module imported; `kind` says what it is for ("scorer").

    A module is looked for where Python looks and in the working folder; FUNCTION may have dots.

    Raises:
        UserError: no such module or file, one that cannot be imported, no such name in it, or no function.
    """
    module, _, function = given.rpartition(":")
    try:
        found: Any = _module(module, kind)
        for part in function.split("."):
            found = getattr(found, part)
    except UserError:
        raise
    except Exception as error:  # whatever a module of the user's does when it is imported
        said = f"{type(error).__name__}: {error}" if not isinstance(error, ImportError | AttributeError) else error
        raise UserError(f"the {kind} {given} cannot be loaded ({said}); give {FORMS}") from error
    if not callable(found):
        raise UserError(f"the {kind} {given} is no function; it must take frames and a prompt and return a number")
    return found


def described(given: str, function: Callable[..., Any]) -> str:
    """Returns the first line of what a function says of itself, or its name."""
    lines = (getattr(function, "__doc__", None) or "").strip().splitlines()
    return lines[0] if lines else given.rpartition(":")[2]


def answer(function: Callable[..., Any], frames: Any, prompt: str) -> float:
    """Returns the finite number that a function gives for frames and a prompt.

    Raises:
        FunctionFailedError: it raises (or would end the program), or returns something else, text included.
        UserError, or a lack of memory: as it is.
    """
    try:
        value = function(frames, prompt)
    except (Exception, SystemExit) as error:
        if isinstance(error, UserError | MemoryError) or type(error).__name__ == "OutOfMemoryError":
            raise
        raise FunctionFailedError(f"failed: {type(error).__name__}: {_shortened(str(error))}") from error
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, RuntimeError):  # a tensor of several numbers
        number = math.nan
    if not math.isfinite(number):
        raise FunctionFailedError(f"returned {_shortened(repr(value))}; it must return a finite number")
    return number


def located_name(given: str) -> str:
    """Returns the name with the path of a FILE.py made absolute, so that it means the same from anywhere."""
    module, _, function = given.rpartition(":")
    return f"{Path(module).expanduser().resolve()}:{function}" if module.endswith(".py") else given


def source_of(given: str) -> str:
    """Returns 12 hexadecimal digits of the file that a function lies in, "" where there is none: it may be edited."""
    module = given.rpartition(":")[0]
    place: str | None = str(Path(module).expanduser())
    if not module.endswith(".py"):
        place = getattr(sys.modules.get(module), "__file__", None)
    if place is None or not Path(place).is_file():
        return ""
    return hashlib.sha256(Path(place).read_bytes()).hexdigest()[:12]


def _module(name: str, kind: str) -> Any:
    if not name.endswith(".py"):
        folder = str(Path.cwd())
        if folder not in sys.path:
            sys.path.append(folder)
        return importlib.import_module(name)
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise UserError(f"the {kind}: there is no file {name}; give {FORMS}")
    return _from_file(path, path.stat().st_mtime_ns)


@functools.cache
def _from_file(path: Path, _changed: int) -> Any:
    """The module in a file, made once for as long as the file is as it is: it may load a network."""
    from importlib.util import module_from_spec, spec_from_file_location

    name = f"{path.stem} in {path.parent}"  # a name that no module of anybody's has
    spec = spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)  # where dataclasses and pickles look for their own module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MOST_SAID else f"{line[: MOST_SAID - 3]}..."
