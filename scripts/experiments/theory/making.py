"""Figures into a folder: a PNG each, theory.json with the numbers, index.html."""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Dither, Image, Quantize

from experiments.theory.catalogue import Entry
from experiments.theory.page import page
from w2sd_video.report.plotting import draw

NUMBERS, PAGE = "theory.json", "index.html"


def make_figures(
    entries: Mapping[str, Entry], folder: Path, *, command: str, told: Callable[[str], None] = lambda words: None
) -> dict[str, Any]:
    """Makes each figure, and returns what theory.json then says: sources, claims, numbers, verdicts, seconds.

    A figure of an earlier call stays in the report if its picture is there. Numbers are those of float64 on one thread
    and the same on every call; OSError if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = _earlier(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums then run in one order, and tensors this small gain nothing from more
    try:
        for name, entry in entries.items():
            told(name)
            start = time.perf_counter()
            made = entry.make()
            _write(_picture(folder, name), _png(draw(made.sheet)))
            figures[name] = {
                "source": entry.source,
                "title": made.sheet.title,
                "claim": entry.claim,
                "measured": made.measured,
                "agrees": made.agrees,
                "seconds": round(time.perf_counter() - start, 2),
                "numbers": _plain(made.numbers),
            }
            report = {"command": command, "folder": str(folder), "figures": figures}
            _write(folder / NUMBERS, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
            _write(folder / PAGE, page(report).encode())
    finally:
        torch.set_num_threads(threads)
    return report


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


def _png(picture: Image) -> bytes:
    """A third of the size in 128 colours, which no eye tells from all of them in drawings like these."""
    few = picture.quantize(128, method=Quantize.MAXCOVERAGE, kmeans=4, dither=Dither.NONE)
    buffer = io.BytesIO()
    few.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    """JSON data of six digits; None for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _write(path: Path, data: bytes) -> None:
    """A complete file or none: written beside it and renamed."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    os.replace(partial, path)
