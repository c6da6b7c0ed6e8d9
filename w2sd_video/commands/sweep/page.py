"""A sweep for people: a table as text, and a page with the curve and the runs behind it (imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any
from urllib.parse import quote

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


def sweep_page(report: Mapping[str, Any], curve: str) -> str:
    """Returns the page; it refers to files of the sweep's folder alone; `curve` is the HTML of its plot."""
    head = "".join(f"<th>{escape(name)}</th>" for name in HEAD)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>" for cells in sweep_rows(report)
    )
    runs = "".join(
        f'<li><a href="{quote(folder)}/index.html">{escape(folder)}</a></li>' for folder in report["folders"].values()
    )
    title = f"{report['setting']} swept"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>'
        "body{font:15px sans-serif;margin:2em;max-width:60em}td,th{padding:.2em .8em;text-align:right}"
        f"img{{max-width:100%}}</style><h1>{escape(title)}</h1>"
        f"<p>Score: {escape(report['scorer'])}, {escape(report['about'])}. Intervals treat the prompt as the unit.</p>"
        f"{curve}<table><tr>{head}</tr>{body}</table><h2>Runs</h2><ul>{runs}</ul>"
        f"<p><code>{escape(report['command'])}</code></p></html>\n"
    )


def _cells(interval: Mapping[str, float | None] | None, sign: str) -> tuple[str, str]:
    if interval is None:
        return "", ""
    low, high = interval["low"], interval["high"]
    limits = "" if low is None or high is None else f"{low:{sign}.4g} .. {high:{sign}.4g}"
    return f"{interval['value']:{sign}.4g}", limits
