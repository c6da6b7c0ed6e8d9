"""The program `scripts/sweep.py`: a grid over one setting of the commands for pictures and videos.

Nothing heavy is imported before the arguments are checked.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from w2sd_video.commands.app import family_named
from w2sd_video.commands.command_line import EXIT_DONE, EXIT_FAILED, Parser, build_parser, request_of, run_command
from w2sd_video.commands.engine import parser_of, settled
from w2sd_video.commands.families.base import Family
from w2sd_video.commands.machines import planned_device
from w2sd_video.commands.method_settings import check_used
from w2sd_video.commands.request import Request
from w2sd_video.commands.sweep.running import Stop, notes_of, run_sweep, stops_of, sweep_text
from w2sd_video.commands.sweep.scoring import PROXY_NAMES, find_scorer
from w2sd_video.commands.sweep.settings import Axis, read_axis, sweepable
from w2sd_video.errors import UserError
from w2sd_video.runs.file_names import run_folder
from w2sd_video.runs.progress import Progress, TerminalProgress, calm_libraries

METHODS = ("strong", "w2sd")
SELECTED = ("strong", "w2sd-auto")  # where what is swept is a setting of the latter
OWN = ("--output", "--format", "--quiet", "--dry-run")  # flags that are the sweep's, not the command's
EXAMPLES = """\
  {program} --setting lambda --values 0:10:5 --videos -- --num 2    the bundled videos, read by the oracle
  {program} --setting strength --values 0.5,1,2 -- --guidance 1 --strong-guidance 1 --weak-guidance 0
  {program} --setting every --values 1:4:1 --videos -- --methods strong,w2sd,zero-gap,resample
  {program} --setting weak-guidance --values=-10:15:5 --scorer my_scores:hps -- \\
      --preset guidance-sdxl --prompts prompts.txt
  {program} --setting weak-lora --values=-3.5:3.5:0.5 --scorer my_scores:hps -- \\
      --preset lora-sdxl --lora xlMoreArtFullV1=./more_art.safetensors --prompts prompts.txt
"""
DETAILS = """\
settings (weak-lora:NAME for one of several LoRAs):
{settings}

scorers:
  oracle                   the bundled pairs: whether a picture or video shows what its prompt says (1 or 0)
  {proxies}
                           proxies of the evaluation, which need no weights
  MODULE:FUNCTION          of yours (or FILE.py:FUNCTION): from frames [F, H, W, 3] uint8 and the prompt, a number

The output folder holds a run's folder for each value, scores, sweep.json, curve.png and index.html. Stopped at any
moment, the same command finishes it; values may be added. Methods that the setting does not change are made once.
"""


Around = Callable[[argparse.Namespace, str, list[str]], tuple[int, dict[str, Any]]]
"""Does what a program's own arguments ask for, told its command line and the words of the inner program."""


def parser(program: str) -> Parser:
    """Returns the parser of the sweep's own flags, which stand before a "--"."""
    known = {**sweepable("image"), **sweepable("video")}
    settings = "\n".join(f"  {name:18s} {about}" for name, about in known.items())
    built = build_parser(
        program,
        "sweep",
        description="Sweep one setting of a weak/strong pair and draw the score with 95 percent intervals.",
        examples=EXAMPLES,
        details=DETAILS.format(settings=settings, proxies=", ".join(PROXY_NAMES)),
    )
    built.usage = f"{program} --setting NAME --values LIST [flags] [-- flags of w2sd image or w2sd video]"
    return built


def main(argv: Sequence[str] | None = None, program: str = "w2sd sweep") -> int:
    """Runs the program and returns its exit code (see `--help`)."""
    return run_around(parser(program), _run, argv, program)


def run_around(parser: Parser, run: Around, argv: Sequence[str] | None, program: str) -> int:
    """Runs a program whose own flags stand before a "--" and those of an inner one behind it; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    own, inner = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    command = shlex.join([*program.split(), *words])
    room = "Try --memory weak-offload after the --."
    return run_command(parser, own, lambda arguments, _: run(arguments, command, inner), made="files", room=room)


def _run(arguments: argparse.Namespace, command: str, inner: list[str]) -> tuple[int, dict[str, Any]]:
    asked = request_of("sweep", arguments, lambda message: None)
    for name in ("setting", "values"):
        if asked.get(name) is None:
            raise UserError(f"--{name} is missing; give --setting NAME --values LIST (--help-all shows the settings)")
    family = family_named(asked.family_name or ("video" if asked.videos else "image"))
    axis = read_axis(asked.setting, asked.values, family.name)
    scorer = find_scorer(asked.scorer)
    noun = "video" if family.name == "video" else "picture"
    progress = TerminalProgress(quiet=bool(arguments.quiet), noun=noun)
    calm_libraries(bars=progress.bars)
    request = inner_request(family, inner, progress)
    if (own := axis.given(request)) is not None:
        progress.note(f"{axis.setting} is swept, so the {own} that stands after the -- is not used")
    stops, folder = _stops(axis, request, asked.output, family)
    for stop in stops:  # before the first of them is made
        if arguments.rehearse or not arguments.dry_run:
            settled(family, stop.plan)
        else:
            planned_device(stop.plan)
    as_json = arguments.format == "json"
    if arguments.dry_run:
        for note in notes_of(stops):
            progress.note(note)
        report = _planned(axis, stops, folder, f"{noun}s")
        return EXIT_DONE, report if as_json else {"text": _planned_text(report)}
    summary = run_sweep(
        axis,
        stops,
        folder,
        family=family,
        scorer=scorer,
        progress=lambda: TerminalProgress(quiet=bool(arguments.quiet), noun=noun),
        command=command,
    )
    text = f"{sweep_text(summary)}\nlook at it: {folder / 'index.html'}"
    code = EXIT_FAILED if summary["failed"] else EXIT_DONE
    return code, {**summary, "folder": str(folder)} if as_json else {"text": text}


def inner_request(family: Family, inner: list[str], progress: Progress, whose: str = "sweep") -> Request:
    """Returns what the flags after the "--" ask for; UserError for one that is to stand before it."""
    if given := [word for word in inner if word.partition("=")[0] in OWN]:
        raise UserError(f"{given[0]} stands after the --; it is the {whose}'s: give it before")
    return request_of(family.name, parser_of(family, f"w2sd {family.name}").parse_args(inner), progress.note)


def _stops(axis: Axis, request: Request, output: str | None, family: Family) -> tuple[list[Stop], Path]:
    """The runs, and their folder: of the request as it is but for the setting, so that values can be added."""
    methods = request.methods or (SELECTED if axis.setting == "reward-threshold" else METHODS)
    check_used(axis.at(request, axis.values[0]), methods)
    unset = repr(request.changed(output=None, methods=None))
    folder = run_folder(output, f"sweep-{axis.label}", [axis.label, list(methods), unset])
    return stops_of(axis, request, methods, folder, family), folder


def _planned(axis: Axis, stops: Sequence[Stop], folder: Path, noun: str) -> dict[str, Any]:
    return {
        "status": "planned",
        "folder": str(folder),
        **({"notes": notes_of(stops)} if notes_of(stops) else {}),
        "setting": axis.label,
        "values": list(axis.values),
        "runs": [
            {
                "value": stop.value,
                "folder": str(stop.plan.output),
                "methods": dict(stop.methods),
                noun: stop.plan.per_method * len(stop.plan.methods),
                "evaluations": stop.cost,
            }
            for stop in stops
        ],
        "evaluations": sum(stop.cost for stop in stops),
    }


def _planned_text(report: Mapping[str, Any]) -> str:
    lines = [f"{report['setting']}: {', '.join(map(str, report['values']))} into {report['folder']}"]
    lines += [
        f"  {'any value' if run['value'] is None else run['value']!s:>12s}  {', '.join(run['methods'])}: "
        f"{run['evaluations']} evaluations"
        for run in report["runs"]
    ]
    return "\n".join([*lines, f"{report['evaluations']} evaluations in all"])
