"""Comparisons as tables: in the shape of the paper's Table 12 (Markdown, CSV, LaTeX), and of differences.

Official dimensions stand times 100, as in the paper, and never in one table with proxies, which keep their own units.
The best mean of a column is bold where one direction is better; bold says nothing of significance.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence

from vbench_eval.comparison import NOTES, Comparison, Row, interval_text, number, p_text, rate_text, verdicts, words
from vbench_eval.judges import PREFIX

DIGITS = 4  # of the paper's Table 12
OFFICIAL_TITLE = "VBench dimensions, times 100"
JUDGES_TITLE = "Proxies and judges, in units of their own (not VBench's dimensions)"
PROXIES_TITLE = "Proxies (computed without weights; not VBench's dimensions)"
_COLUMNS = (
    *("kind", "dimension", "method", "baseline", "videos", "prompts", "left_out", "mean", "low", "high"),
    *("own_mean", "own_videos", "difference", "difference_low", "difference_high", "test", "pairs", "p", "p_holm"),
    *("win_rate", "win_rate_low", "win_rate_high", "wins", "ties", "losses"),
)
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: "\\" + character for character in "&%$#_{}"},
}


def means_grid(comparison: Comparison, rows: Sequence[Row], digits: int) -> dict[str, list[tuple[str, bool]]]:
    """The means by method, a cell per row: its text, "-" where a method lacks a dimension, and whether it is the best.

    None is the best where all are equal to the last digit shown.
    """
    columns = []
    for row in rows:
        shown = {label: number(row, mean.value, digits) for label, mean in row.means.items()}
        best = shown.get(_best(row) or "") if len(set(shown.values())) > 1 else None
        columns.append({label: (cell, cell == best) for label, cell in shown.items()})
    return {label: [column.get(label, ("-", False)) for column in columns] for label in comparison.labels}


def _means_lines(
    comparison: Comparison, rows: Sequence[Row], digits: int, text: Callable[[str], str], bold: Callable[[str], str]
) -> list[list[str]]:
    """The table of means with its heading; `text` escapes what it is given, `bold` marks the best."""
    grid = means_grid(comparison, rows, digits)
    lines = [[text("method"), *(text(words(row.name)) for row in rows)]]
    for label, cells in grid.items():
        lines.append([text(label), *(bold(text(cell)) if best else text(cell) for cell, best in cells)])
    return lines


def _best(row: Row) -> str | None:
    """The method with the best mean, None where neither direction is better or nothing stands against it."""
    if not row.better or len(row.means) < 2:
        return None
    return max(row.means, key=lambda label: row.better * row.means[label].value)


def videos_line(comparison: Comparison, rows: Sequence[Row]) -> str:
    """Over how many videos a table's means are, and which dimensions differ from that."""
    counts = {row.name: (len(row.keys), row.num_prompts) for row in rows}
    usual = max(counts.values(), key=list(counts.values()).count)
    line = f"Means over the {usual[0]} videos of {usual[1]} prompts that all methods have"
    if any(label not in row.own for row in rows for label in comparison.labels):
        line += ", methods without a dimension aside"
    others = [f"{words(name)} {videos}" for name, (videos, _) in counts.items() if (videos, _) != usual]
    left = {label: max((len(row.left_out.get(label, ())) for row in rows), default=0) for label in comparison.labels}
    lost = [f"{count} of {label}" for label, count in left.items() if count]
    return (
        line
        + (f" (but {', '.join(others)})" if others else "")
        + (f"; left out, for want of a partner: {', '.join(lost)}" if lost else "")
        + "."
    )


def sections(comparison: Comparison) -> list[tuple[str, tuple[Row, ...]]]:
    """Title and rows of what is shown apart: official dimensions, then proxies; only those that there are."""
    judged = any(row.name.startswith(PREFIX) for row in comparison.proxies)
    both = ((OFFICIAL_TITLE, comparison.official), (JUDGES_TITLE if judged else PROXIES_TITLE, comparison.proxies))
    return [(title, rows) for title, rows in both if rows]


def markdown_table(comparison: Comparison, digits: int = DIGITS) -> str:
    """The means alone, as `markdown` shows them."""
    parts = []
    for title, rows in sections(comparison):
        parts += [title, _markdown_table(_means_lines(comparison, rows, digits, _markdown, _bold))]
        parts.append(videos_line(comparison, rows))
    return "\n\n".join(parts)


def markdown(comparison: Comparison, digits: int = DIGITS) -> str:
    """The whole comparison as Markdown: warnings, means, differences with intervals, proxies apart, and how to read."""
    parts = [f"# {' / '.join(map(_markdown, comparison.labels))}"]
    parts += [f"**{_markdown(one)}.**" for one in verdicts(comparison)]
    parts += [f"> **Warning.** {_markdown(one.text)}" for one in comparison.warnings]
    for title, rows in sections(comparison):
        grid = _means_lines(comparison, rows, digits, _markdown, _bold)
        parts += [f"## {title}", _markdown_table(grid), videos_line(comparison, rows)]
        parts += _markdown_differences(comparison, rows)
    parts += ["## How to read this", "\n".join(f"- {note}" for note in NOTES)]
    return "\n\n".join(parts) + "\n"


def _markdown_differences(comparison: Comparison, rows: Sequence[Row]) -> Iterable[str]:
    for label in comparison.labels[1:]:
        lines = [["dimension", f"difference [{comparison.level:.0%}]", "test", "p", "p (Holm)", "win rate"]]
        for row in rows:
            if (found := row.differences.get(label)) is None:
                continue
            rate = "-" if found.wins is None else rate_text(found.wins.rate)
            lines.append(
                [
                    _markdown(words(row.name)),
                    interval_text(row, found.interval, signed=True),
                    found.test.name,
                    _markdown(p_text(found.test.p)),
                    _markdown(p_text(found.p_holm)),
                    rate,
                ]
            )
        if len(lines) > 1:
            yield f"**{_markdown(label)} minus {_markdown(comparison.baseline)}**"
            yield _markdown_table(lines)


def _markdown_table(grid: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(line) + " |" for line in grid]
    return "\n".join([lines[0], "|---" + "|---:" * (len(grid[0]) - 1) + "|", *lines[1:]])


def _bold(cell: str) -> str:
    return f"**{cell}**"


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", " ".join(text.split()))


def latex(comparison: Comparison, digits: int = DIGITS) -> str:
    """The tables of means as LaTeX `tabular`s that need no package; proxies in one of their own."""
    parts = []
    for title, rows in sections(comparison):
        grid = _means_lines(comparison, rows, digits, latex_text, lambda cell: rf"\textbf{{{cell}}}")
        lines = [" & ".join(line) + r" \\" for line in grid]
        body = "\n".join([r"\hline", lines[0], r"\hline", *lines[1:], r"\hline"])
        about = f"% {title}\n% {' '.join(videos_line(comparison, rows).split())}"
        parts.append(f"{about}\n\\begin{{tabular}}{{l{'r' * len(rows)}}}\n{body}\n\\end{{tabular}}\n")
    return "\n".join(parts)


def latex_text(text: str) -> str:
    """The text with everything that LaTeX would take for a command replaced."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def means_csv(comparison: Comparison, digits: int = DIGITS) -> str:
    """Table 12's shape as CSV, official dimensions times 100; a proxy's column is called "proxy: ..."."""
    rows = comparison.rows
    grid = _means_lines(comparison, rows, digits, str, str)
    grid[0] = ["method", *(row.name if row.official else f"proxy: {row.name}" for row in rows)]
    return _csv([[("" if cell == "-" else cell) for cell in line] for line in grid])


def differences_csv(comparison: Comparison) -> str:
    """A line per method and dimension with everything that is known, unrounded and not times 100."""
    lines: list[list[object]] = [list(_COLUMNS)]
    for row in comparison.rows:
        for label, (own_mean, own_videos) in row.own.items():
            mean, found = row.means.get(label), row.differences.get(label)
            line: list[object] = ["official" if row.official else "proxy", row.name, label, comparison.baseline]
            line += [len(row.keys), row.num_prompts, len(row.left_out[label])]
            line += [mean.value, mean.low, mean.high] if mean else [None] * 3
            line += [own_mean, own_videos]
            line += [found.interval.value, found.interval.low, found.interval.high] if found else [None] * 3
            line += [found.test.name, found.test.pairs, found.test.p, found.p_holm] if found else [None] * 4
            wins = found.wins if found else None
            line += [wins.rate.value, wins.rate.low, wins.rate.high] if wins else [None] * 3
            lines.append(line + ([wins.wins, wins.ties, wins.losses] if wins else [None] * 3))
    return _csv(lines)


def _csv(lines: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
