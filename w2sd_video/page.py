"""index.html: every video of a run in a grid of prompt by method; offline, no server, nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import quote

from w2sd_video.request import METHODS

LAZY_ABOVE = 60  # videos; browsers run out of decoders when hundreds play at once
PIXELATED_BELOW = 160  # sides; smaller videos are enlarged with square pixels


@dataclass(frozen=True)
class Row:
    """One prompt and index: the records of its methods, by method, and the path of the comparison video if there is
    one.
    """

    prompt: str
    index: int
    records: Mapping[str, Mapping[str, Any]]
    comparison: str | None = None


def render_page(run: Mapping[str, Any], rows: Sequence[Row], expected: int) -> str:
    """Returns the page as HTML text; `run` is run.json's content, `expected` the videos of the complete run."""
    methods = [method for method in run["methods"] if method in METHODS]
    done = [record for row in rows for record in row.records.values() if record["status"] == "done"]
    settings = run["settings"]
    lazy = len(done) > LAZY_ABOVE
    pixelated = max(settings["height"], settings["width"]) < PIXELATED_BELOW
    title = f"{run['pair']['name']}: {', '.join(METHODS[method].title for method in methods)}"
    state = f"{len(done)} of {expected} videos" + ("" if len(done) == expected else " so far")
    body = "\n".join(
        [
            f"<header><h1>{escape(title)}</h1>",
            f"<p>{escape(state)}, {settings['num_frames']} frames of {settings['width']}&times;{settings['height']} at"
            f" {settings['fps']:g} fps, {settings['steps']} steps, {settings['reflections']} reflections"
            f" ({escape(settings['mode'])} mode).</p></header>",
            _costs(methods, done),
            *(_row(row, n and rows[n - 1], methods, lazy, pixelated, settings) for n, row in enumerate(rows)),
            _settings(run),
        ]
    )
    return _PAGE.format(title=escape(title), style=_STYLE, body=body, script=_SCRIPT % settings["fps"])


def _costs(methods: Sequence[str], done: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for method in methods:
        records = [record for record in done if record["method"] == method]
        if not records:
            continue
        cells = [
            f"<th scope=row>{escape(METHODS[method].title)}<small>{escape(METHODS[method].about)}</small></th>",
            _number(len(records)),
            *(_number(_mean(records, name)) for name in ("num_evaluations", "num_rows", "seconds", "peak_memory_mb")),
        ]
        lines.append("<tr>" + "".join(cells) + "</tr>")
    if not lines:
        return ""
    heads = ("method", "videos", "evaluations", "rows", "seconds", "peak MB")
    head = "".join(f"<th scope=col{' class=number' if n else ''}>{name}</th>" for n, name in enumerate(heads))
    notes = (
        "Evaluations, rows, seconds and memory are means per video. A guided evaluation is one evaluation of two rows."
    )
    if "w2sd" in methods and "zero-gap" not in methods:
        notes += " No control is shown: add <code>zero-gap</code> to <code>--methods</code> to see what inversion does."
    return (
        f"<section class=costs><div class=scroll><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
        f"<p class=note>{notes}</p></section>"
    )


def _row(
    row: Row, before: Any, methods: Sequence[str], lazy: bool, pixelated: bool, settings: Mapping[str, Any]
) -> str:
    seed = next((record["seed"] for record in row.records.values()), None)
    cards = "".join(_card(method, row.records.get(method), lazy, pixelated, settings) for method in methods)
    link = f' &middot; <a href="{_url(row.comparison)}">side by side</a>' if row.comparison else ""
    where = f"video {row.index}" + ("" if seed is None else f", seed {seed}")
    head = "" if before and before.prompt == row.prompt else f"<h2>{escape(_visible(row.prompt))}</h2>"
    return f"<section class=prompt>{head}<p class=note>{where}{link}</p><div class=grid>{cards}</div></section>"


def _card(
    method: str, record: Mapping[str, Any] | None, lazy: bool, pixelated: bool, settings: Mapping[str, Any]
) -> str:
    title = escape(METHODS[method].title)
    if record is None:
        return f"<figure><div class=missing>not made yet</div><figcaption><b>{title}</b></figcaption></figure>"
    if record["status"] != "done":
        reason = escape(str(record.get("reason", "")))
        return f"<figure><div class=missing>failed</div><figcaption><b>{title}</b> {reason}</figcaption></figure>"
    kind = " class=pixelated" if pixelated else ""
    media = _media(record["path"], record["frames"], kind, lazy, settings["video_format"])
    note = f"{record['num_evaluations']} evaluations, {record['seconds']:.3g} s"
    return f"<figure>{media}<figcaption><b>{title}</b> {note}</figcaption></figure>"


def _media(path: str, frames: int, kind: str, lazy: bool, video_format: str) -> str:
    url = _url(path)
    if video_format == "png":  # the script at the end turns its pages
        return f'<img{kind} src="{url}/0000.png" data-folder="{url}" data-frames={frames} alt="" loading=lazy>'
    if video_format in ("gif", "webp"):
        return f'<img{kind} src="{url}" alt="" loading=lazy>'
    source = "data-src" if lazy else "src"
    return f'<video{kind} {source}="{url}" autoplay loop muted playsinline controls></video>'


def _settings(run: Mapping[str, Any]) -> str:
    entries: list[tuple[str, Any]] = [("pair." + name, value) for name, value in run["pair"].items()]
    entries += [("preset", run["preset"]), *run["settings"].items(), ("device", run["device"]), ("dtype", run["dtype"])]
    entries += [(f"version of {name}", version) for name, version in run["versions"].items()]
    lines = "".join(f"<tr><th scope=row>{escape(name)}</th><td>{_value(value)}</td></tr>" for name, value in entries)
    command = f"<pre>{escape(_visible(run['command']))}</pre>" if run.get("command") else ""
    return (
        "<details class=settings><summary>Settings</summary>"
        f"<div class=scroll><table><tbody>{lines}</tbody></table></div>{command}"
        "<p class=note>Also in <code>run.json</code> and inside every video; what each one cost is in "
        "<code>results.jsonl</code>.</p></details>"
    )


def _value(value: Any) -> str:
    return escape(_visible(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))


def _visible(text: str) -> str:
    """The text with control characters shown as their pictures (HTML has no way to hold NUL)."""
    return "".join(chr(0x2400 + ord(c)) if ord(c) < 32 and c != "\n" else c for c in text)


def _url(path: str) -> str:
    return quote(path)  # leaves slashes; encodes quotes, percent signs, hashes and question marks


def _number(value: float | None) -> str:
    return (
        "<td class=number>" + ("" if value is None else f"{value:,.3g}" if value < 1000 else f"{value:,.0f}") + "</td>"
    )


def _mean(records: Iterable[Mapping[str, Any]], name: str) -> float | None:
    values = [record[name] for record in records if record.get(name) is not None]
    return sum(values) / len(values) if values else None


_PAGE = """<!doctype html>
<html lang=en>
<head>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<meta name=color-scheme content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
<script>{script}</script>
</body>
</html>
"""

_STYLE = """
:root { --page: #f6f7f9; --card: #fff; --text: #1b1e24; --faint: #646c7a; --line: #dfe3e9; --link: #1c5fc4 }
@media (prefers-color-scheme: dark) {
  :root { --page: #121419; --card: #1b1e25; --text: #e8eaee; --faint: #98a0ae; --line: #2d323c; --link: #86b4ff }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem clamp(.8rem, 3vw, 2.5rem) 4rem; max-width: 110rem; background: var(--page);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere }
h2 { font-size: 1.1rem; margin: 0; overflow-wrap: anywhere; white-space: pre-wrap }
p { margin: .2rem 0 .7rem } a { color: var(--link) }
.note, figcaption { color: var(--faint); font-size: .875rem } figcaption b { color: var(--text); font-weight: 600 }
section { margin: 1.8rem 0 } .scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem; background: var(--card); border: 1px solid var(--line) }
th, td { text-align: left; padding: .35rem .8rem; border-bottom: 1px solid var(--line); vertical-align: top }
td { overflow-wrap: anywhere; min-width: 3.5rem } th { font-weight: 600 } thead th { white-space: nowrap }
th small { display: block; font-weight: 400; color: var(--faint); min-width: 8.5rem; max-width: 34rem }
.number { text-align: right; font-variant-numeric: tabular-nums }
.grid { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(min(9.5rem, 45%), 1fr)) }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; overflow: hidden;
  max-width: 40rem }
figcaption { padding: .4rem .7rem .5rem }
video, img { display: block; width: 100%; height: auto } .pixelated { image-rendering: pixelated }
.missing { display: grid; place-items: center; aspect-ratio: 1; color: var(--faint) }
@media (max-width: 40rem) { th, td { padding: .3rem .45rem } }
summary { cursor: pointer; font-weight: 600; margin-bottom: .6rem }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--card); border: 1px solid var(--line);
  padding: .7rem; font-size: .85rem }
"""

_SCRIPT = """
"use strict";
const watch = new IntersectionObserver(entries => {
  for (const entry of entries) {
    const video = entry.target;
    if (entry.isIntersecting) {
      if (!video.src && video.dataset.src) video.src = video.dataset.src;
      video.play().catch(() => {});
    } else {
      video.pause();
      if (video.dataset.src) { video.removeAttribute("src"); video.load(); }
    }
  }
}, { rootMargin: "300px" });
document.querySelectorAll("video").forEach(video => watch.observe(video));
const folders = [...document.querySelectorAll("img[data-folder]")];
let page = 0;
if (folders.length) setInterval(() => {
  page += 1;
  for (const image of folders) {
    const number = String(page %% image.dataset.frames).padStart(4, "0");
    image.src = image.dataset.folder + "/" + number + ".png";
  }
}, 1000 / %s);
"""
