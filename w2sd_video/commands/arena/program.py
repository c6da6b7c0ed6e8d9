"""The program `w2sd arena`: every method at equal rows, on a pair of one's own, by a reward of one's own.

Nothing heavy is imported before the arguments are checked.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from w2sd_video.commands.app import family_named
from w2sd_video.commands.arena.entrants import ENTRANTS, LEFT_OUT, chosen
from w2sd_video.commands.arena.results import arena_text, compared, report, write
from w2sd_video.commands.arena.trials import Arena, Runner, entered
from w2sd_video.commands.command_line import EXIT_DONE, Parser, build_parser, request_of
from w2sd_video.commands.sweep.program import inner_request, run_around
from w2sd_video.commands.sweep.scoring import find_scorer
from w2sd_video.errors import UserError
from w2sd_video.runs.file_names import run_folder
from w2sd_video.runs.journal import held
from w2sd_video.runs.progress import TerminalProgress, calm_libraries

EXAMPLES = """\
  {program} --videos                                    the bundled videos, read by the oracle
  {program} --reward my_scores.py:hps --budgets 50,100 -- --preset lora-sdxl --lora NAME=FILE --prompts prompts.txt
  {program} --videos --reward my_scores.py:mine --entrants "CFG,auto-guidance,W2SD fused" -- \\
      --strong ./tuned --weak ./base --prompts prompts.txt
"""
DETAILS = """\
entrants, each with as many steps as a budget has room for:
{entrants}

not compared:
{left}

The settings of each are chosen on --tuned seeds and scored on --count others; beside every form of W2SD stands its
zero-gap. The folder holds a run's folder for each, arena.json, arena.png and index.html. Stopped at any moment, the
same command finishes it.
"""


def parser(program: str) -> Parser:
    """Returns the parser of the arena's own flags, which stand before a "--"."""
    entrants = "\n".join(
        f"  {entrant.name:22s} {len(entrant.grid)} setting{'s' * (len(entrant.grid) > 1)}  {entrant.source}".rstrip()
        for entrant in ENTRANTS
    )
    left = "\n".join(f"  {name}: {why}" for name, why in LEFT_OUT.items())
    built = build_parser(
        program,
        "arena",
        description="Which method for my model, at my budget? W2SD beside every other at equal rows, with intervals.",
        examples=EXAMPLES,
        details=DETAILS.format(entrants=entrants, left=left),
    )
    built.usage = f"{program} [flags] [-- flags of w2sd image or w2sd video]"
    return built


def main(argv: Sequence[str] | None = None, program: str = "w2sd arena") -> int:
    """Runs the program and returns its exit code (see `--help`)."""
    return run_around(parser(program), _run, argv, program)


def _run(arguments: argparse.Namespace, command: str, inner: list[str]) -> tuple[int, dict[str, Any]]:
    mine = request_of("arena", arguments, lambda message: None)
    family = family_named(mine.family_name or ("video" if mine.videos else "image"))
    scorers = (find_scorer(mine.reward), find_scorer("motion"))
    noun = "video" if family.name == "video" else "picture"

    def progress() -> TerminalProgress:
        return TerminalProgress(quiet=bool(arguments.quiet), noun=noun)

    calm_libraries(bars=progress().bars)
    request = inner_request(family, inner, progress(), "arena")
    if request.methods is not None:
        raise UserError("--methods stands after the --; the arena has its own: give --entrants before it")
    arena = entered(family, _rewarded(request, mine.reward), chosen(mine.entrants), mine.budgets)
    folder = run_folder(mine.output, f"arena-{arena.base.pair.name}", [repr(request), mine.reward])
    runner = Runner(arena, folder, scorers, progress, command)
    counts = {"tuned": mine.tuned, "count": mine.count}
    if arguments.dry_run:
        planned = _planned(arena, **counts)
        return EXIT_DONE, planned if arguments.format == "json" else {"text": _planned_text(planned)}
    runner.check(counts)
    with held(folder):
        found = report(runner, compared(runner, **counts), **counts)
        write(found, folder)
    if arguments.format == "json":
        return EXIT_DONE, {**found, "folder": str(folder)}
    return EXIT_DONE, {"text": f"{arena_text(found)}\nlook at it: {folder / 'index.html'}"}


def _rewarded(request: Any, reward: str) -> Any:
    """The request whose w2sd-auto asks what scores, where it can be one."""
    from w2sd_video.commands.rewards import NAMES, is_named

    usable = request.has("reward") and request.reward is None and (reward in NAMES or is_named(reward))
    return request.changed(reward=reward) if usable else request


def _planned(arena: Arena, *, tuned: int, count: int) -> dict[str, Any]:
    """What would be made, and what it costs at most."""
    entries: dict[tuple[int, str], list[int]] = {}
    for trial in arena.trials:
        entries.setdefault((trial.budget, trial.entrant.name), []).append(trial.rows)
    controls = {trial.entrant.name for trial in arena.trials if trial.entrant.controlled}
    most = sum(
        (sum(rows) * tuned if len(rows) > 1 else 0) + max(rows) * count * (1 + (name in controls))
        for (_, name), rows in entries.items()
    )
    return {
        "status": "planned",
        "budgets": list(arena.budgets),
        "entrants": [
            {"budget": budget, "method": name, "settings": len(rows), "rows": max(rows)}
            for (budget, name), rows in entries.items()
        ],
        "rows_at_most": most,
        "missing": {**arena.missing, **LEFT_OUT},
    }


def _planned_text(planned: dict[str, Any]) -> str:
    lines = [
        f"  {entry['budget']:6d} rows  {entry['method']:22s} {entry['settings']} settings, {entry['rows']} rows"
        for entry in planned["entrants"]
    ]
    lines += [f"  without {name}: {why}" for name, why in planned["missing"].items()]
    return "\n".join([*lines, f"{planned['rows_at_most']} rows in all at most"])
