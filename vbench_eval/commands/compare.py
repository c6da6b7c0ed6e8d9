"""The verb `compare`: several scored folders, paired by prompt and index."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vbench_eval.commands.arguments import add_output_flags, add_verb, positive
from vbench_eval.errors import UserError

EXAMPLES = """\
examples:
  w2sd-vbench compare scores/strong_report.json scores/w2sd_report.json --output comparison
  w2sd-vbench compare a/weak_report.json a/strong_report.json a/w2sd_report.json --labels weak strong W2SD
  w2sd-vbench compare theirs/results_eval_results.json scores/w2sd_report.json      VBench's own result files too

The first is what the others are compared with. Only prompts and indices that all have count. Written: index.html (open
it in a browser: videos side by side, plots, tables; no server), table.md, table.csv, table.tex, comparison.json.
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds the verb."""
    parser = add_verb(subparsers, "compare", help="compare scored folders, pair by pair", examples=EXAMPLES)
    parser.add_argument(
        "reports", nargs="+", metavar="REPORT", help="NAME_report.json, NAME_eval_results.json, or a folder with one"
    )
    parser.add_argument("--labels", nargs="+", metavar="LABEL", help="what to call them (default: their names)")
    parser.add_argument("--output", default="comparison", metavar="FOLDER", help="where to write (default: comparison)")
    parser.add_argument("--level", type=float, default=0.95, help="of the intervals (default: 0.95)")
    parser.add_argument("--draws", type=positive, default=10_000, metavar="N", help="of the bootstrap (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the bootstrap (default: 0)")
    add_output_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """Writes the comparison and reports it."""
    from vbench_eval.results import read_report

    if len(arguments.reports) < 2:
        raise UserError("one report is given; a comparison needs two or more")
    if not 0.5 <= arguments.level < 1:
        raise UserError(f"--level is {arguments.level:g}; give a share from 0.5 to below 1, such as 0.95")
    labels = arguments.labels or _labels(
        [(Path(path), read_report(Path(path)).get("name") or Path(path).stem) for path in arguments.reports]
    )
    if len(labels) == 1 and len(arguments.reports) > 1:
        labels = [label.strip() for label in labels[0].split(",")]
    if len(labels) != len(arguments.reports) or len(set(labels)) != len(labels):
        raise UserError(
            f"the reports are called {', '.join(labels)}; give {len(arguments.reports)} different names with --labels"
        )

    from vbench_eval.comparing import compare
    from vbench_eval.comparison import verdicts
    from vbench_eval.page import write_comparison
    from vbench_eval.tables import markdown_table

    reports = {label: Path(path) for label, path in zip(labels, arguments.reports, strict=True)}
    comparison = compare(reports, level=arguments.level, draws=arguments.draws, seed=arguments.seed)
    files = write_comparison(comparison, Path(arguments.output))
    lines = [*verdicts(comparison), "", markdown_table(comparison), ""]
    if not arguments.quiet:
        lines += [f"note: {warning}" for warning in comparison.warnings]
    lines += [f"  {path}" for path in files.values()]
    report = {
        "status": "done",
        "comparison": comparison.to_json(),
        "files": {name: str(path) for name, path in files.items()},
    }
    return 0, {**report, "text": "\n".join(lines)}


def _labels(named: list[tuple[Path, str]]) -> list[str]:
    """The reports' names, with their folders where two are called the same, or their files' where that is no help."""
    names = [name for _, name in named]
    labels = [
        name if names.count(name) == 1 else f"{(path if path.is_dir() else path.parent).resolve().name}/{name}"
        for path, name in named
    ]
    return labels if len(set(labels)) == len(labels) else [path.stem.removesuffix("_report") for path, _ in named]
