"""The verb `total`: VBench's quality, semantic and total score from any number of result files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vbench_eval.commands.arguments import add_output_flags, add_verb, table
from vbench_eval.errors import UserError

EXAMPLES = """\
examples:
  w2sd-vbench total scores/w2sd_eval_results.json                       a partial score, and what is missing
  w2sd-vbench total scores vbench/evaluation_results --output merged    with the dimensions that VBench's package gave
  w2sd-vbench total --suite vbench-2.0 evaluation_results                VBench-2.0's, of what its package measured
  w2sd-vbench total submission.zip                                      as its cal_final_score.py reads it

object_class, multiple_objects, color and spatial_relationship need GRiT and detectron2: score them with VBench's own
package and give its result files here. VBench's script takes what is missing for 0; here the score is over what is
there, and called partial.
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds the verb."""
    parser = add_verb(subparsers, "total", help="add up VBench's total score from result files", examples=EXAMPLES)
    parser.add_argument("files", nargs="*", metavar="FILE", help="*_eval_results.json, a folder or a zip file of them")
    parser.add_argument("--zip_file", metavar="FILE", help="the same, as VBench's cal_final_score.py spells it")
    parser.add_argument(
        "--suite",
        choices=("vbench", "vbench-2.0"),
        default="vbench",
        help="whose dimensions the files hold (default: vbench)",
    )
    parser.add_argument("--model_name", help=argparse.SUPPRESS)
    parser.add_argument("--output", metavar="FOLDER", help="write NAME_eval_results.json and NAME.zip with all of them")
    parser.add_argument("--name", default="total", help="begins the names of these files (default: total)")
    add_output_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """Adds up; the code is 1 if the score is partial or not VBench's."""
    from vbench_eval.results import check_name
    from vbench_eval.totals import SIXTEEN, read_total, write_total

    check_name(arguments.name)
    files = [*arguments.files, *([arguments.zip_file] if arguments.zip_file else [])]
    if not files:
        raise UserError("no result file is given; write w2sd-vbench total FILE")
    if arguments.suite == "vbench-2.0":
        return _vbench2(files)
    total = read_total(files)
    found = total.to_json()
    rows = [("dimension", "value", "normalised", "from")]
    for name in SIXTEEN:
        facts = found["dimensions"].get(name)
        rows.append(
            (name, f"{facts['aggregate']:.4f}", f"{facts['normalised']:.4f}", facts["source"])
            if facts
            else (name, "-", "-", "missing")
        )
    lines = [table(rows), ""]
    for kind in ("quality", "semantic", "total"):
        value = found[kind]["value"]
        lines.append(f"  {found[kind]['label']}: " + ("-" if value is None else f"{100 * value:.2f}"))
    lines += ["", f"  {total.verdict}"]
    written = write_total(total, Path(arguments.output), arguments.name) if arguments.output else []
    lines += [f"  {path}" for path in written]
    report = {"status": "done" if total.official else "incomplete", **found, "files": [str(path) for path in written]}
    return int(not total.official), {**report, "text": "\n".join(lines)}


def _vbench2(files: list[str]) -> tuple[int, dict[str, Any]]:
    from vbench_eval.vbench2 import read_vbench2, vbench2_scores

    aggregates = read_vbench2(files)
    scores = vbench2_scores(aggregates)
    rows = [("dimension", "value"), *((name, f"{value:.4f}") for name, value in aggregates.items())]
    lines = [table(rows), ""]
    lines += [f"  {one.label}: " + ("-" if one.value is None else f"{100 * one.value:.2f}") for one in scores]
    if missing := scores[-1].missing:
        lines += ["", f"  missing: {', '.join(missing)}"]
    report = {
        "status": "done" if scores[-1].complete else "incomplete",
        "dimensions": aggregates,
        "scores": {one.name: one.to_json() for one in scores},
    }
    return int(not scores[-1].complete), {**report, "text": "\n".join(lines)}
