"""index.html: all that a run made in a grid of prompt by method; offline, no server, nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import quote

from w2sd_video.report.page_template import PAGE, SCRIPT, STYLE
from w2sd_video.runs.journal import COMPARED, JOINED
from w2sd_video.runs.tasks import METHODS, Method

LAZY_ABOVE = 60  # videos; browsers run out of decoders when hundreds play at once
PIXELATED_BELOW = 160  # sides; smaller ones are enlarged with square pixels
_NO_COLUMN = {"index", "seed", "frames", "fps", "num_forwards", "bytes"}  # numbers of a record without a column
_COLUMNS = {"num_evaluations": "evaluations", "num_rows": "rows"}
_LAST_COLUMNS = {"seconds": "seconds", "peak_memory_mb": "peak MB"}
_NO_FACT = {*COMPARED, *JOINED, "notes"}  # of run.json's entries, those that are shown elsewhere or not at all


@dataclass(frozen=True)
class Row:
    """One prompt and index: the records of its methods, by method, and the path of the comparison if there is one."""

    prompt: str
    index: int
    records: Mapping[str, Mapping[str, Any]]
    comparison: str | None = None


@dataclass(frozen=True)
class _Look:
    methods: Mapping[str, Method]
    noun: str
    lazy: bool
    pixelated: bool
    video_format: str | None


def render_page(
    run: Mapping[str, Any],
    rows: Sequence[Row],
    expected: int,
    *,
    methods: Mapping[str, Method] = METHODS,
    noun: str = "video",
    choices: str | None = None,
) -> str:
    """Returns the page as HTML text; `run` is run.json's content, `expected` how many the complete run has.

    `methods` explains the methods, `noun` says what they make; a record whose path ends in .png is shown as a picture.
    Other numbers in the records than a video's get a column of the costs each, the sentences of run["notes"] a line
    each at the head. `choices` is the path of the picture of which side was taken as the strong one.
    """
    settings = run["settings"]
    done = [record for row in rows for record in row.records.values() if record["status"] == "done"]
    look = _Look(
        methods={name: methods[name] for name in run["methods"] if name in methods},
        noun=noun,
        lazy=len(done) > LAZY_ABOVE,
        pixelated=max(settings["height"], settings["width"]) < PIXELATED_BELOW,
        video_format=settings.get("video_format"),
    )
    title = f"{run['pair']['name']}: {', '.join(method.title for method in look.methods.values())}"
    state = f"{len(done)} of {expected} {noun}s" + ("" if len(done) == expected else " so far")
    body = "\n".join(
        [
            f"<header><h1>{escape(title)}</h1>",
            f"<p>{escape(state)}, {_made_how(settings)}.</p>"
            + "".join(f"<p class=note>{escape(_visible(note))}</p>" for note in run.get("notes", ()))
            + "</header>",
            _costs(look, done),
            *([] if choices is None else [_choices(choices)]),
            *(_row(row, n and rows[n - 1], look) for n, row in enumerate(rows)),
            _settings(run, noun),
        ]
    )
    script = f"<script>{SCRIPT % settings['fps']}</script>\n" if "fps" in settings else ""
    return PAGE.format(title=escape(title), style=STYLE, body=body, script=script)


def _made_how(settings: Mapping[str, Any]) -> str:
    size = f"{settings['width']}&times;{settings['height']}"
    if "num_frames" in settings:
        size = f"{settings['num_frames']} frames of {size} at {settings['fps']:g} fps"
    reflections = f", {settings['reflections']} reflections" if "reflections" in settings else ""
    mode = f" ({escape(settings['mode'])} mode)" if "mode" in settings else ""
    return f"{size}, {settings['steps']} steps{reflections}{mode}"


def _costs(look: _Look, done: Sequence[Mapping[str, Any]]) -> str:
    if not done:
        return ""
    own = dict.fromkeys(name for record in done for name, value in record.items() if _has_column(name, value))
    columns = {**_COLUMNS, **{name: name.removeprefix("num_").replace("_", " ") for name in own}, **_LAST_COLUMNS}
    lines = []
    for name, method in look.methods.items():
        records = [record for record in done if record["method"] == name]
        if not records:
            continue
        cells = [
            f"<th scope=row>{escape(method.title)}<small>{escape(method.about)}</small></th>",
            _number(len(records)),
            *(_number(_mean(records, column)) for column in columns),
        ]
        lines.append("<tr>" + "".join(cells) + "</tr>")
    heads = ("method", f"{look.noun}s", *map(escape, columns.values()))
    head = "".join(f"<th scope=col{' class=number' if n else ''}>{name}</th>" for n, name in enumerate(heads))
    listed = "Evaluations, rows, seconds and memory" if not own else "All but the first column of numbers"
    notes = f"{listed} are means per {look.noun}. A guided evaluation is one evaluation of two rows."
    if "w2sd" in look.methods and "zero-gap" not in look.methods:
        notes += " No control is shown: add <code>zero-gap</code> to <code>--methods</code> to see what inversion does."
    return (
        f"<section class=costs><div class=scroll><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
        f"<p class=note>{notes}</p></section>"
    )


def _choices(path: str) -> str:
    url = _url(path)
    about = "At each reflection a reward compares both sides' clean estimates; the better one is the strong side there."
    return (
        f'<section class=choices><h2>Which side was the strong one</h2><p class=note>{about}</p><a href="{url}">'
        f'<img src="{url}" alt="the side taken as the strong one, by reflected step" loading=lazy></a></section>'
    )


def _has_column(name: str, value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and name not in _NO_COLUMN | _COLUMNS.keys() | _LAST_COLUMNS.keys()


def _row(row: Row, before: Any, look: _Look) -> str:
    seed = next((record["seed"] for record in row.records.values()), None)
    cards = "".join(_card(name, row.records.get(name), look) for name in look.methods)
    link = f' &middot; <a href="{_url(row.comparison)}">side by side</a>' if row.comparison else ""
    where = f"{look.noun} {row.index}" + ("" if seed is None else f", seed {seed}")
    head = "" if before and before.prompt == row.prompt else f"<h2>{escape(_visible(row.prompt))}</h2>"
    return f"<section class=prompt>{head}<p class=note>{where}{link}</p><div class=grid>{cards}</div></section>"


def _card(name: str, record: Mapping[str, Any] | None, look: _Look) -> str:
    title = escape(look.methods[name].title)
    if record is None:
        return f"<figure><div class=missing>not made yet</div><figcaption><b>{title}</b></figcaption></figure>"
    if record["status"] != "done":
        reason = escape(str(record.get("reason", "")))
        return f"<figure><div class=missing>failed</div><figcaption><b>{title}</b> {reason}</figcaption></figure>"
    media = _media(record["path"], record["frames"], f"{title}, seed {record['seed']}", look)
    note = f"{record['num_evaluations']} evaluations, {record['seconds']:.3g} s"
    return f"<figure>{media}<figcaption><b>{title}</b> {note}</figcaption></figure>"


def _media(path: str, frames: int, label: str, look: _Look) -> str:
    url = _url(path)
    kind = " class=pixelated" if look.pixelated else ""
    if path.endswith(".png"):  # the name of a video in the format png is a folder's and ends in a number
        return f'<a href="{url}"><img{kind} src="{url}" alt="{label}" loading=lazy></a>'
    if look.video_format == "png":  # the script at the end turns its pages
        return f'<img{kind} src="{url}/0000.png" data-folder="{url}" data-frames={frames} alt="" loading=lazy>'
    if look.video_format in ("gif", "webp"):
        return f'<img{kind} src="{url}" alt="" loading=lazy>'
    source = "data-src" if look.lazy else "src"
    return f'<video{kind} {source}="{url}" autoplay loop muted playsinline controls></video>'


def _settings(run: Mapping[str, Any], noun: str) -> str:
    entries: list[tuple[str, Any]] = [("pair." + name, value) for name, value in run["pair"].items()]
    entries += [("preset", run["preset"]), *run["settings"].items(), ("device", run["device"]), ("dtype", run["dtype"])]
    entries += [fact for name, value in run.items() if name not in _NO_FACT for fact in _nested(name, value)]
    entries += [(f"version of {name}", version) for name, version in run["versions"].items()]
    lines = "".join(f"<tr><th scope=row>{escape(name)}</th><td>{_value(value)}</td></tr>" for name, value in entries)
    command = f"<pre>{escape(_visible(run['command']))}</pre>" if run.get("command") else ""
    return (
        "<details class=settings><summary>Settings</summary>"
        f"<div class=scroll><table><tbody>{lines}</tbody></table></div>{command}"
        f"<p class=note>Also in <code>run.json</code> and inside every {noun}; what each one cost is in "
        "<code>results.jsonl</code>.</p></details>"
    )


def _nested(name: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        return [(name, value)]
    return [entry for key, inner in value.items() for entry in _nested(f"{name}.{key}", inner)]


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
