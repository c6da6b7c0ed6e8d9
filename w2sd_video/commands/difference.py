"""The program `w2sd diff`: the weak checkpoint as its difference to the strong one, in a LoRA's file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from w2sd_video.commands.command_line import EXIT_DONE, Parser, build_parser, request_of, run_command, said
from w2sd_video.commands.engine import words_of
from w2sd_video.commands.request import Request
from w2sd_video.errors import UserError
from w2sd_video.loading.describe import Description, describe
from w2sd_video.runs.journal import held
from w2sd_video.runs.progress import TerminalProgress, calm_libraries

RANK = 64
SHOWN = 10  # layers and tensors that are listed; the file's header and --format json have all
ROOM = "One tensor of each side is in memory at a time; close other programs."
EXAMPLES = """\
  {program} --strong ./juggernaut --weak ./sdxl --rank 64 base.safetensors
  {program} --strong ./finetune.safetensors --weak ./sdxl.safetensors --config ./sdxl --energy 0.99 base.safetensors
and then, with one network in memory:
  w2sd image --strong ./juggernaut --lora base=base.safetensors:0 --weak-lora base:1 --prompt "a fox"
"""


def parser(program: str) -> Parser:
    """Returns the parser of the command."""
    made = build_parser(
        program,
        "diff",
        description="Write the weak checkpoint as its difference to the strong one, W_weak - W_strong of every layer "
        "at low rank: a LoRA of a few megabytes. At its scale 0 the network is the strong one, at 1 nearly the weak "
        "one. The error of every layer is shown and kept in the file's header.",
        examples=EXAMPLES,
    )
    made.add_argument("file", nargs="?", help=argparse.SUPPRESS)
    made.usage = f"{program} --strong MODEL --weak MODEL [flags] FILE.safetensors"
    return made


def main(argv: Sequence[str] | None = None, *, program: str = "w2sd diff") -> int:
    """Runs the command and returns its exit code (see `--help`)."""
    return run_command(parser(program), words_of(argv), _run, room=ROOM)


def _run(arguments: argparse.Namespace, _: list[str]) -> tuple[int, dict[str, Any]]:
    progress = TerminalProgress(quiet=bool(arguments.quiet), noun="layer")
    calm_libraries(bars=progress.bars)
    if arguments.file is not None and arguments.output is not None:
        raise UserError(f"the file is given twice, as {arguments.output} and {arguments.file}; give one of the two")
    arguments.output = arguments.output or arguments.file
    request = request_of("diff", arguments, progress.note)
    target = _target(request.output)
    sides = _sides(request)
    rank = RANK if request.rank is None and request.energy is None else request.rank
    settings = {"strong": sides[0].given, "weak": sides[1].given, "rank": rank, "energy": request.energy}
    from w2sd_video.loading import differences

    part = differences.check_sides(*sides)
    if arguments.dry_run:
        header = sides[1].weights(part)
        assert header is not None
        report = {"status": "planned", "output": str(target), **settings, "tensors": len(header.header)}
        text = f"{_asked(rank, request.energy)} of {len(header.header)} tensors into {target}"
        return EXIT_DONE, said(arguments, report, text)
    with held(target.parent):  # before anything is computed
        try:
            tensors, found = differences.find_difference(
                *sides, rank=rank, energy=request.energy, seed=request.seed, progress=_shown(progress)
            )
        finally:
            progress.close()
        differences.write_difference(target, tensors, found, {**settings, "seed": request.seed})
    report = {"status": "done", "output": str(target), **settings, **found.record()}
    return EXIT_DONE, said(arguments, report, _text(found, settings, target), str(target))


def _target(output: str | None) -> Path:
    example = "give the LoRA's file, such as weak.safetensors"
    if output is None or Path(output).suffix != ".safetensors":
        raise UserError(f"the file to write is {'missing' if output is None else output}; {example}")
    if Path(output).is_dir():
        raise UserError(f"{output} is a folder; {example}")
    return Path(output)


def _sides(request: Request) -> tuple[Description, Description]:
    found = []
    for role in ("strong", "weak"):
        given = getattr(request, role)
        if given is None:
            raise UserError(f"--{role} is missing; give --strong and --weak, two checkpoints of one network")
        config = request.config if Path(given).expanduser().is_file() else None
        found.append(describe(given, role, config=config, video=None, lent=True))
    return found[0], found[1]


def _shown(progress: TerminalProgress) -> Any:
    def shown(done: int, total: int, name: str) -> None:
        if not done:
            progress.started(total, total)
        elif progress.bars:
            progress.evaluated(1)
        progress.making(name)

    return shown


def _asked(rank: int | None, energy: float | None) -> str:
    share = "" if energy is None else f"{energy:.4g} of the squared difference"
    most = "" if rank is None else f"at most rank {rank}"
    return ", ".join(filter(None, (share, most)))


def _text(found: Any, settings: dict[str, Any], target: Path) -> str:
    ranks = sorted(layer.rank for layer in found.layers.values())
    megabytes, of = found.num_bytes / 1e6, found.network_bytes / 1e6
    lines = [
        f"{len(found.layers)} layers at ranks {ranks[0]} to {ranks[-1]} and {found.biases} biases in {target}: "
        f"{megabytes:.1f} MB for a network of {of:.1f} MB; {found.equal} layers are equal",
        f"error {found.error:.3g} of the whole difference (0 is exact, 1 as if there were none)",
        "layer                                                                   rank   size   error",
        *(f"  {name:68s} {layer.rank:5d} {layer.size:8.2g} {layer.error:6.3f}" for name, layer in found.worst[:SHOWN]),
    ]
    if found.not_carried:
        worst = sorted(found.not_carried.items(), key=lambda pair: -pair[1])[:SHOWN]
        listed = ", ".join(f"{name} ({size:.2g})" for name, size in worst)
        lines.append(f"not carried, as a LoRA has no place for them: {len(found.not_carried)} tensors: {listed}")
    lines += [f"note: {note}" for note in found.notes]
    lines.append(f"use it: --strong {settings['strong']} --lora weak={target}:0 --weak-lora weak:1")
    return "\n".join(lines)
