"""From words to files, for every family: request -> plan -> dry run or run, with one report and one exit code.

Nothing heavy is imported before a request is completed and checked.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from w2sd_video.commands.command_line import EXIT_DONE, EXIT_FAILED, Parser, build_parser, request_of, run_command
from w2sd_video.commands.families.base import Family, Loading, Maker
from w2sd_video.commands.machines import (
    check_device,
    choose_memory,
    cpu_build,
    machine_as_it_is,
    machine_of,
    memory_lines,
    memory_report,
    planned_device,
    prepared,
    to_load,
)
from w2sd_video.commands.method_settings import REFINEMENTS, match_evaluations, reflected_steps
from w2sd_video.commands.options import option_of, options_of
from w2sd_video.commands.placing import load_placed, placing_notes
from w2sd_video.commands.plan import PARTS, Plan
from w2sd_video.commands.request import Request
from w2sd_video.commands.rewards import identity_of, reward_record
from w2sd_video.commands.suites import SuiteScores, with_suite
from w2sd_video.demo.bundled import is_bundled, said_of
from w2sd_video.errors import UserError
from w2sd_video.loading.memory import AUTO, MEMORY_PLANS, Estimate, Machine, estimate_memory, memory_plan
from w2sd_video.presets import preset_table
from w2sd_video.report.page import counted
from w2sd_video.runs.fellows import Worker
from w2sd_video.runs.file_names import run_folder
from w2sd_video.runs.journal import Journal
from w2sd_video.runs.picture_io import PICTURES
from w2sd_video.runs.progress import Progress, TerminalProgress, calm_libraries
from w2sd_video.runs.runs import Make, RunPlan, Summary, library_versions, perform
from w2sd_video.runs.tasks import Task
from w2sd_video.runs.video_io import video_medium

MOST_FILES = 1000  # of a dry run's list
SHOWN_FILES = 20  # likewise, in its text
NOT_REHEARSED = "not loaded: --rehearse also checks tensors, LoRAs and noise levels against the classes that load them"


def run_family(family: Family, argv: Sequence[str], program: str) -> int:
    """Runs `program` (or one of the family's subcommands) on the words; returns the exit code."""
    words = list(argv)
    if words[:1] and words[0] in family.programs:
        return family.programs[words[0]](words[1:])

    def run(arguments: argparse.Namespace, _: list[str]) -> tuple[int, dict[str, Any]]:
        return _run(family, arguments, shlex.join([*shlex.split(program), *words]))

    return run_command(parser_of(family, program), words, run, made="files", room=family.room)


def parser_of(family: Family, program: str) -> Parser:
    """Returns the parser of a family's program."""
    methods = "\n".join(f"  {name:17s} {method.about}" for name, method in family.methods.items())
    presets = "\n".join(f"  {name:20s} {preset.description}" for name, preset in family.presets.items())
    return build_parser(
        program,
        family.name,
        description=f"Make {family.about}, by Weak-to-Strong Diffusion (W2SD) beside weak and strong.",
        examples=family.examples,
        details="\n".join([family.details, f"presets:\n{presets}\n" * bool(presets), f"methods:\n{methods}\n", FOLDER]),
        listing=getattr(family, "listing", preset_table if family.presets else None),
    )


FOLDER = """\
The output folder holds run.json, results.jsonl (a line per file), one folder per method with "<prompt>-<index>" files,
comparison/ and index.html. Stopped at any moment, the same command finishes the set. Another run is refused in the same
folder; only methods may be added, and prompts after those there, and --memory, --quiet and --format may change.
"""


def _run(family: Family, arguments: argparse.Namespace, command: str) -> tuple[int, dict[str, Any]]:
    videos = family.name == "video" or bool(getattr(arguments, "video", None))
    progress = TerminalProgress(quiet=bool(arguments.quiet), noun="video" if videos else "picture")
    shard = None if arguments.shard is None else option_of(family.name, "shard").read(arguments.shard)
    request = request_of(family.name, arguments, progress.note)
    request, manifest = with_suite(request, suite) if (suite := getattr(arguments, "suite", None)) else (request, None)
    calm_libraries(bars=progress.bars)
    plan = plan_of(family, request)
    if request.get("match_evaluations") is not None:
        progress.note(match_evaluations(request.match_evaluations).sentence())
    as_json = arguments.format == "json"
    if arguments.dry_run:
        plan = planned_device(plan)
        machine, estimate = machine_of(plan), memory_of(family, plan)
        plan = choose_memory(plan, estimate, machine)
        plan = rehearsed(family, plan) if arguments.rehearse else plan
        for message in plan.notes:  # a run tells them, too, and keeps them
            progress.note(message)
        report = describe(family, plan, memory_report(plan, estimate, machine))
        report["rehearsed"] = bool(arguments.rehearse)
        report |= _hours(report, **{name: _of_run(family, arguments, name) for name in ("rows_per_second", "price")})
        return EXIT_DONE, report if as_json else {"text": plan_text(report)}
    if plan.device != "auto":
        check_device(plan.device)
    for name in ("rows_per_second", "price", "rehearse"):
        if getattr(arguments, name):
            raise UserError(f"--{name.replace('_', '-')} is for a plan; add --dry-run, or leave it out")
    sharing: dict[str, Any] = {"shared": bool(arguments.shared), "shard": shard}
    summary, written = make(family, plan, progress=progress, command=command, manifest=manifest, **sharing)
    code = EXIT_DONE if summary.complete else EXIT_FAILED
    if as_json:
        return code, describe_summary(summary, written)
    return code, {"text": summary_text(summary, written, quiet=bool(arguments.quiet))}


def plan_of(family: Family, request: Request) -> Plan:
    """Returns the request completed and checked, with the folder that it goes to.

    Raises:
        UserError: what cannot be made: got, allowed, remedy.
    """
    plan = family.complete(request, family.describe(request))
    if request.output is not None:
        _check_output(Path(request.output).expanduser())
    plan = replace(
        plan, notes=(*_toys(plan), *plan.notes, *placing_notes(plan), *_nothing_reflected(request, plan, family))
    )
    identity = [plan.settings(), plan.pair_record(), plan.prompts, plan.dtype, plan.device, *identity_of(plan.reward)]
    return replace(plan, output=run_folder(request.output, plan.pair.name, identity))


def _check_output(folder: Path) -> None:
    """Raises `UserError` for a folder that cannot be made or written to; it need not be there yet."""
    if folder.is_file():
        raise UserError(f"--output {folder} is a file; give a folder, which need not be there yet")
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise UserError(f"--output {folder} cannot be made, as {there} is a file; give another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"--output {folder} cannot be made, as {there} cannot be written to; give another folder")


def _toys(plan: Plan) -> list[str]:
    bundled = is_bundled(plan.pair.strong.checkpoint) or is_bundled(plan.pair.weak.checkpoint)
    return [said_of(plan.width, plan.height)] if bundled else []


def _nothing_reflected(request: Request, plan: Plan, family: Family) -> list[str]:
    """Says so where methods that reflect have no step to reflect and nobody asked for that."""
    asked = [name for name in plan.methods if family.methods[name].reflects]
    if plan.num_reflections or request.asks("reflections") or not asked:
        return []
    steps = counted(plan.steps, "step")
    return [f"with {steps} no step is reflected, so that {', '.join(asked)} make what their model makes by itself"]


def check_words(family: Family, words: Sequence[str]) -> Plan:
    """Returns the plan of a command line; raises `UserError` where it would be refused before a model is loaded."""
    request = request_of(family.name, parser_of(family, family.name).parse_args(words), lambda message: None)
    return plan_of(family, request)


def on_device(plan: Any, family: Family | None = None) -> tuple[Any, str]:
    """Returns the plan with "auto" resolved, and the device's name; refuses what this machine has not.

    A plan for the CPU needs no torch.
    """
    if plan.device == "auto" and cpu_build():
        plan = replace(plan, device="cpu")
    if plan.device == "cpu":
        if plan.memory != AUTO:
            memory_plan(plan.memory, "cpu")
        plan = replace(plan, dtype="float32" if plan.dtype == "auto" else plan.dtype)
        return choose_memory(plan, None, Machine()), platform.machine()
    import torch

    from w2sd_video.loading.placement import choose_device, choose_dtype

    device = choose_device(plan.device)
    dtype = str(choose_dtype(plan.dtype, device)).removeprefix("torch.")
    plan = replace(plan, device=device, dtype=dtype)
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    if plan.memory == AUTO and device.startswith("cuda"):
        plan = choose_memory(plan, memory_of(family, plan), machine_as_it_is(plan, device))
    memory_plan("resident" if plan.memory == AUTO else plan.memory, device)
    return choose_memory(plan, None, Machine()), name


def memory_of(family: Family | None, plan: Plan) -> Estimate | None:
    """Returns what a plan whose device is settled takes by each memory plan; None where sizes are not known."""
    sides = getattr(family, "memory", lambda plan: None)(plan)
    plans = getattr(family, "memory_plans", MEMORY_PLANS)
    return None if sides is None else estimate_memory(sides, dtype=plan.dtype, device=plan.device, plans=plans)


def settled(family: Family, plan: Plan) -> tuple[Plan, str]:
    """Returns the plan on its device, and the device's name, after the last check that needs nothing in memory.

    Raises:
        UserError: what a run would refuse before its first evaluation, as far as files tell.
    """
    plan, name = on_device(plan, family)
    return rehearsed(family, plan), name


def rehearsed(family: Family, plan: Plan) -> Plan:
    """Returns the plan with what its rehearsal notes; raises `UserError` as that does."""
    return replace(plan, notes=(*plan.notes, *(family.rehearse(plan) or ())))


def make(
    family: Family,
    plan: Plan,
    *,
    progress: Progress | None = None,
    command: str = "",
    shared: bool = False,
    shard: tuple[int, int] | None = None,
    manifest: Any = None,
    kept: list[Maker] | None = None,
) -> tuple[Summary, Mapping[str, str]]:
    """Makes what a plan names and is not there yet; returns what was done, and what was written of many files.

    With `shared` other processes may do the same at the same time (`accelerate launch` and torchrun imply it); with
    `shard` (i, n) this one makes its n-th part only, and what is made of many files comes with the last of the parts.
    With the `manifest` of a suite the videos are scored as they are made. `kept` holds the models of the run before,
    which are used again where they can be, and then those of this one.

    Raises UserError for what cannot be used or a folder that holds another run, OSError if the disk refuses (nothing
    finished is lost).
    """
    progress = progress or Progress()
    worker = Worker.of_environment()
    progress.loading(*to_load(plan))
    plan, device_name = settled(family, replace(plan, device=worker.device(plan.device)))
    run = replace(run_plan(family, plan, command, device_name), shared=shared, shard=shard)
    makers: list[Maker] = []
    scores = None
    if manifest is not None:
        alone = worker.count == 1 and not shared and shard is None
        scores = SuiteScores(
            run.output, manifest, plan.methods, device=plan.device, note=progress.note, alone=alone, first=worker.first
        )

    def load(pending: Sequence[Task], journal: Journal) -> Make:
        for message in plan.notes:
            journal.note(message)
        loading = Loading(
            pending,
            note=journal.note,
            say=progress.note,
            amend=journal.amend,
            record=journal.run,
            folder=journal.folder,
            bars=progress.bars,
            read=progress.read,
            kept=[] if kept is None else kept,
        )
        makers.append(load_placed(family, plan, loading, journal.agree))
        if kept is not None:
            kept.append(makers[0])
        return makers[0].make

    with prepared(plan, first=not kept):
        between = None if scores is None else scores.between
        summary = perform(run, load, batch=plan.batch, worker=worker, progress=progress, between=between)
        last = worker.first if shard is None else summary.all_there
        written = family.finish(plan, run, makers[0] if makers else None, progress) if last else {}
    if scores is not None and (shard is None or summary.all_there):
        makers.clear()  # their memory is wanted
        written = {**written, **scores.finish()}
    return summary, written


def run_plan(family: Family, plan: Plan, command: str, device_name: str) -> RunPlan:
    """Returns the plan as a run; its record has everything needed to repeat it."""
    return RunPlan(
        output=plan.output,
        record={
            "command": command,
            "preset": plan.preset,
            "pair": plan.pair_record(),
            "verdict": plan.verdict,
            "settings": plan.settings(),
            "methods": plan.methods,
            "prompts": plan.prompts,
            "seeds": plan.seeds(),
            "device": plan.device.partition(":")[0],  # which of several accelerators is no matter
            "dtype": plan.dtype,
            **reward_record(plan.reward),
            "versions": library_versions(device_name),
        },
        groups=plan.groups(),
        methods=family.methods,
        evaluations={method: cost.evaluations for method, cost in family.cost(plan).items()},
        medium=PICTURES if plan.fps is None else video_medium(plan.fps),
        reflected_steps=reflected_steps(plan.reflection, plan.steps),
        shown=plan.shown,
    )


def describe(family: Family, plan: Plan, memory: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns what a plan will do as JSON data: methods with their cost, totals, memory, files, the paper's numbers."""
    costs = {method: cost.record() for method, cost in family.cost(plan).items()}
    counted = {name for cost in costs.values() for name in cost if name != "at_most"}
    totals = {name: plan.per_method * sum(cost.get(name, 0) for cost in costs.values()) for name in sorted(counted)}
    preset = None if plan.preset is None else family.presets.get(plan.preset)
    paper: Any = getattr(preset, "paper", ()) if plan.pair.name == plan.preset else ()
    comparison = ".png" if plan.num_frames is None else ".mp4"
    files = [task.path for group in islice(plan.groups(), MOST_FILES) for task in group]
    if len(plan.methods) > 1:
        files += [f"comparison/{group[0].name}{comparison}" for group in islice(plan.groups(), MOST_FILES)]
    lines = [line for table in paper for line in table.lines()]
    return {
        "status": "planned",
        "folder": str(plan.output),
        "family": plan.family,
        "preset": plan.preset,
        "pair": plan.pair_record(),
        "verdict": plan.verdict,
        "settings": plan.settings(),
        **reward_record(plan.reward),
        "device": plan.device,
        "dtype": plan.dtype,
        "memory": plan.memory,
        **({"notes": list(plan.notes)} if plan.notes else {}),
        **({"checked": list(plan.checked)} if plan.checked else {}),
        "methods": costs,
        f"{plan.noun}s": plan.per_method * len(plan.methods),
        "prompts": len(plan.prompts),
        **totals,
        **(memory or {}),
        **({"details": plan.own.details()} if hasattr(plan.own, "details") else {}),
        "files": ["run.json", "results.jsonl", "index.html", *files],
        "num_files": 3 + plan.per_method * (len(plan.methods) + (len(plan.methods) > 1)),
        **({"paper": lines} if lines else {}),
    }


def _of_run(family: Family, arguments: argparse.Namespace, name: str) -> Any:
    """A flag of how to run, checked against its row of the table."""
    (row,) = (option for option in options_of(family.name) if option.field == name)
    return row.checked(getattr(arguments, name))


def _hours(report: Mapping[str, Any], rows_per_second: float | None, price: float | None) -> dict[str, float]:
    """How long a plan's rows take on one accelerator, and what they cost; decoding and loading come on top."""
    if rows_per_second is None:
        if price is not None:
            raise UserError("--price needs --rows-per-second: give the rate too, or leave it out")
        return {}
    hours = report["rows"] / rows_per_second / 3600
    return {"hours": round(hours, 2), **({} if price is None else {"price": round(hours * price, 2)})}


def plan_text(report: Mapping[str, Any]) -> str:
    """Returns a plan as text for people."""
    settings, pair, files = report["settings"], report["pair"], report["files"]
    noun = "videos" if "videos" in report else "pictures"
    frames = f"{counted(settings['num_frames'], 'frame')} at {settings['fps']:g} fps of " if noun == "videos" else ""
    scale = _scale
    shown = (
        *PARTS,
        "loras",
        "control",
        "ip_adapter_scale",
        "strong_experts",
        "weak_experts",
        "strong_levels",
        "weak_levels",
    )
    extra = [name for name in pair if name in shown]
    lines = [
        f"{counted(report[noun], noun[:-1])} of {counted(report['prompts'], 'prompt')} into {report['folder']}",
        f"on {report['device']}, {report['dtype']}, memory plan {report['memory']}",
        f"strong: {_called(pair['strong'])}, {frames}{settings['width']}x{settings['height']}",
        f"weak:   {_called(pair['weak']) if pair['weak'] else 'the same network'}",
        f"latent spaces: {report['verdict']}",
        *(f"{name.replace('_', ' ')}: {pair[name]}" for name in extra),
        *([f"{len(pair['raw_prompts'])} raw prompts on the weak side"] if "raw_prompts" in pair else []),
        f"{counted(settings['steps'], 'step')}, {counted(settings['reflections'], 'reflection')}, mode "
        f"{settings['mode']}, strength {settings['strength']:g}, scheduler {settings['scheduler'] or 'its own'}",
        *([f"matched cost: {settings['plain_steps']} steps without reflections"] if "plain_steps" in settings else []),
        f"guidance: {scale(settings['guidance'])} sampling; inside the reflection {scale(settings['strong_guidance'])} "
        f"strong, {scale(settings['weak_guidance'])} weak",
        *report.get("details", ()),
        *_refinement_lines(report),
        "",
        *_cost_lines(report, noun[:-1]),
        *(
            [
                f"{report['rows']} rows take {report['hours']:g} hours of one accelerator, without decoding"
                + (f", and cost {report['price']:g}" if "price" in report else "")
            ]
            if "hours" in report
            else []
        ),
        "",
        *(["the paper:", *report["paper"], ""] if "paper" in report else []),
    ]
    lines += memory_lines(report)
    lines += [f"files, {report['num_files']} in all:", *(f"  {file}" for file in files[:SHOWN_FILES])]
    if report["num_files"] > SHOWN_FILES:
        lines.append(f"  ... and {report['num_files'] - min(SHOWN_FILES, len(files))} more")
    if not report.get("rehearsed", True):
        names = ", ".join(report.get("checked", ()))
        lines += [*([f"tensors' names and sizes fit: {names}"] if names else []), NOT_REHEARSED]
    return "\n".join(lines)


def _called(checkpoint: str) -> str:
    return f"the bundled toy ({checkpoint})" if is_bundled(checkpoint) else checkpoint


def _scale(guidance: float | None) -> str:
    return "the pipeline's own" if guidance is None else f"{guidance:g}"


def _cost_lines(report: Mapping[str, Any], noun: str) -> list[str]:
    """A plan's table of costs."""
    costs = report["methods"]
    names = list(dict.fromkeys(name for cost in costs.values() for name in cost if name != "at_most"))
    heads = [{"rows": "network rows"}.get(name, name.replace("_", " ")) for name in names]
    rows = [
        ("method", *heads, f"per {noun}"),
        *((m, *(c.get(name, "") for name in names), "at most" if "at_most" in c else "") for m, c in costs.items()),
        ("in all", *(report[name] for name in names), ""),
    ]
    width = max(len(row[0]) for row in rows)
    return [f"{row[0]:{width}s} {' '.join(f'{c!s:>13s}' for c in row[1:-1])}   {row[-1]}".rstrip() for row in rows]


def _refinement_lines(report: Mapping[str, Any]) -> list[str]:
    """What a plan's text says of settings beyond the paper's, and of a reward; nothing where there are none."""
    changed = {name: report["settings"][name] for name in REFINEMENTS if name in report["settings"]}
    said = [
        f"{name.replace('_', '-')} {value if name != 'window' else '{}:{}'.format(*value)}"
        for name, value in changed.items()
    ]
    lines = [", ".join(said).replace("lag True", "lag")] if said else []
    if "reward" in report:
        reward = report["reward"]
        frames = f", at most {reward['frames']} frames" if "frames" in reward else ""
        lines.append(f"reward: {reward['name']}, threshold {reward['threshold']:g}{frames}")
    return lines


def describe_summary(summary: Summary, written: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Returns what a run came to as JSON data."""
    return {
        "status": "done" if summary.complete else "failed",
        "folder": str(summary.folder),
        "page": str(summary.folder / "index.html"),
        "results": str(summary.folder / "results.jsonl"),
        **({"written": dict(written or {})} if written else {}),
        **({"notes": summary.notes} if summary.notes else {}),
        f"{summary.plan.medium.noun}s": summary.total,
        "kept": summary.kept,
        "made": summary.made,
        "failed": summary.failed,
        "seconds": round(summary.seconds, 3),
    }


def summary_text(summary: Summary, written: Mapping[str, str] | None = None, *, quiet: bool = False) -> str:
    """Returns what a run came to as text for people; with `quiet` the page's path only."""
    page = summary.folder / "index.html"
    if quiet:
        return str(page)
    made, noun, lines = summary.made, summary.plan.medium.noun, []
    done = dict.fromkeys(record["method"] for record in made)
    width = max((len(summary.plan.methods[method].title) for method in done), default=0)
    for method in done:
        records = [record for record in made if record["method"] == method]
        seconds = sum(record["seconds"] for record in records) / len(records)
        title = summary.plan.methods[method].title
        lines.append(f"  {title:{width}s} {records[0]['num_evaluations']:5d} evaluations, {seconds:.3g} s per {noun}")
    kept = f", {summary.kept} were there already" if summary.kept else ""
    failed = f", {len(summary.failed)} FAILED (results.jsonl says why)" if summary.failed else ""
    head = f"{counted(len(made), noun)} made in {summary.seconds:.1f} s{kept}{failed}"
    if summary.left is not None and not summary.all_there:
        lines.append(f"of all {summary.total} {summary.kept + len(made)} are there; the rest is of other shards")
    lines += [f"{name}: {path}" for name, path in (written or {}).items()]
    return "\n".join([head, *lines, f"look at them: {page}"])


def words_of(argv: Sequence[str] | None) -> list[str]:
    """Returns the words of a program: those given, or those of the command line."""
    return list(sys.argv[1:] if argv is None else argv)
