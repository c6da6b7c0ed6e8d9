"""Figures into a folder: a PNG each, theory.json with the numbers, and a page with what is claimed and measured."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment

from experiments.theory.catalogue import SLIPS, Entry
from w2sd_video.report.figures import save

NUMBERS, PAGE = "theory.json", "index.html"
TEMPLATE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>The theory, executable</title>
<style>
body{font:16px/1.5 sans-serif;margin:2em auto;max-width:72em;padding:0 1em;color:#1a1a1a}img{max-width:100%}
td,th{padding:.3em .7em;text-align:left;vertical-align:top;border-top:1px solid #ddd}table{border-collapse:collapse}
b.yes{color:#00694d}b.no{color:#a34700}b.part{color:#7a5c00}section{margin:3em 0;border-top:1px solid #ccc}
</style>
{%- macro verdict(figure) -%}<b class="{{ figure.agrees.split()[-1] }}">{{ figure.agrees }}</b>{%- endmacro %}
<h1>The theory, executable</h1>
<p>Every model here is an exact Gaussian mixture: nothing is trained, nothing is estimated, so the figures show
what the algorithm does. All numbers are in <a href="theory.json">theory.json</a>.</p>
<table><tr><th>source</th><th>claimed</th><th>measured here</th><th>agrees</th></tr>
{% for name, figure in figures.items() -%}
<tr><td><a href="#{{ name }}">{{ figure.source }}</a></td><td>{{ figure.claim }}</td><td>{{ figure.measured }}</td>
<td>{{ verdict(figure) }}</td></tr>
{% endfor %}</table>
<h2>Where the printed text does not hold as it stands</h2>
<table><tr><th>where</th><th>printed</th><th>holds</th><th>seen in</th></tr>
{% for place, printed, holds, name in slips -%}
<tr><td>{{ place }}</td><td>{{ printed }}</td><td>{{ holds }}</td><td><a href="#{{ name }}">{{ name }}</a></td></tr>
{% endfor %}</table>
{% for name, figure in figures.items() -%}
<section id="{{ name }}"><h2>{{ figure.source }}</h2><img src="{{ name }}.png" alt="{{ figure.title }}">
<p>Claimed: {{ figure.claim }}</p><p>Measured: {{ figure.measured }}</p><p>Agrees: {{ verdict(figure) }}</p></section>
{% endfor %}<p><code>{{ command }}</code></p></html>
"""


def make_figures(
    entries: Mapping[str, Entry], folder: Path, *, command: str, told: Callable[[str], None] = lambda words: None
) -> dict[str, Any]:
    """Makes each figure, and returns what theory.json then says: sources, claims, numbers, verdicts, seconds.

    A figure of an earlier call stays in the report if its picture is there. Numbers are those of float64 on one thread
    and the same on every call; OSError if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = _earlier(folder)
    page = Environment(autoescape=True).from_string(TEMPLATE)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums then run in one order, and tensors this small gain nothing from more
    try:
        for name, entry in entries.items():
            told(name)
            start = time.perf_counter()
            made = entry.make()
            save(made.figure, _picture(folder, name))
            figures[name] = {
                "source": entry.source,
                "title": made.title,
                "claim": entry.claim,
                "measured": made.measured,
                "agrees": made.agrees,
                "seconds": round(time.perf_counter() - start, 2),
                "numbers": _plain(made.numbers),
            }
            report = {"command": command, "folder": str(folder), "figures": figures}
            _write(folder / NUMBERS, json.dumps(report, indent=1, allow_nan=False) + "\n")
            _write(folder / PAGE, page.render(figures=figures, slips=SLIPS, command=command))
    finally:
        torch.set_num_threads(threads)
    return report


def text(report: Mapping[str, Any]) -> str:
    """A line for each figure and where to look."""
    lines = [
        f"{name:16s} {figure['agrees']:8s} {figure['seconds']:5.1f} s  {figure['measured']}"
        for name, figure in report["figures"].items()
    ]
    return "\n".join([*lines, f"look at them: {report['folder']}/index.html"])


def _earlier(folder: Path) -> dict[str, Any]:
    try:
        figures = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))["figures"]
        return {name: figure for name, figure in figures.items() if _whole(figure) and _picture(folder, name).is_file()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}


def _whole(figure: Any) -> bool:
    """Whether an entry has what the page says of a figure."""
    return all(isinstance(figure[key], str) for key in ("source", "title", "claim", "measured", "agrees"))


def _picture(folder: Path, name: str) -> Path:
    return folder / f"{name}.png"


def _plain(value: Any) -> Any:
    """JSON data of six digits; None for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _write(path: Path, text: str) -> None:
    """A complete file or none: written beside it and renamed."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
