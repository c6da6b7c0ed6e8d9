"""The program `scripts/bridge_image.py`: arguments to a request, a request to pictures.

Nothing heavy is imported before the arguments are checked.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bridges.pixel.command.arguments import PROGRAM, build_fit_parser, build_parser
from bridges.pixel.command.planning import plan_bridge
from bridges.pixel.command.reporting import bridge_plan_text, describe_bridge_plan
from bridges.pixel.command.request import BridgePlan, BridgeRequest
from w2sd_video.commands.command_flags import gathered_prompts
from w2sd_video.commands.command_line import EXIT_DONE, EXIT_FAILED, run_command
from w2sd_video.commands.engine import describe_summary, summary_text
from w2sd_video.errors import UserError
from w2sd_video.runs.progress import TerminalProgress, calm_libraries

ROOM = (
    "Try --memory weak-offload, --tiled, --codec tiny, a smaller --height and --width, or --memory sequential (slow)."
)
NOT_OF_THE_REQUEST = ("format", "quiet", "dry_run", "prompt", "pictures")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code (see `--help`)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["fit"]:
        return run_command(build_fit_parser(), words[1:], _fit, made="pictures", room=ROOM)
    return run_command(build_parser(), words, _make, made="pictures", room=ROOM)


def _make(arguments: argparse.Namespace, words: list[str]) -> tuple[int, dict[str, Any]]:
    progress = TerminalProgress(quiet=arguments.quiet, noun="video" if arguments.video else "picture")
    calm_libraries(bars=progress.bars)
    plan = plan_bridge(request_of(arguments, progress))
    as_json = arguments.format == "json"
    from bridges.pixel.command.running import on_device, run

    if arguments.dry_run:
        report = describe_bridge_plan(on_device(plan)[0])
        return EXIT_DONE, report if as_json else {"text": bridge_plan_text(report)}
    summary = run(plan, progress=progress, command=shlex.join([PROGRAM, *words]))
    code = EXIT_DONE if summary.complete else EXIT_FAILED
    return code, describe_summary(summary) if as_json else {"text": summary_text(summary, quiet=arguments.quiet)}


def _fit(arguments: argparse.Namespace, words: list[str]) -> tuple[int, dict[str, Any]]:
    progress = TerminalProgress(quiet=arguments.quiet, noun="picture")
    calm_libraries(bars=progress.bars)
    target, pictures = _target(arguments.output), arguments.pictures
    if pictures is not None and not Path(pictures).is_dir():
        raise UserError(f"there is no folder {pictures}; give one with pictures, or leave --pictures out")
    plan = _fit_plan(request_of(arguments, progress), pictures)
    if arguments.dry_run:
        report = {"status": "planned", "output": str(target), "pair": plan.pair_record(), "pictures": pictures}
        text = f"a noise map of {plan.strong} and {plan.weak} into {target}, fitted to "
        text += f"the pictures of {pictures}" if pictures else "pictures that the strong model makes"
        return EXIT_DONE, report if arguments.format == "json" else {"text": text}
    from bridges.pixel.command.running import fit

    chosen = fit(plan, pictures, target, progress=progress)
    report = {"status": "done", "output": str(target), "noise_map": chosen.description()}
    text = str(target) if arguments.quiet else f"{chosen.sentence()}\nuse it: --noise-map {target}"
    return EXIT_DONE, report if arguments.format == "json" else {"text": text}


def _fit_plan(request: BridgeRequest, pictures: str | None) -> BridgePlan:
    if pictures is not None and not request.prompts:
        request = replace(request, prompts=("no picture is made",))  # the plan wants one
    return plan_bridge(replace(request, methods=("strong",)))


def _target(output: str | None) -> Path:
    if output is None or Path(output).suffix != ".safetensors":
        got = "missing" if output is None else output
        raise UserError(f"--output is {got}; give the noise map's file, such as flux-to-sdxl.safetensors")
    target = Path(output)
    if target.is_dir():  # said before an hour of fitting, not after it
        raise UserError(f"--output {output} is a folder; give the noise map's file, such as flux-to-sdxl.safetensors")
    return target


def request_of(arguments: argparse.Namespace, progress: TerminalProgress) -> BridgeRequest:
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    given = {name: value for name, value in given.items() if name not in NOT_OF_THE_REQUEST}
    given["prompts"] = gathered_prompts(arguments, progress)
    if "methods" in given:
        given["methods"] = tuple(name.strip() for name in given["methods"].split(",") if name.strip())
    return BridgeRequest(**given)
