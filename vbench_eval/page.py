"""index.html and the files beside it: a comparison to look at, offline, no server, nothing from elsewhere."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from vbench_eval.aggregation import quality_score
from vbench_eval.canvas import DARK, LIGHT, OUT
from vbench_eval.comparison import ALPHA, NOTES, Comparison, Difference, Row
from vbench_eval.meanings import about, words
from vbench_eval.page_template import PAGE, SCRIPT, STYLE
from vbench_eval.page_videos import gains_json, videos_section, visible
from vbench_eval.plots import differences_plot, scatter_plot
from vbench_eval.strict_json import cleaned, write_json, write_text
from vbench_eval.tables import (
    differences_csv,
    latex,
    markdown,
    means_csv,
    means_grid,
    number,
    p_text,
    rate_text,
    videos_line,
)

PROXY_NOTE = (
    "Computed from the pixels alone, without any network's weights. They are not VBench's dimensions and cannot stand "
    "for them; they have units of their own."
)
Plots = Mapping[str, tuple[Image.Image, Image.Image]]


def write_comparison(comparison: Comparison, folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Writes all files of a comparison into `folder` and returns them by role; "page" is the one to open.

    The page holds its plots; they also lie beside it, in light colours. Videos are referred to, not copied.
    """
    home = Path(folder)
    plots = draw_plots(comparison)
    texts = {
        "page": ("index.html", render_page(comparison, home, plots)),
        "markdown": ("table.md", markdown(comparison)),
        "csv": ("table.csv", means_csv(comparison)),
        "latex": ("table.tex", latex(comparison)),
        "differences_csv": ("differences.csv", differences_csv(comparison)),
    }
    files = {}
    for role, (name, text) in texts.items():
        files[role] = home / name
        write_text(files[role], text)
    files["json"] = home / "comparison.json"
    write_json(files["json"], cleaned(comparison.to_json())[0], ascii_only=False)
    for name, (light, _) in plots.items():
        files[name] = home / f"{name}.png"
        light.save(files[name])
    return files


def draw_plots(comparison: Comparison) -> Plots:
    """Every plot by its file's name, in light and in dark colours."""
    plots = {}
    for kind, rows in (("", comparison.official), ("proxies-", comparison.proxies)):
        drawn = {f"{kind}differences": [differences_plot(comparison, rows, theme) for theme in (LIGHT, DARK)]}
        for n, label in enumerate(comparison.labels[1:], start=1):
            drawn[f"{kind}scatter-{n}"] = [scatter_plot(comparison, rows, label, theme) for theme in (LIGHT, DARK)]
        for name, (light, dark) in drawn.items():
            if light is not None and dark is not None:
                plots[name] = (light, dark)
    return plots


def render_page(comparison: Comparison, folder: Path, plots: Plots) -> str:
    """Returns the page as HTML text; `folder` is where it will lie, for the paths of the videos."""
    title = " / ".join(comparison.labels)
    body = [f"<header><h1>{_text(title)}</h1>{_lead(comparison)}</header>"]
    look = " <a href='#videos'>To the videos</a>"
    body += [
        f"<div class=warning><b>Warning.</b> {_text(one.text)}{look if one.kind.startswith('static') else ''}</div>"
        for one in comparison.warnings
    ]
    body.append("<section><h2>VBench dimensions</h2>")
    if comparison.official:
        body.append("<p class=note>Times 100, as in the paper's tables.</p>")
        body += _numbers(comparison, comparison.official, plots, "")
        body.append(_quality(comparison))
    else:
        body.append("<p>None has been measured in these reports.</p>")
    body += [*_not_measured(comparison), "</section>"]
    if comparison.proxies:
        body.append(f"<section><h2>Proxies</h2><p class=note>{PROXY_NOTE}</p>")
        body += [*_numbers(comparison, comparison.proxies, plots, "proxies-"), "</section>"]
    body += [videos_section(comparison, folder), _how_to_read(comparison), _sources(comparison)]
    return PAGE.format(
        title=_text(title), style=STYLE, body="\n".join(body), gains=gains_json(comparison), script=SCRIPT
    )


def _lead(comparison: Comparison) -> str:
    others = ", ".join(comparison.labels[1:])
    profiles = sorted({side.profile for side in comparison.sides.values() if side.profile})
    profile = f" Profile: {', '.join(profiles)}." if profiles else ""
    return f"<p class=note>{_text(others)} against the baseline {_text(comparison.baseline)}.{_text(profile)}</p>"


def _numbers(comparison: Comparison, rows: Sequence[Row], plots: Plots, kind: str) -> Iterator[str]:
    """Means, differences and plots of one section."""
    yield _means(comparison, rows)
    yield f"<p class=note>{_text(videos_line(comparison, rows))} Bold is the best mean.</p>"
    for n, label in enumerate(comparison.labels[1:]):
        if any(label in row.differences for row in rows):
            yield f"<h3>{_text(label)} minus {_text(comparison.baseline)}</h3>"
            yield _differences(comparison, rows, label, explained=n == 0)
    if f"{kind}differences" in plots:
        yield _picture(plots[f"{kind}differences"], "Paired differences with their intervals")
    for n, label in enumerate(comparison.labels[1:], start=1):
        if f"{kind}scatter-{n}" in plots:
            said = f"Every video: {comparison.baseline} across, {label} upward"
            yield f"<details><summary>{_text(said)}</summary>{_picture(plots[f'{kind}scatter-{n}'], said)}</details>"


def _means(comparison: Comparison, rows: Sequence[Row]) -> str:
    marked = means_grid(comparison, rows, 2, _text, lambda cell: f"<span class=best>{cell}</span>")
    head = "".join(f"<th scope=col{'' if n == 0 else ' class=number'}>{cell}</th>" for n, cell in enumerate(marked[0]))
    lines = []
    for label, line in zip(comparison.labels, marked[1:], strict=True):
        cells = "".join(
            f"<td class=number>{cell}{_limits(row, label)}</td>" for row, cell in zip(rows, line[1:], strict=True)
        )
        lines.append(f"<tr><th scope=row>{line[0]}</th>{cells}</tr>")
    return _table(head, lines)


def _limits(row: Row, label: str) -> str:
    mean = row.means.get(label)
    if mean is None or mean.low is None or mean.high is None:
        return ""
    return f"<br><span class=limits>{number(row, mean.low)} to {number(row, mean.high)}</span>"


def _differences(comparison: Comparison, rows: Sequence[Row], label: str, *, explained: bool) -> str:
    names = (
        "difference",
        f"{comparison.level:.0%} interval",
        "p",
        "p (Holm)",
        "test",
        "win rate",
        "wins, ties, losses",
    )
    head = "<th scope=col>dimension</th>" + "".join(f"<th scope=col class=number>{name}</th>" for name in names)
    lines = [_difference(row, row.differences[label], explained=explained) for row in rows if label in row.differences]
    return _table(head, lines)


def _difference(row: Row, found: Difference, *, explained: bool) -> str:
    value, low, high = found.interval.value, found.interval.low, found.interval.high
    way = value * row.better
    colour = (" up" if way > 0 else " down") if way and found.p_holm < ALPHA else ""
    limits = (
        "-" if low is None or high is None else f"{number(row, low, signed=True)} to {number(row, high, signed=True)}"
    )
    wins = found.wins
    cells = [
        f"<td class='number{colour}'>{number(row, value, signed=True)}</td>",
        *(
            f"<td class=number>{_text(cell)}</td>"
            for cell in (
                limits,
                p_text(found.test.p),
                p_text(found.p_holm),
                found.test.name,
                "-" if wins is None else rate_text(wins.rate),
                "-" if wins is None else f"{wins.wins}, {wins.ties}, {wins.losses}",
            )
        ),
    ]
    small = f"<small>{_text(about(row.name))}</small>" if explained and not row.official and about(row.name) else ""
    return f"<tr><th scope=row>{_text(words(row.name))}{small}</th>{''.join(cells)}</tr>"


def _table(head: str, lines: Sequence[str]) -> str:
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"


def _picture(plot: tuple[Image.Image, Image.Image], said: str) -> str:
    light, dark = (_data_url(image) for image in plot)
    size = f'width="{plot[0].width // OUT}" height="{plot[0].height // OUT}"'
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" {size} alt="{_text(said)}"></picture>'
    )


def _data_url(image: Image.Image) -> str:
    data = io.BytesIO()
    # a palette is a third of the size and no eye sees it in a plot
    image.quantize(128).save(data, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode("ascii")


def _quality(comparison: Comparison) -> str:
    parts = []
    for label in comparison.labels:
        score = quality_score({row.name: row.means[label].value for row in comparison.official if label in row.means})
        if score.value is not None:
            parts.append(f"{label} {100 * score.value:.2f} ({score.label})")
    return f"<p class=note>VBench's weighted quality: {_text('; '.join(parts))}.</p>" if parts else ""


def _not_measured(comparison: Comparison) -> Iterator[str]:
    reasons: dict[str, dict[str, None]] = {}
    for label, side in comparison.sides.items():
        for name, reason in side.reasons.items():
            reasons.setdefault(f"{words(name)}: {reason}", {})[label] = None
    lines = [f"<li>{_text(text)} ({_text(', '.join(labels))})</li>" for text, labels in reasons.items()]
    if lines:
        yield f"<details><summary>Asked for, but not measured</summary><ul>{''.join(lines)}</ul></details>"


def _how_to_read(comparison: Comparison) -> str:
    drawn = f"Bootstrap: {comparison.draws} resamples, seed {comparison.seed}; level {comparison.level:g}."
    notes = "".join(f"<li>{_text(note)}</li>" for note in (*NOTES, drawn))
    return f"<section><h2>How to read this</h2><ul>{notes}</ul></section>"


def _sources(comparison: Comparison) -> str:
    lines = []
    for label, side in comparison.sides.items():
        used = sorted({f"{words(name)}: {one.name}" for name, one in side.measured_by.items() if one is not None})
        cells = (str(len(side.videos)), side.profile or "not known", "; ".join(used) or "-", side.source)
        lines.append(
            f"<tr><th scope=row>{_text(label)}</th>{''.join(f'<td>{_text(cell)}</td>' for cell in cells)}</tr>"
        )
    skipped = "".join(
        f"<li>{_text(label)}: {_text(path)}: {_text(reason)}</li>"
        for label, side in comparison.sides.items()
        for path, reason in side.skipped.items()
    )
    head = "".join(f"<th scope=col>{name}</th>" for name in ("method", "videos", "profile", "measured by", "report"))
    bad = f"<h3>Videos that could not be scored</h3><ul>{skipped}</ul>" if skipped else ""
    return f"<section><h2>Where the numbers come from</h2>{_table(head, lines)}{bad}</section>"


def _text(text: str) -> str:
    return escape(visible(text), quote=True)
