"""The figures on one page, each with what is claimed and what was measured (imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from experiments.theory.catalogue import SLIPS

STYLE = (
    "body{font:16px/1.5 sans-serif;margin:2em auto;max-width:72em;padding:0 1em;color:#1a1a1a}img{max-width:100%}"
    "td,th{padding:.3em .7em;text-align:left;vertical-align:top;border-top:1px solid #ddd}"
    "table{border-collapse:collapse}"
    "b.yes{color:#00694d}b.no{color:#a34700}b.part{color:#7a5c00}section{margin:3em 0;border-top:1px solid #ccc}"
)


def page(report: Mapping[str, Any]) -> str:
    """Returns the page; it refers to the pictures beside it."""
    figures = report["figures"]
    rows = "".join(
        f'<tr><td><a href="#{escape(name)}">{escape(figure["source"])}</a></td><td>{escape(figure["claim"])}</td>'
        f"<td>{escape(figure['measured'])}</td><td>{_verdict(figure['agrees'])}</td></tr>"
        for name, figure in figures.items()
    )
    sections = "".join(
        f'<section id="{escape(name)}"><h2>{escape(figure["source"])}</h2><img src="{escape(name)}.png" '
        f'alt="{escape(figure["title"])}"><p>Claimed: {escape(figure["claim"])}</p>'
        f"<p>Measured: {escape(figure['measured'])}</p><p>Agrees: {_verdict(figure['agrees'])}</p></section>"
        for name, figure in figures.items()
    )
    slips = "".join(
        f"<tr><td>{escape(place)}</td><td>{escape(printed)}</td><td>{escape(holds)}</td>"
        f'<td><a href="#{escape(name)}">{escape(name)}</a></td></tr>'
        for place, printed, holds, name in SLIPS
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>The theory, executable</title>'
        f"<style>{STYLE}</style><h1>The theory, executable</h1>"
        "<p>Every model here is an exact Gaussian mixture: nothing is trained, nothing is estimated, so what is seen "
        'is what the algorithm does. All numbers are in <a href="theory.json">theory.json</a>.</p>'
        f"<table><tr><th>of</th><th>claimed</th><th>measured here</th><th>agrees</th></tr>{rows}</table>"
        "<h2>Where the printed text does not hold as it stands</h2>"
        f"<table><tr><th>where</th><th>printed</th><th>holds</th><th>seen in</th></tr>{slips}</table>{sections}"
        f"<p><code>{escape(report['command'])}</code></p></html>\n"
    )


def text(report: Mapping[str, Any]) -> str:
    """Returns a line for each figure and where to look."""
    lines = [
        f"{name:16s} {figure['agrees']:8s} {figure['seconds']:5.1f} s  {figure['measured']}"
        for name, figure in report["figures"].items()
    ]
    return "\n".join([*lines, f"look at them: {report['folder']}/index.html"])


def _verdict(agrees: str) -> str:
    return f'<b class="{escape(agrees.split()[-1])}">{escape(agrees)}</b>'
