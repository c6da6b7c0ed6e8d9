"""Command lines run as a shell would run them, but in this process: one import of torch serves them all."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import runpy
import shlex
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def installed() -> dict[str, str]:
    """The console programs that `pip install` makes, as "module:function" by name."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]


def run(line: str | Sequence[str], folder: Path) -> Ended:
    """Runs `python scripts/NAME.py WORDS` or `NAME WORDS` of an installed program with `folder` as the working folder.

    Returns the exit code and what went to the two streams; a traceback is raised here.
    """
    words = shlex.split(line) if isinstance(line, str) else list(line)
    of_a_script = words[0] == "python"
    if of_a_script:
        script = ROOT / words[1]
        name, words = str(script), words[2:]

        def program() -> object:
            return runpy.run_path(str(script), run_name="__main__")
    else:
        module, function = installed()[words[0]].split(":")
        name, words = words[0], words[1:]

        def program() -> object:
            sys.exit(getattr(importlib.import_module(module), function)())

    out, err, before = io.StringIO(), io.StringIO(), (sys.argv, sys.path[:], os.getcwd())
    try:
        sys.argv = [name, *words]
        if of_a_script:
            sys.path.insert(0, str(ROOT / "scripts"))  # as Python itself does for a script
        os.chdir(folder)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            program()
        code: object = 0
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.argv, sys.path[:] = before[:2]
        os.chdir(before[2])
    return Ended(int(code or 0) if isinstance(code, int) or code is None else 1, out.getvalue(), err.getvalue())
