"""The program `scripts/sweep.py`: a grid over one setting of the commands for pictures and videos.

Nothing heavy is imported before the arguments are checked.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from w2sd_video import __version__
from w2sd_video.commands import cli
from w2sd_video.commands.command_line import EXIT_DONE, EXIT_FAILED, Parser, run_command
from w2sd_video.commands.generate import generate, plan
from w2sd_video.commands.method_settings import check_used
from w2sd_video.commands.pictures import arguments as image_arguments
from w2sd_video.commands.pictures import program as image_program
from w2sd_video.commands.pictures.planning import plan_images
from w2sd_video.commands.pictures.running import run_images
from w2sd_video.commands.pictures.videos import needs_whole_pipelines, whole_pipelines
from w2sd_video.commands.request import GenerationRequest
from w2sd_video.commands.sweep.page import sweep_text
from w2sd_video.commands.sweep.running import Maker, Statistics, Stop, run_sweep, stops_of
from w2sd_video.commands.sweep.scorers import Scorer, find_scorer
from w2sd_video.commands.sweep.settings import SETTINGS, Axis, Request, read_axis
from w2sd_video.errors import UserError
from w2sd_video.runs.file_names import run_folder
from w2sd_video.runs.progress import Progress, TerminalProgress, calm_libraries

PROGRAM = "sweep.py"
METHODS = ("strong", "w2sd")
SELECTED = ("strong", "w2sd-auto")  # where what is swept is a setting of the latter
OWN = ("--output", "--format", "--quiet", "--dry-run")  # flags that are the sweep's, not the command's
MAKERS = {
    "pictures": Maker("picture", plan_images, lambda p, told, words: run_images(p, progress=told, command=words)),
    "videos": Maker("video", plan, lambda p, told, words: generate(p, progress=told, command=words)),
}

EPILOG = """\
examples:
  sweep.py --setting lambda --values 0:10:5 --videos -- --num-videos 2    the bundled videos, read by the oracle
  sweep.py --setting strength --values 0.5,1,2 -- --guidance 1 --strong-guidance 1 --weak-guidance 0   and pictures
  sweep.py --setting every --values 1:4:1 --videos -- --methods strong,w2sd,zero-gap,resample
  sweep.py --setting weak-guidance --values=-10:15:5 --scorer my_scores:hps -- \\
      --preset guidance-sdxl --prompts prompts.txt
  sweep.py --setting weak-lora --values=-3.5:3.5:0.5 --scorer my_scores:hps -- \\
      --preset lora-sdxl --lora xlMoreArtFullV1=./more_art.safetensors --prompts prompts.txt

settings:
{settings}

scorers:
  oracle                   the bundled pairs: whether a picture or video shows what its prompt says (1 or 0)
{scorers}
  MODULE:FUNCTION          of yours (or FILE.py:FUNCTION): from frames [F, H, W, 3] uint8 and the prompt, a number

The output folder holds a run's folder for each value, scores, sweep.json, curve.png and index.html. Stopped at any
moment, the same command finishes it; values may be added. Methods that the setting does not change are made once.

exit codes: 0 all is made and scored; 1 something failed (results.jsonl says why); 2 refused; 130 interrupted
"""


@dataclass(frozen=True)
class Outside:
    """What the program is given: intervals, and scorers by name."""

    statistics: Statistics
    scorers: Mapping[str, Scorer]


def build_parser(scorers: Mapping[str, Scorer]) -> argparse.ArgumentParser:
    """Returns the parser of the sweep's own flags, which stand before a "--"."""
    settings = "\n".join(f"  {name:16s} {setting.about}" for name, setting in SETTINGS.items())
    named = "\n".join(f"  {name:24s} {scorer.about}" for name, scorer in scorers.items())
    parser = Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} --setting NAME --values LIST [options] [-- flags of generate_image.py or generate_video.py]",
        description="Sweep one setting of a weak/strong pair and draw the score with 95 percent intervals.",
        epilog=EPILOG.format(settings=settings, scorers=named),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument("--setting", required=True, metavar="NAME", help=f"{', '.join(SETTINGS)} (weak-lora:NAME)")
    parser.add_argument("--values", required=True, metavar="LIST", help="0,5,10 or START:STOP:STEP, both ends included")
    parser.add_argument("--scorer", default="oracle", metavar="NAME", help="see below (default: oracle)")
    parser.add_argument("--videos", action="store_true", help="sweep generate_video.py (default: generate_image.py)")
    parser.add_argument("--output", metavar="FOLDER", help="where to write (default: a folder under outputs/)")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to report (default: text)")
    parser.add_argument("--quiet", action="store_true", help="no progress, only failures")
    parser.add_argument("--dry-run", action="store_true", help="print what would be made; load no model")
    return parser


def main(argv: Sequence[str] | None, outside: Outside) -> int:
    """Runs the program and returns its exit code (see `--help`)."""
    words = list(sys.argv[1:] if argv is None else argv)
    own, inner = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])

    def run(arguments: argparse.Namespace, _: list[str]) -> tuple[int, dict[str, Any]]:
        return _run(arguments, words, inner, outside)

    return run_command(build_parser(outside.scorers), own, run, made="files", room=image_program.ROOM)


def _run(
    arguments: argparse.Namespace, words: list[str], inner: list[str], outside: Outside
) -> tuple[int, dict[str, Any]]:
    axis = read_axis(arguments.setting, arguments.values)
    scorer = find_scorer(arguments.scorer, outside.scorers)
    noun = "videos" if arguments.videos else "pictures"
    maker = MAKERS[noun]
    progress = TerminalProgress(quiet=arguments.quiet, noun=maker.noun)
    calm_libraries(bars=progress.bars)
    request = _request(inner, arguments.videos, progress)
    if (own := axis.given(request)) is not None:
        progress.note(f"{axis.setting} is swept, so the {own} that stands after the -- is not used")
    if isinstance(request, GenerationRequest) and needs_whole_pipelines(request):
        request, maker = whole_pipelines(request), replace(MAKERS["pictures"], noun=maker.noun)
    stops, folder = _stops(axis, request, arguments.output, maker)
    as_json = arguments.format == "json"
    if arguments.dry_run:
        report = _planned(axis, stops, folder, noun)
        return EXIT_DONE, report if as_json else {"text": _planned_text(report)}
    summary = run_sweep(
        axis,
        stops,
        folder,
        maker=maker,
        scorer=scorer,
        statistics=outside.statistics,
        progress=lambda: TerminalProgress(quiet=arguments.quiet, noun=maker.noun),
        command=shlex.join([PROGRAM, *words]),
    )
    text = f"{sweep_text(summary)}\nlook at it: {folder / 'index.html'}"
    code = EXIT_FAILED if summary["failed"] else EXIT_DONE
    return code, {**summary, "folder": str(folder)} if as_json else {"text": text}


def _request(inner: list[str], videos: bool, progress: Progress) -> Request:
    if given := [word for word in inner if word.partition("=")[0] in OWN]:
        raise UserError(f"{given[0]} stands after the --; it is the sweep's: give it before")
    if videos:
        return cli.request_of(cli.build_parser().parse_args(inner), progress)
    return image_program.request_of(image_arguments.build_parser().parse_args(inner), progress)


def _stops(axis: Axis, request: Request, output: str | None, maker: Maker) -> tuple[list[Stop], Path]:
    """The runs, and their folder: of the request as it is but for the setting, so that values can be added."""
    methods = request.methods or (SELECTED if axis.setting == "reward-threshold" else METHODS)
    check_used(axis.at(request, axis.values[0]), methods)
    unset = repr(replace(request, output=None, methods=None))
    folder = run_folder(output, f"sweep-{axis.label}", [axis.label, list(methods), unset])
    return stops_of(axis, request, methods, folder, maker), folder


def _planned(axis: Axis, stops: Sequence[Stop], folder: Path, noun: str) -> dict[str, Any]:
    return {
        "status": "planned",
        "folder": str(folder),
        "setting": axis.label,
        "values": list(axis.values),
        "runs": [
            {
                "value": stop.value,
                "folder": str(stop.plan.output),
                "methods": dict(stop.methods),
                noun: sum(len(group) for group in stop.plan.groups()),
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
