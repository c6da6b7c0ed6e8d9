"""VBench-2.0's total score (arXiv 2503.21755) from its result files: the mean of five categories, each the mean of its
dimensions. VBench-2.0's own package measures them; its files are VBench's: {dimension: [score, videos]}.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from vbench_eval.aggregation import Partial
from vbench_eval.errors import UserError
from vbench_eval.totals import result_files

CATEGORIES: Mapping[str, tuple[str, ...]] = {
    "creativity": ("Composition", "Diversity"),
    "commonsense": ("Instance_Preservation", "Motion_Rationality"),
    "controllability": (
        "Camera_Motion",
        "Complex_Landscape",
        "Complex_Plot",
        "Dynamic_Attribute",
        "Dynamic_Spatial_Relationship",
        "Human_Interaction",
        "Motion_Order_Understanding",
    ),
    "human fidelity": ("Human_Anatomy", "Human_Clothes", "Human_Identity"),
    "physics": ("Material", "Mechanics", "Multi-View_Consistency", "Thermotics"),
}
EIGHTEEN = tuple(name for names in CATEGORIES.values() for name in names)


def vbench2_scores(aggregates: Mapping[str, float]) -> list[Partial]:
    """Returns the categories' scores and the total, each over the dimensions that are there."""
    found = []
    for category, names in CATEGORIES.items():
        present = tuple(name for name in names if name in aggregates)
        value = math.fsum(aggregates[name] for name in present) / len(present) if present else None
        found.append(Partial(category, value, present, tuple(name for name in names if name not in present)))
    values = [one.value for one in found if one.value is not None]
    total = math.fsum(values) / len(values) if values else None
    present = tuple(name for name in EIGHTEEN if name in aggregates)
    return [*found, Partial("total", total, present, tuple(name for name in EIGHTEEN if name not in present))]


def read_vbench2(paths: Iterable[str | Path]) -> dict[str, float]:
    """Returns the dimensions of the files together; raises UserError for files without any, for numbers that are not
    from 0 to 1, and for two numbers of one dimension.
    """
    aggregates: dict[str, float] = {}
    files = [Path(path) for path in paths]
    for path in files:
        for source, data, _ in result_files(path):
            for key, value in data.items():
                name = key.replace(" ", "_")
                if name not in EIGHTEEN:
                    continue
                number = value[0] if isinstance(value, list) and value else value
                if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 1.001:
                    raise UserError(f"{source}: {key} is {number!r:.60}, not a number of VBench-2.0's from 0 to 1")
                if aggregates.setdefault(name, float(number)) != number:
                    raise UserError(f"{name} is {aggregates[name]} in one file and {number} in {source}; give one")
    if not aggregates:
        raise UserError(f"none of VBench-2.0's dimensions ({EIGHTEEN[0]}, ...) is in {', '.join(map(str, files))}")
    return aggregates
