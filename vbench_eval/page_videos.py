"""The videos of a comparison side by side, as HTML: a row per prompt and index, a card per method."""

from __future__ import annotations

import json
import os
from html import escape
from pathlib import Path
from urllib.parse import quote

from vbench_eval.comparison import Comparison
from vbench_eval.meanings import words
from vbench_eval.sides import Key, Shown
from vbench_eval.tables import number

MOST = 300
"""Rows shown; a page of thousands of videos is slow to open and no one looks at them all."""
PIXELATED_BELOW = 160  # sides; smaller videos are enlarged with square pixels
_FILMS = {".mp4", ".mov", ".webm", ".m4v", ".mkv", ".avi"}  # the last two only in some browsers
_PICTURES = {".gif", ".webp", ".png", ".jpg", ".jpeg", ".bmp"}


def shown_keys(comparison: Comparison) -> list[Key]:
    """Prompt and index of every row: the baseline's videos in their order, then those that only others have."""
    keys = dict.fromkeys(key for label in comparison.labels for key in comparison.sides[label].videos)
    return list(keys)


def videos_section(comparison: Comparison, folder: Path) -> str:
    """The section, with paths relative to the page's `folder`."""
    keys = shown_keys(comparison)
    rows = "\n".join(_row(comparison, key, folder) for key in keys[:MOST])
    note = f"The first {MOST} of {len(keys)} are shown. " if len(keys) > MOST else ""
    options = "".join(_options(comparison))
    return (
        "<section id=videos><h2>Videos side by side</h2>"
        f"<p class=note>{note}The videos are not in this page: keep their folders where they are.</p>"
        "<div class=controls>"
        "<label><input type=checkbox id=auto checked> play what is in view</label>"
        f"<label>Order <select id=order><option value='|'>as scored</option>{options}</select></label>"
        "<label>Find <input type=search id=find placeholder='in prompts'></label></div>"
        f"<div>{rows}</div></section>"
    )


def gains_json(comparison: Comparison) -> str:
    """For the page's script: per dimension and method the difference of every shown row to the baseline, or null."""
    keys = shown_keys(comparison)[:MOST]
    gains = {}
    for row in comparison.rows:
        place = {key: n for n, key in enumerate(row.keys)}
        for label in row.differences:
            ours, base = row.values[label], row.values[comparison.baseline]
            gains[_gain_name(comparison, row.name, label)] = [
                None if (n := place.get(key)) is None else round(ours[n] - base[n], 8) for key in keys
            ]
    return json.dumps(gains, allow_nan=False).replace("<", "\\u003c")  # or "</script>" in a label would end the script


def _gain_name(comparison: Comparison, dimension: str, label: str) -> str:
    return f"{dimension}/{comparison.labels.index(label)}"


def _options(comparison: Comparison) -> list[str]:
    parts = []
    for row in comparison.rows:
        for label in row.differences:
            name = _gain_name(comparison, row.name, label)
            kind = words(row.name) + ("" if row.official else " (proxy)")
            for way, sort in (("most below", 1), ("most above", -1)):
                text = f"{label} {way} {comparison.baseline} in {kind}"
                parts.append(f'<option value="{escape(name)}|{sort}">{escape(visible(text))}</option>')
    return parts


def _row(comparison: Comparison, key: Key, folder: Path) -> str:
    prompt, index = key
    cards = "".join(_card(label, comparison.sides[label].videos.get(key), folder) for label in comparison.labels)
    return (
        f"<div class=pair><h3>{escape(visible(prompt))}</h3>"
        f"<div class=line><span class=note>sample {index}</span><button type=button>Play together</button></div>"
        f"<div class=grid>{cards}</div>{_scores(comparison, key)}</div>"
    )


def _card(label: str, shown: Shown | None, folder: Path) -> str:
    title = f"<b>{escape(visible(label))}</b>"
    if shown is None:
        return f"<figure><div class=missing>no such video</div><figcaption>{title}</figcaption></figure>"
    name = escape(visible(shown.name))
    if shown.path is None:
        return f"<figure><div class=missing>not found: {name}</div><figcaption>{title}</figcaption></figure>"
    info = shown.info
    facts = [
        f"{info['frames']} frames" if info.get("frames") else "",
        f"{info['fps']:g} fps" if info.get("fps") else "",
    ]
    facts += [f"seed {shown.seed}"] if shown.seed is not None else []
    note = " ".join([title, ", ".join(fact for fact in facts if fact)])
    return f"<figure>{_media(shown, folder, label)}<figcaption>{note}</figcaption></figure>"


def _media(shown: Shown, folder: Path, label: str) -> str:
    assert shown.path is not None
    width, height = shown.info.get("width"), shown.info.get("height")
    size = f' width="{int(width)}" height="{int(height)}"' if width and height else ""
    kind = " class=pixelated" if width and height and max(width, height) < PIXELATED_BELOW else ""
    text = escape(visible(f"{label}: {shown.name}"), quote=True)
    suffix = shown.path.suffix.lower()
    if shown.path.is_dir():
        pages = [_url(page, folder) for page in sorted(shown.path.iterdir()) if page.suffix.lower() in _PICTURES]
        if not pages:
            return f"<div class=missing>no pictures in {text}</div>"
        data = escape(json.dumps(pages), quote=True)
        fps = shown.info.get("fps") or 8
        return f'<img{kind}{size} src="{pages[0]}" data-pages="{data}" data-fps="{fps:g}" alt="{text}" loading=lazy>'
    url = _url(shown.path, folder)
    if suffix in _FILMS:
        return (
            f'<video{kind}{size} src="{url}" data-src="{url}" muted loop controls playsinline preload=none '
            f'aria-label="{text}"></video>'
        )
    return f'<img{kind}{size} src="{url}" alt="{text}" loading=lazy>'


def _scores(comparison: Comparison, key: Key) -> str:
    """The videos' own scores, folded away."""
    lines = []
    for row in comparison.rows:
        scores = [comparison.sides[label].scores.get(row.name, {}).get(key) for label in comparison.labels]
        if not any(scores):
            continue
        cells = "".join(
            "<td class=number>-</td>"
            if score is None
            else f"<td class=number>{'yes' if score.value else 'no'}</td>"
            if row.yes_or_no
            else f"<td class=number>{number(row, score.value)}</td>"
            for score in scores
        )
        kind = "" if row.official else " <small>proxy</small>"
        lines.append(f"<tr><th scope=row>{escape(words(row.name))}{kind}</th>{cells}</tr>")
    if not lines:
        return ""
    head = "".join(f"<th scope=col class=number>{escape(visible(label))}</th>" for label in comparison.labels)
    return (
        "<details><summary class=note>scores</summary><div class=scroll><table><thead><tr><th scope=col>dimension</th>"
        f"{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div></details>"
    )


def _url(path: Path, folder: Path) -> str:
    """The path relative to the page, or a file's address if it lies on another drive; safe inside quotes."""
    try:
        relative = os.path.relpath(path, folder.absolute())
    except ValueError:
        return path.as_uri()
    return quote(Path(relative).as_posix())


def visible(text: str) -> str:
    """The text with control characters shown as their pictures (HTML has no way to hold NUL)."""
    return "".join(chr(0x2400 + ord(c)) if ord(c) < 32 and c != "\n" else c for c in text)
