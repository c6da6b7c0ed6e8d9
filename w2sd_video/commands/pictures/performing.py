"""What a program does with a plan: says what it would do, or does it and says what came of it."""

from __future__ import annotations

import argparse
from typing import Any

from w2sd_video.commands.command_line import EXIT_DONE, EXIT_FAILED
from w2sd_video.commands.pictures.reporting import describe_image_plan, image_plan_text
from w2sd_video.commands.pictures.request import ImagePlan
from w2sd_video.commands.pictures.running import on_device, run_images
from w2sd_video.commands.reports import describe_summary, summary_text
from w2sd_video.runs.progress import Progress


def perform_plan(
    plan: ImagePlan, arguments: argparse.Namespace, progress: Progress, command: str
) -> tuple[int, dict[str, Any]]:
    """Returns the exit code and the report; `arguments` has the flags --dry-run, --format and --quiet."""
    as_json = arguments.format == "json"
    if arguments.dry_run:
        report = describe_image_plan(on_device(plan)[0])
        return EXIT_DONE, report if as_json else {"text": image_plan_text(report)}
    summary = run_images(plan, progress=progress, command=command)
    code = EXIT_DONE if summary.complete else EXIT_FAILED
    return code, describe_summary(summary) if as_json else {"text": summary_text(summary, quiet=arguments.quiet)}
