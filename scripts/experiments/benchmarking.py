"""What the benchmark scripts share: rows with targets, the table, the JSON file and the verdict."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

_LIBRARIES = ("torch", "diffusers")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    `target` is what the value must equal (counts) or stay below (ratios), None where nothing is asked; `spread` is how
    far the same thing measured twice strays from itself.
    """

    id: str
    what: str
    value: float
    target: float | None = None
    passed: bool = True
    spread: float | None = None


def equal(id: str, what: str, value: float, target: float) -> Row:
    """A count, which must be its target."""
    return Row(id, what, value, target, value == target)


def at_most(id: str, what: str, value: float, target: float | None, spread: float | None = None) -> Row:
    """A ratio, which must not be above its target by more than its own spread."""
    return Row(id, what, value, target, target is None or value <= target + (spread or 0.0), spread)


def table(rows: Sequence[Row]) -> str:
    """The rows as text for people."""
    lines = []
    for row in rows:
        value = f"{row.value:.0f}" if row.value == int(row.value) else f"{row.value:.4g}"
        bound = "" if row.target is None else f"{row.target:.4g}"
        spread = "" if row.spread is None else f"+-{row.spread:.3f}"
        verdict = "" if row.target is None else ("ok" if row.passed else "OFF")
        lines.append(f"{row.id:<12} {row.what:<84} {value:>10} {spread:>8} {bound:>8} {verdict:>4}")
    head = f"{'id':<12} {'what':<84} {'value':>10} {'A/A':>8} {'target':>8}"
    return "\n".join([head, "-" * len(head), *lines])


def claim(parser: argparse.ArgumentParser, output: Path) -> None:
    """Makes sure that `output` can be written, before anything is measured; else the parser's error (exit code 2)."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.touch()
    except OSError as error:
        parser.error(f"cannot write {output} ({error.strerror}); choose another --output")


def report(rows: Sequence[Row], output: Path, settings: Mapping[str, Any]) -> int:
    """Prints the table, writes the rows as JSON, and returns the exit code: 1 if a target was missed."""
    print(table(rows))
    passed = all(row.passed for row in rows)
    versions = {name: metadata.version(name) for name in _LIBRARIES}
    machine = {"python": platform.python_version(), "machine": platform.machine(), "threads": 1}
    document = {
        "passed": passed,
        "settings": {**settings, **versions, **machine},
        "rows": [asdict(row) for row in rows],
    }
    output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0 if passed else 1
