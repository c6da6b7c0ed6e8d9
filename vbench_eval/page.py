"""index.html and the files beside it: a comparison to look at, offline, no server, nothing from elsewhere."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from vbench_eval import figures
from vbench_eval.aggregation import quality_score
from vbench_eval.comparison import (
    ALPHA,
    NOTES,
    Comparison,
    Key,
    Row,
    Shown,
    Side,
    about,
    number,
    p_text,
    rate_text,
    verdicts,
    words,
)
from vbench_eval.files import cleaned, held, write_bytes, write_json, write_text
from vbench_eval.pages import render
from vbench_eval.plots import differences_plot, motion_plot, scatter_plot
from vbench_eval.statistics import Interval
from vbench_eval.tables import differences_csv, latex, markdown, means_csv, means_grid, videos_line

MOST = 300
"""Rows shown; a page of thousands of videos is slow to open and no one looks at them all."""
PIXELATED_BELOW = 160  # sides; smaller videos are enlarged with square pixels
_FILMS = {".mp4", ".mov", ".webm", ".m4v", ".mkv", ".avi"}  # the last two only in some browsers
_PICTURES = {".gif", ".webp", ".png", ".jpg", ".jpeg", ".bmp"}
Plots = Mapping[str, tuple[bytes, bytes]]


def write_comparison(comparison: Comparison, folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Writes all files of a comparison into `folder` and returns them by role; "page" is the one to open.

    The page holds its plots; they also lie beside it, in light colours. Without matplotlib there are none, and the page
    says so. Videos are referred to, not copied. Raises UserError if another process is writing there.
    """
    home = Path(folder)
    plots = draw_plots(comparison) if figures.available() else {}
    texts = {
        "page": ("index.html", render_page(comparison, home, plots)),
        "markdown": ("table.md", markdown(comparison)),
        "csv": ("table.csv", means_csv(comparison)),
        "latex": ("table.tex", latex(comparison)),
        "differences_csv": ("differences.csv", differences_csv(comparison)),
    }
    files = {}
    with held(home):
        for role, (name, text) in texts.items():
            files[role] = home / name
            write_text(files[role], text)
        files["json"] = home / "comparison.json"
        write_json(files["json"], cleaned(comparison.to_json())[0], ascii_only=False)
        for name, (light, _) in plots.items():
            files[name] = home / f"{name}.png"
            write_bytes(files[name], light)
    return files


def draw_plots(comparison: Comparison) -> Plots:
    """Every plot by its file's name as PNG files, in light and in dark colours."""
    plots = {}
    light, dark = (motion_plot(comparison, dark=dark) for dark in (False, True))
    if light is not None and dark is not None:
        plots["motion"] = (figures.png(light), figures.png(dark))
    for kind, rows in (("", comparison.official), ("proxies-", comparison.proxies)):
        drawn = {f"{kind}differences": [differences_plot(comparison, rows, dark=dark) for dark in (False, True)]}
        for n, label in enumerate(comparison.labels[1:], start=1):
            both = [scatter_plot(comparison, rows, label, dark=dark) for dark in (False, True)]
            drawn[f"{kind}scatter-{n}"] = both
        for name, (light, dark) in drawn.items():
            if light is not None and dark is not None:
                plots[name] = (figures.png(light), figures.png(dark))
    return plots


def render_page(comparison: Comparison, folder: Path, plots: Plots) -> str:
    """Returns the page as HTML text; `folder` is where it will lie, for the paths of the videos."""
    sides = comparison.sides
    keys = list(dict.fromkeys(key for label in comparison.labels for key in sides[label].videos))
    shown = (_facts, _headings, _instruments, _limits, _with_label)
    said = (about, means_grid, number, p_text, rate_text, videos_line, words)
    helpers: dict[str, Any] = {each.__name__.lstrip("_"): each for each in (*shown, *said)}
    return render(
        "comparison.html",
        comparison=comparison,
        plots={name: _embedded(*both) for name, both in plots.items()},
        plotted=bool(plots) or figures.available(),
        install=figures.INSTALL,
        profiles=sorted({side.profile for side in sides.values() if side.profile}),
        level=f"{comparison.level:.0%}",
        alpha=ALPHA,
        notes=NOTES,
        keys=keys[:MOST],
        num_keys=len(keys),
        pixelated_below=PIXELATED_BELOW,
        gains=_gains(comparison, keys[:MOST]),
        quality=_quality(comparison),
        verdicts=verdicts(comparison),
        not_measured=_not_measured(sides),
        skipped=[f"{label}: {path}: {why}" for label, side in sides.items() for path, why in side.skipped.items()],
        medium=lambda path: _medium(path, folder),
        scores=lambda key: _scores(comparison, key),
        **helpers,
    )


def _headings(rows: tuple[Row, ...]) -> list[str]:
    return [words(row.name) for row in rows]


def _with_label(rows: tuple[Row, ...], label: str) -> list[Row]:
    return [row for row in rows if label in row.differences]


def _limits(row: Row, found: Interval | None, *, signed: bool = False) -> str:
    if found is None or found.low is None or found.high is None:
        return ""
    return f"{number(row, found.low, signed=signed)} to {number(row, found.high, signed=signed)}"


def _embedded(light: bytes, dark: bytes) -> tuple[str, str, int, int]:
    """Both as addresses that hold them, and their size: a palette is a third of the bytes and no eye sees it."""
    urls = []
    for file in (light, dark):
        data = io.BytesIO()
        image = Image.open(io.BytesIO(file)).convert("RGB")
        image.quantize(128).save(data, "png", optimize=True)
        urls.append("data:image/png;base64," + base64.b64encode(data.getvalue()).decode("ascii"))
    return urls[0], urls[1], image.width, image.height


def _gains(comparison: Comparison, keys: list[Key]) -> dict[str, list[float | None]]:
    """For the page's script: per dimension and method the difference of every shown row to the baseline, or None."""
    gains = {}
    for row in comparison.rows:
        place = {key: n for n, key in enumerate(row.keys)}
        for label in row.differences:
            ours, base = row.values[label], row.values[comparison.baseline]
            gains[f"{row.name}/{comparison.labels.index(label)}"] = [
                None if (n := place.get(key)) is None else round(ours[n] - base[n], 8) for key in keys
            ]
    return gains


def _quality(comparison: Comparison) -> list[str]:
    parts = []
    for label in comparison.labels:
        score = quality_score({row.name: row.means[label].value for row in comparison.official if label in row.means})
        if score.value is not None:
            parts.append(f"{label} {100 * score.value:.2f} ({score.label})")
    return parts


def _not_measured(sides: Mapping[str, Side]) -> list[str]:
    reasons: dict[str, dict[str, None]] = {}
    for label, side in sides.items():
        for name, reason in side.reasons.items():
            reasons.setdefault(f"{words(name)}: {reason}", {})[label] = None
    return [f"{text} ({', '.join(labels)})" for text, labels in reasons.items()]


def _instruments(side: Side) -> str:
    return "; ".join(sorted({f"{words(name)}: {one.name}" for name, one in side.measured_by.items() if one}))


def _facts(shown: Shown) -> str:
    frames, fps = shown.info.get("frames"), shown.info.get("fps")
    facts = [f"{frames} frames" if frames else "", f"{fps:g} fps" if fps else ""]
    facts += [f"seed {shown.seed}"] if shown.seed is not None else []
    return ", ".join(fact for fact in facts if fact)


def _scores(comparison: Comparison, key: Key) -> list[tuple[Row, list[str]]]:
    """The videos' own scores, a row per dimension in which one of them has any."""
    rows = []
    for row in comparison.rows:
        scores = [comparison.sides[label].scores.get(row.name, {}).get(key) for label in comparison.labels]
        if any(scores):
            cells = ["-" if s is None else _score(row, s.value) for s in scores]
            rows.append((row, cells))
    return rows


def _score(row: Row, value: float) -> str:
    return ("yes" if value else "no") if row.yes_or_no else number(row, value)


def _medium(path: Path, folder: Path) -> tuple[str, Any]:
    """What the page shows it as ("film", "picture", "folder", "empty"), with its address or a folder's addresses."""
    if path.is_dir():
        pages = [_url(page, folder) for page in sorted(path.iterdir()) if page.suffix.lower() in _PICTURES]
        return ("folder" if pages else "empty"), pages
    return ("film" if path.suffix.lower() in _FILMS else "picture"), _url(path, folder)


def _url(path: Path, folder: Path) -> str:
    """The path relative to the page, or a file's address if it lies on another drive; safe inside quotes."""
    try:
        relative = os.path.relpath(path, folder.absolute())
    except ValueError:
        return path.as_uri()
    return quote(Path(relative).as_posix())
