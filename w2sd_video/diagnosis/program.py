"""The program `scripts/diagnose.py`: what files tell of a pair, then what a few prompts tell.

Nothing heavy is imported before the files are judged.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vbench_eval.files import write_bytes
from w2sd_video.commands.app import families, family_named
from w2sd_video.commands.command_line import EXIT_DONE, EXIT_FAILED, Parser, build_parser, run_command
from w2sd_video.commands.engine import check_words, words_of
from w2sd_video.diagnosis.asking import planned, question_of, verdict_on
from w2sd_video.diagnosis.next_steps import next_step
from w2sd_video.diagnosis.reporting import describe_files, describe_step, files_text, next_text
from w2sd_video.diagnosis.verdicts import VERDICTS
from w2sd_video.presets import preset_table
from w2sd_video.runs.journal import held
from w2sd_video.runs.progress import TerminalProgress, calm_libraries

ROOM = "Try fewer --steps, a smaller --height and --width, or --memory weak-offload."
REPORT, PLOT = "diagnosis.json", "gap.png"
EXAMPLES = """\
  {program}                                      the bundled pair of videos
  {program} --preset picture-demo                the bundled pictures: one network, guidance 1 over 0
  {program} --strong ./finetune.safetensors --weak ./sdxl --config ./sdxl --files-only
  {program} --strong ./sdxl --lora art=./art.safetensors:0.8 --weak-lora art:-1.5 --prompt "a fox" --prompt "a lake"
  {program} --strong ./flux --weak ./sdxl --format json
"""
DETAILS = """\
verdicts, from files alone:
{verdicts}

measured with a few prompts and steps, where the sides share their latent space: by noise level the size of the gap, the
error of the inversion (the zero-gap control) and the cosine of successive gaps; whether the pair conflicts or is too
similar, by thresholds whose rates of false alarm and detection are printed; and one setting to begin with.
Exit code 1 also means that the pair cannot be reflected (verdict refuse).
"""


def parser(program: str) -> Parser:
    """Returns the parser of the command."""
    verdicts = "\n".join(f"  {name:10s}{about}" for name, about in VERDICTS.items())
    return build_parser(
        program,
        "diagnose",
        description="Say of a pair, before it is paid for: whether its sides share a latent space, how large their gap "
        "is, whether it fails in a known way, and how to reflect it.",
        examples=EXAMPLES,
        details=DETAILS.format(verdicts=verdicts),
        listing=preset_table,
    )


def main(argv: Sequence[str] | None = None, *, program: str = "w2sd diagnose") -> int:
    """Runs the command and returns its exit code (see `--help`)."""
    return run_command(parser(program), words_of(argv), _run, room=ROOM)


def check_command(words: Sequence[str]) -> None:
    """Raises `UserError` where a command ("w2sd", family, flags) would be refused before it loads a model."""
    if words[1] in families():
        check_words(family_named(words[1]), list(words[2:]))


def _run(arguments: argparse.Namespace, _: list[str]) -> tuple[int, dict[str, Any]]:
    kept = contextlib.nullcontext() if arguments.output is None else held(Path(arguments.output).expanduser())
    with kept:  # before anything is measured
        return _diagnosed(arguments)


def _diagnosed(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    progress = TerminalProgress(quiet=arguments.quiet, noun="measurement")
    calm_libraries(bars=progress.bars)
    question = question_of(arguments)
    verdict, *sides = verdict_on(question)

    def step_of(settings: Sequence[str] = ()) -> Any:
        return next_step(verdict, question, (sides[0], sides[1]), settings, check=check_command)

    report = {"status": "done", **describe_files(verdict, question.strong, question.weak, step_of())}
    text = [files_text(report)]
    code = EXIT_FAILED if verdict.name == "refuse" else EXIT_DONE
    if verdict.reflects_directly and not arguments.files_only:
        plan = planned(question, progress)  # refused before anything heavy is imported
        for note in plan.notes:
            progress.note(note)
        from w2sd_video.diagnosis.treating import treat

        treated = treat(question, plan, progress)
        code = EXIT_DONE if treated.finished else EXIT_FAILED
        report["measured"] = treated.report
        report["notes"] = list(plan.notes)
        report["next"] = describe_step(step_of(treated.flags))
        text.append(treated.text)
        keep(arguments.output, report, treated.picture)
    else:
        keep(arguments.output, report)
    text.append(next_text(report["next"]))
    if arguments.output is not None:
        text.append(f"kept in {arguments.output}")
    return code, report if arguments.format == "json" else {"text": "\n\n".join(part for part in text if part)}


def keep(folder: str | None, report: dict[str, Any], picture: Any = None) -> None:
    """Writes the report, and the plot where there is one, into a folder."""
    if folder is None:
        return
    place = Path(folder).expanduser()
    place.mkdir(parents=True, exist_ok=True)
    write_bytes(place / REPORT, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode("utf-8"))
    if picture is not None:
        from w2sd_video.report.figures import save

        save(picture, place / PLOT)
