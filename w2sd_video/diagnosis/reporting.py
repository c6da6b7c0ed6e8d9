"""A diagnosis as text for people and as JSON data (imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

from w2sd_video.diagnosis.next_steps import NextStep
from w2sd_video.diagnosis.verdicts import VERDICTS, Verdict

WIDTH = 118
MOST = 44  # characters of a value in the table


def describe_files(verdict: Verdict, strong: str, weak: str | None, step: NextStep | None) -> dict[str, Any]:
    """Returns what the files told, as JSON data."""
    return {
        "strong": strong,
        "weak": weak,
        "verdict": verdict.name,
        "means": VERDICTS[verdict.name],
        "reason": verdict.reason,
        "compared": [
            {"what": row.name, "strong": row.strong, "weak": row.weak, "relation": row.relation} for row in verdict.rows
        ],
        "remarks": list(verdict.remarks),
        "weights_apart": verdict.distance,
        "next": describe_step(step),
    }


def describe_step(step: NextStep | None) -> dict[str, Any] | None:
    """Returns a command as JSON data."""
    return None if step is None else {"command": step.line, "problem": step.problem}


def files_text(report: Mapping[str, Any]) -> str:
    """Returns what the files told: the verdict, the reason, the table, remarks."""
    lines = [f"strong  {report['strong']}", f"weak    {report['weak'] or 'the same network'}", ""]
    if report["compared"]:
        alone = report["weak"] is None
        heads = ("from files", "both sides") if alone else ("from files", "strong", "weak", "")
        keys = ("what", "strong") if alone else ("what", "strong", "weak", "relation")
        lines += [*table([heads, *([row[key] for key in keys] for row in report["compared"])]), ""]
    lines += paragraph(f"verdict: {report['verdict'].upper()} - {report['means']}")
    lines += paragraph(report["reason"], "  ")
    for remark in report["remarks"]:
        lines += paragraph(f"- {remark}", "  ")
    return "\n".join(lines)


def next_text(step: Mapping[str, Any] | None) -> str:
    """Returns the command to run, and what it still needs."""
    if step is None:
        return ""
    lines = ["next:", f"  {step['command']}"]
    if step["problem"]:
        lines += paragraph(f"  which needs: {step['problem']}", "  ")
    return "\n".join(lines)


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """Returns rows of cells as lines; the first is the heading, columns in `right` are set to the right."""
    short = [[cell if len(cell) <= MOST else cell[: MOST - 1] + "~" for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in short) for column in range(len(short[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in short
    ]
    return [lines[0], "-" * max(len(line) for line in lines), *lines[1:]]


def paragraph(text: str, indent: str = "") -> list[str]:
    """Returns the text as lines that fit the terminal."""
    return wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_long_words=False) or [""]
