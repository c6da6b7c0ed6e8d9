"""The program `scripts/sample_dit_moe.py`: arguments to a request, a request to pictures.

Nothing heavy is imported before the arguments are checked.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bridges.dit_moe.command.arguments import PROGRAM, build_convert_parser, build_parser
from bridges.dit_moe.command.planning import plan_sampling
from bridges.dit_moe.command.reporting import describe_outcome, describe_sample_plan, sample_plan_text
from bridges.dit_moe.command.request import SampleRequest
from w2sd_video.commands.checks import one_of, whole
from w2sd_video.commands.command_line import EXIT_DONE, EXIT_FAILED, run_command
from w2sd_video.commands.engine import summary_text
from w2sd_video.commands.options import DTYPES
from w2sd_video.runs.progress import TerminalProgress, calm_libraries

ROOM = "Try a smaller --batch, or --dtype bfloat16."
NOT_OF_THE_REQUEST = ("format", "quiet", "dry_run")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code (see `--help`)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["convert"]:
        return run_command(build_convert_parser(), words[1:], _convert, made="folders", room=ROOM)
    return run_command(build_parser(), words, _sample, made="pictures", room=ROOM)


def _sample(arguments: argparse.Namespace, words: list[str]) -> tuple[int, dict[str, Any]]:
    progress = TerminalProgress(quiet=arguments.quiet, noun="picture")
    calm_libraries(bars=progress.bars)
    plan = plan_sampling(_request(arguments))
    as_json = arguments.format == "json"
    from bridges.dit_moe.command.running import on_device, run

    if arguments.dry_run:
        report = describe_sample_plan(on_device(plan)[0])
        return EXIT_DONE, report if as_json else {"text": sample_plan_text(report)}
    outcome = run(plan, progress=progress, command=shlex.join([PROGRAM, *words]))
    code = EXIT_DONE if outcome.summary.complete else EXIT_FAILED
    text = summary_text(outcome.summary, quiet=arguments.quiet)
    if not arguments.quiet:
        text = "\n".join([text, *(f"{name}: {path}" for name, path in outcome.written.items())])
    return code, describe_outcome(outcome) if as_json else {"text": text}


def _request(arguments: argparse.Namespace) -> SampleRequest:
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    given = {name: value for name, value in given.items() if name not in NOT_OF_THE_REQUEST}
    for name in ("methods", "classes", "metrics"):
        if name in given:
            given[name] = tuple(word.strip() for word in given[name].split(",") if word.strip())
    return SampleRequest(**given)


def _convert(arguments: argparse.Namespace, words: list[str]) -> tuple[int, dict[str, Any]]:
    if arguments.dtype is not None:
        one_of(arguments.dtype, DTYPES[1:], "dtype")
    for name in ("heads", "experts_per_token"):
        if getattr(arguments, name) is not None:
            whole(getattr(arguments, name), 1, name.replace("_", " "), 1, 10_000)
    calm_libraries()
    import torch

    from bridges.dit_moe import convert, count_parameters

    network = convert(
        arguments.checkpoint,
        arguments.output,
        torch_dtype=getattr(torch, arguments.dtype) if arguments.dtype else None,
        weights=arguments.weights,
        num_attention_heads=arguments.heads,
        num_experts_per_tok=arguments.experts_per_token,
        allow_pickle=bool(arguments.allow_pickle),
    )
    config, counts = network.config, count_parameters(network.config)
    folder = Path(arguments.output)
    sizes = {name: config[name] for name in ("num_layers", "hidden_size", "num_experts", "num_experts_per_tok")}
    report = {"status": "done", "folder": str(folder), **sizes, "parameters": counts.total, "active": counts.active}
    text = (
        f"wrote {folder}: {config.num_layers} layers of width {config.hidden_size}, {config.num_experts} experts; "
        f"{_number(counts.total)} parameters, {_number(counts.active)} of them active for a token"
    )
    if arguments.quiet:
        text = str(folder)
    return EXIT_DONE, report if arguments.format == "json" else {"text": text}


def _number(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count:,}"
