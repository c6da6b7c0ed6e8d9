"""grid-METHOD.png: a method's first pictures in rows, each under its class and seed (imports no torch)."""

from __future__ import annotations

import numpy as np

from w2sd_video.runs.comparison import Panel, side_by_side
from w2sd_video.runs.picture_io import read_picture, write_picture
from w2sd_video.runs.runs import RunPlan
from w2sd_video.runs.tasks import Task

COLUMNS, WIDEST, MOST = 8, 12, 64
BACKGROUND = (22, 24, 29)  # the comparisons'


def write_sheets(plan: RunPlan) -> dict[str, str]:
    """Writes the grid of each method that has pictures; returns their paths by method."""
    written = {}
    for position, method in enumerate(plan.record["methods"]):
        tasks = [group[position] for group in plan.groups[:MOST]]
        if not any((plan.output / task.path).exists() for task in tasks):
            continue
        path = plan.output / f"grid-{method}.png"
        title = plan.methods[method].title
        columns = _columns(len({task.prompt for task in tasks}), len(tasks))
        rows = [_row(plan, tasks[start : start + columns], title, columns) for start in range(0, len(tasks), columns)]
        sheet = np.concatenate(rows)
        write_picture(path, sheet, {"method": method, "pictures": len(tasks), "settings": plan.record["settings"]})
        written[method] = str(path)
    return written


def _columns(classes: int, pictures: int) -> int:
    """A column per class where that fits the page: pictures come class after class, again and again."""
    return min(classes if COLUMNS < classes <= WIDEST else COLUMNS, pictures)


def _row(plan: RunPlan, tasks: list[Task], title: str, columns: int) -> np.ndarray:
    blank = np.empty((plan.record["settings"]["height"], plan.record["settings"]["width"], 3), np.uint8)
    blank[:] = BACKGROUND
    panels = []
    for task in tasks:
        there = (plan.output / task.path).exists()
        frame = read_picture(plan.output / task.path).pixels if there else blank
        panels.append(Panel(task.prompt, f"{title}, seed {task.seed}" if there else "failed", frame[None]))
    # Short rows are filled up: the size of a panel depends on how many there are.
    return side_by_side(panels + [Panel("", "", blank[None])] * (columns - len(panels)))[0]
