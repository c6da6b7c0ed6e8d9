"""The verb `doctor`: what is installed, which weights are here, and what each missing dimension needs."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

from vbench_eval.commands.arguments import add_output_flags, add_verb, add_weight_flags, table

EXAMPLES = """\
examples:
  w2sd-vbench doctor                       never touches the network
  w2sd-vbench doctor --format json         the same for programs
  w2sd-vbench doctor --cache /models       where else weights may lie
"""
_TOOLS = {"accelerate": "accelerate launch", "torchmetrics": "FID and IS", "vbench": "its prompt suite"}
_COMMERCIAL = {True: "", False: ", no commercial use", None: ", commercial use is not settled"}


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds the verb."""
    parser = add_verb(
        subparsers,
        "doctor",
        help="say what is installed, which weights are here, and what is missing",
        examples=EXAMPLES,
    )
    add_weight_flags(parser)
    add_output_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """Reports; the code is 0 whatever is missing."""
    from vbench_eval.backbones.registry import inventory
    from vbench_eval.selection import versions

    weights = inventory(cache=arguments.cache)
    pictures = _picture_weights(arguments.cache)
    libraries = {**versions(), **_others()}
    machine = _machine()
    report = {
        "status": "done",
        "versions": libraries,
        "machine": machine,
        "weights": weights,
        "picture_weights": pictures,
    }
    return 0, {**report, "text": _text(libraries, machine, weights, pictures)}


def _picture_weights(cache: str | None) -> list[dict[str, Any]]:
    """A row per set of weights that metrics of pictures are computed with, and by which of them."""
    from vbench_eval.backbones.registry import stock
    from vbench_eval.images import IMAGE_METRICS

    takers: dict[str, list[str]] = {}
    for metric in IMAGE_METRICS.values():
        for name in metric.weights:
            takers.setdefault(name, []).append(metric.name)
    return [{"metrics": metrics, **stock(name, cache)} for name, metrics in takers.items()]


def _others() -> dict[str, str]:
    from importlib import metadata

    found = {}
    for name in _TOOLS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def _machine() -> dict[str, Any]:
    try:
        import torch
    except ImportError:
        return {"torch": "absent"}
    devices = [f"cuda:{number} {torch.cuda.get_device_name(number)}" for number in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return {
        "devices": [*devices, "cpu"],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "free_disk_gb": round(shutil.disk_usage(_nearest(Path.home())).free / 1e9, 1),
    }


def _nearest(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _text(
    libraries: dict[str, str], machine: dict[str, Any], weights: list[dict[str, Any]], pictures: list[dict[str, Any]]
) -> str:
    lines = ["installed:"]
    lines.append(
        table([(name, version, f"for {_TOOLS[name]}" if name in _TOOLS else "") for name, version in libraries.items()])
    )
    lines += ["", "machine:", *(f"  {name}: {_shown(value)}" for name, value in machine.items()), "", "dimensions:"]
    lines.append(table([(row["dimension"], row["what"], _state(row)) for row in weights]))
    lines += ["", "metrics of pictures:"]
    lines.append(table([(", ".join(row["metrics"]), row["what"], _state(row)) for row in pictures]))
    known = {row["backbone"] for row in weights}
    for row in [*weights, *(row for row in pictures if row["backbone"] not in known)]:
        if row["backbone"] is not None and row["found"] is None:
            taker = row.get("dimension") or ", ".join(row["metrics"])
            lines += ["", f"{taker} lacks {row['what']} ({row['file']}, {row['size']})"]
            lines += [f"  licence  {row['licence']}{_COMMERCIAL[row['commercial_ok']]}"]
            lines += [f"  from     {place}" for place in row["where"]]
            lines += [f"  get it   {row['command'] or row['problem']}"]
    return "\n".join(lines)


def _state(row: dict[str, Any]) -> str:
    if row["backbone"] is None:
        return "ready"
    return f"here: {row['found']}" if row["found"] else "MISSING"


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
