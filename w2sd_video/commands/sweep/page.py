"""A sweep for people: a table as text, and a page with the curve and the runs behind it (imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vbench_eval.pages import render

HEAD = ("method", "value", "mean", "95 % interval", "over strong", "95 % interval", "files", "evaluations")


def sweep_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Returns the cells of a sweep's table, a row for each method and value."""
    return [
        (
            method,
            "any" if row["value"] is None else str(row["value"]),
            *_cells(row.get("mean"), ""),
            *_cells(row.get("over_strong"), "+"),
            str(row["count"]),
            str(row["evaluations"]),
        )
        for method, rows in report["methods"].items()
        for row in rows
    ]


def sweep_text(report: Mapping[str, Any]) -> str:
    """Returns a sweep's table as text."""
    rows = [HEAD, *sweep_rows(report)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEAD))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([f"{report['setting']} swept; {report['scorer']}: {report['about']}", *lines])


def sweep_page(report: Mapping[str, Any], *, curve: str | None, missing: str = "") -> str:
    """Returns the page; it refers to files of the sweep's folder alone. Without a picture of the curve it says what is
    `missing`.
    """
    told = {name: report[name] for name in ("setting", "scorer", "about", "command")}
    rows, folders = sweep_rows(report), list(report["folders"].values())
    return render(
        "sweep.html",
        package="w2sd_video.report",
        head=HEAD,
        rows=rows,
        folders=folders,
        curve=curve,
        missing=missing,
        **told,
    )


def _cells(interval: Mapping[str, float | None] | None, sign: str) -> tuple[str, str]:
    if interval is None:
        return "", ""
    low, high = interval["low"], interval["high"]
    limits = "" if low is None or high is None else f"{low:{sign}.4g} .. {high:{sign}.4g}"
    return f"{interval['value']:{sign}.4g}", limits
