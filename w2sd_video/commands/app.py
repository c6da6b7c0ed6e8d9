"""The program `w2sd`: a word, and what it runs (imports nothing that it does not need).

Families and commands are found by the entry points `w2sd.families` and `w2sd.commands` of what is installed; in a clone
that is not, by the same lines of its pyproject.toml.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2sd_video import __version__
from w2sd_video.errors import UserError, exit_code

if TYPE_CHECKING:
    from w2sd_video.commands.families.base import Family

FAMILIES, COMMANDS = "w2sd.families", "w2sd.commands"
ABOUT = {
    "video": "videos of a weak/strong pair, and a page that compares them",
    "image": "pictures of a pair in one latent space",
    "bridge": "pictures or videos of a pair that shares no latent space: it meets in pixels",
    "moe": "pictures of a DiT-MoE, whose experts are the pair",
    "diagnose": "what a pair is good for, before it is paid for",
    "sweep": "one setting swept, scored and drawn",
    "diff": "the weak checkpoint as a small file: its difference to the strong one, as a LoRA",
    "arena": "W2SD beside every other method at equal cost: which one for my model, at my budget?",
    "presets": "every pair that has a name, with the paper's numbers",
    "eval": "scores of videos and pictures (VBench), and their comparison",
    "export-nodes": "a folder of nodes for ComfyUI",
    "export-block": "a folder for the Hub that reflects diffusers' modular pipelines",
}
USAGE = """\
usage: w2sd COMMAND [flags]

Weak-to-Strong Diffusion with Reflection (W2SD) for videos and pictures.

commands:
{commands}

w2sd COMMAND --help shows a command's flags and examples. Without flags `w2sd video`, `w2sd image`, `w2sd bridge`,
`w2sd moe` and `w2sd diagnose` run what is bundled, on any machine.
"""


def main(argv: Sequence[str] | None = None, program: str = "w2sd") -> int:
    """Runs the program and returns its exit code; an interrupt is told in a sentence from the first import on."""
    return exit_code(lambda: _main(list(sys.argv[1:] if argv is None else argv), program))


def _main(words: list[str], program: str) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_usage(), end="")
        return 0
    if words[0] == "--version":
        print(f"w2sd {__version__}")
        return 0
    name, rest = words[0], words[1:]
    if name in _places(FAMILIES):
        return run(name, rest, f"{program} {name}")
    if name in _places(COMMANDS):
        return _object(_places(COMMANDS)[name])(rest)
    near = difflib.get_close_matches(name, [*_places(FAMILIES), *_places(COMMANDS)], n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    print(f"error: there is no command {name!r}{hint}; w2sd --help shows all", file=sys.stderr)
    return 2


def run(name: str, argv: Sequence[str] | None = None, program: str | None = None) -> int:
    """Runs the program of a family, called `program` in its help and in the command that run.json keeps."""

    def program_of_family() -> int:
        from w2sd_video.commands.engine import run_family, words_of

        return run_family(family_named(name), words_of(argv), program or f"w2sd {name}")

    return exit_code(program_of_family)


def video(argv: Sequence[str] | None = None) -> int:
    """Runs the installed program `w2sd-video`, which is `w2sd video`."""
    return run("video", argv, "w2sd-video")


def presets(argv: Sequence[str] | None = None) -> int:
    """Prints every preset, or those named, with its settings and the paper's numbers."""
    from w2sd_video.presets import PRESETS, get_preset, preset_table

    names = list(sys.argv[1:] if argv is None else argv)
    print(preset_table([get_preset(name) for name in names] if names else PRESETS.values()))
    return 0


def family_named(name: str) -> Family:
    """Returns the family of that name.

    Raises:
        UserError: there is none.
    """
    places = _places(FAMILIES)
    if name not in places:
        raise UserError(f"there is no family {name!r}; choose from {', '.join(places)}")
    return _object(places[name])


def families() -> tuple[str, ...]:
    """Returns the names of all families."""
    return tuple(_places(FAMILIES))


def _usage() -> str:
    names = dict.fromkeys((*ABOUT, *_places(FAMILIES), *_places(COMMANDS)))
    return USAGE.format(commands="\n".join(f"  {name:12s} {ABOUT.get(name, '')}".rstrip() for name in names))


@functools.cache
def _places(group: str) -> Mapping[str, str]:
    """Where the entry points of a group lie, "module:object" by name."""
    found = dict(_clone().get(group, {}))
    return {**{point.name: point.value for point in metadata.entry_points(group=group)}, **found}


@functools.cache
def _clone() -> Mapping[str, Mapping[str, str]]:
    """The entry points of the clone that this package lies in; nothing where it is installed."""
    file = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if not file.is_file():
        return {}
    project: Mapping[str, Any] = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
    return project.get("entry-points", {}) if project.get("name") == "w2sd-video" else {}


def _object(place: str) -> Any:
    module, _, name = place.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found
