"""The program `scripts/generate_image.py`: arguments to a request, a request to pictures.

Nothing heavy is imported before the arguments are checked.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from w2sd_video.commands.command_flags import gathered_prompts
from w2sd_video.commands.command_line import run_command
from w2sd_video.commands.gap_flags import gaps_given
from w2sd_video.commands.matching import match_evaluations
from w2sd_video.commands.method_flags import methods_given
from w2sd_video.commands.pictures.arguments import PROGRAM, build_parser
from w2sd_video.commands.pictures.performing import perform_plan
from w2sd_video.commands.pictures.planning import plan_images
from w2sd_video.commands.pictures.request import ImageRequest
from w2sd_video.runs.progress import Progress, TerminalProgress, calm_libraries

ROOM = "Try --memory weak-offload, a smaller --height and --width, or --memory sequential (slow)."
NOT_OF_THE_REQUEST = ("format", "quiet", "dry_run", "prompt")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code (see `--help`)."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(build_parser(), words, _run, made="pictures", room=ROOM)


def request_of(arguments: argparse.Namespace, progress: Progress) -> ImageRequest:
    """Returns what the parsed arguments ask for; raises UserError for files that cannot be read."""
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    given = methods_given(gaps_given({name: value for name, value in given.items() if name not in NOT_OF_THE_REQUEST}))
    given["prompts"] = gathered_prompts(arguments, progress)
    if "methods" in given:
        given["methods"] = tuple(name.strip() for name in given["methods"].split(",") if name.strip())
    return ImageRequest(**given)


def _run(arguments: argparse.Namespace, words: list[str]) -> tuple[int, dict[str, Any]]:
    progress = TerminalProgress(quiet=arguments.quiet, noun="picture")
    calm_libraries(bars=progress.bars)
    plan = plan_images(request_of(arguments, progress))
    if arguments.match_evaluations is not None:
        progress.note(match_evaluations(arguments.match_evaluations).sentence())
    return perform_plan(plan, arguments, progress, shlex.join([PROGRAM, *words]))
