"""Tables and the one picture of the arena's page, from what `w2sd arena` wrote for each bed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.arena.beds import BEDS
from experiments.engine import markdown
from w2sd_video.commands.arena.results import HEAD, LOOKS, cells
from w2sd_video.report.figures import GREY, style, subplots

Found = Mapping[str, Any]
SHOWN = ("pictures", "videos", "digits", "lora", "still")


def tables(beds: Mapping[str, Found]) -> str:
    """A table for each bed that has run, what was tried, and the arena's own sentences."""
    parts = []
    for name, found in beds.items():
        moves = found["noun"] == "video"
        keep = len(HEAD) - (not moves)
        rows = [(line[0], f"{line[1]} ({row['tries']})", *line[2:keep]) for line, row in _lines(found)]
        head = (HEAD[0], "chosen (of)", *HEAD[2:keep])
        parts += [
            f"## {BEDS[name].title}",
            f"{found['settings_tried']} settings were tried on {found['tuned_on']} {found['noun']}s each, the best of "
            f"each method scored on {found['scored_on']} of other seeds.",
            markdown(head, rows),
            "\n".join(f"- {sentence}" for sentence in found["sentences"]),
        ]
    return "\n\n".join(parts)


def _lines(found: Found) -> list[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """The cells of the arena's own table with the rows that they are of."""
    return list(zip(cells(found), found["rows"], strict=True))


@style()
def draw(beds: Mapping[str, Found]) -> Any:
    """The scores of each bed with their intervals, hollow where a method is guided by the prompt, a cross for its
    zero-gap; beside them the motion of videos whose strong side moves less."""
    panels = [(name, "score") for name in SHOWN if name in beds] + [("still", "motion")] * ("still" in beds)
    columns = min(3, len(panels))
    figure, axes = subplots(-(-len(panels) // columns), columns, size=(4.4, 4.4))
    places = [each for line in axes for each in line]
    for panel, (name, what) in zip(places, panels, strict=False):
        rows = sorted(beds[name]["rows"], key=lambda row: row["score"]["value"])
        for number, row in enumerate(rows):
            colour, marker = LOOKS[row["kind"]]
            value, low, high = (row[what][end] for end in ("value", "low", "high"))
            error = None if None in (low, high) else [[value - low], [high - value]]
            face = colour if row["unguided"] else "white"
            if what == "score" and row["zero_gap"] is not None:
                panel.plot(row["zero_gap"]["value"], number, color=GREY, marker="x", linestyle="none")
            panel.errorbar(
                value, number, xerr=error, color=colour, marker=marker, markerfacecolor=face, linewidth=1, capsize=2
            )
        panel.set_yticks(range(len(rows)), [row["method"] for row in rows], fontsize=7)
        panel.set_title(BEDS[name].title, fontsize=8)
        panel.set_xlabel("motion, root mean square" if what == "motion" else f"right, at {rows[0]['budget']} rows")
    for panel in places[len(panels) :]:
        panel.remove()
    return figure
