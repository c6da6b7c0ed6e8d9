"""The page of a run: what was asked for, what it cost, and all it made; offline, no server, nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vbench_eval.pages import render

ROWS_PER_PAGE = 100  # of prompts and indices; what follows stands on index-2.html and so on
PIXELATED_BELOW = 160  # sides; smaller ones are enlarged with square pixels
_NO_COLUMN = {"index", "seed", "frames", "fps", "num_forwards", "bytes"}  # numbers of a record without a column
_COLUMNS = {"num_evaluations": "evaluations", "num_rows": "rows"}
_LAST_COLUMNS = {"seconds": "seconds", "peak_memory_mb": "peak MB"}

Record = Mapping[str, Any]


class Method(Protocol):
    """What a page says of a method."""

    @property
    def title(self) -> str: ...
    @property
    def about(self) -> str: ...


@dataclass(frozen=True)
class Row:
    """One prompt and index: the records of its methods, by method, and the path of the comparison if there is one."""

    prompt: str
    index: int
    records: Mapping[str, Record]
    comparison: str | None = None


@dataclass(frozen=True)
class _Media:
    kind: str  # "video", "picture" (also what moves by itself), or "folder" of pictures
    path: str
    frames: int = 1


def render_pages(
    run: Record,
    rows: Sequence[Row],
    *,
    methods: Mapping[str, Method],
    noun: str = "video",
    facts: Record | None = None,
    choices: str | None = None,
) -> Iterator[tuple[str, str]]:
    """Yields the name and the HTML of each page, index.html first; every page has the head, ROWS_PER_PAGE of the rows.

    `run` is run.json's content, `facts` what the run found out beside what it was asked. `methods` explains the methods
    of the run, `noun` says what they make; a record whose path ends in .png is shown as a picture. Other numbers in the
    records than a video's get a column of the costs each, the sentences of run["notes"] a line each at the head.
    `choices` is the path of the picture of which side was taken as the strong one.
    """
    settings, pair = run["settings"], run["pair"]
    explained = {name: methods[name] for name in run["methods"] if name in methods}
    done = [record for row in rows for record in row.records.values() if record["status"] == "done"]
    own = dict.fromkeys(name for record in done for name, value in record.items() if _has_column(name, value))
    columns = {**_COLUMNS, **{name: name.removeprefix("num_").replace("_", " ") for name in own}, **_LAST_COLUMNS}
    expected = len(rows) * len(run["methods"])
    starts = range(0, max(1, len(rows)), ROWS_PER_PAGE)
    pages = ["index.html" if n == 0 else f"index-{n + 1}.html" for n in range(len(starts))]
    head = {
        "title": f"{pair['name']}: {', '.join(method.title for method in explained.values())}",
        "state": f"{len(done)} of {counted(expected, noun)}" + ("" if len(done) == expected else " so far"),
        "how": _made_how(settings),
        "notes": run.get("notes", ()),
        "facts": [*_sides(pair), ("gap", gap_in_words(pair, settings)), *_verdict(run)],
        "command": run.get("command"),
        "columns": [f"{noun}s", *columns.values()],
        "costs": list(_costs(explained, done, columns)),
        "no_control": "w2sd" in explained and "zero-gap" not in explained,
        "choices": choices,
        "settings": list(_settings(run, facts or {})),
        "small": max(settings["height"], settings["width"]) < PIXELATED_BELOW,
        "fps": settings.get("fps"),
        "noun": noun,
        "groups": len(rows),
        "pages": pages,
    }
    for page, start in zip(pages, starts, strict=True):
        shown = rows[start : start + ROWS_PER_PAGE]
        before = [None, *(row.prompt for row in shown)]
        prepared = [_row(row, prompt, explained, settings) for row, prompt in zip(shown, before, strict=False)]
        yield page, render("run.html", package=__package__, here=page, first=start, rows=prepared, **head)


def gap_in_words(pair: Record, settings: Record) -> str:
    """Returns what differs between the sides of a run's record, in words."""
    parts = []
    if pair.get("weak") not in (None, pair.get("strong")):
        parts.append("another model")
    if "strong_experts" in pair and pair["strong_experts"] != pair.get("weak_experts"):
        parts.append(f"experts: {pair['strong_experts']} strong, {pair.get('weak_experts')} weak")
    strong_guidance = settings.get("strong_guidance", settings.get("guidance"))
    scales: dict[str, Record] = {"guidance": {"strong": strong_guidance, "weak": settings.get("weak_guidance")}}
    scales |= {f"LoRA {name}": entry for name, entry in pair.get("loras", {}).items() if isinstance(entry, Mapping)}
    scales |= {"ControlNet": pair.get("control", {}), "IP-Adapter": pair.get("ip_adapter_scale", {})}
    for what, scale in scales.items():
        strong, weak = scale.get("strong"), scale.get("weak")
        if strong is not None and weak is not None and strong != weak:
            parts.append(f"{what} {strong} strong, {weak} weak")
    if pair.get("weak_negative_prompt") is not None:
        parts.append("another negative prompt")
    if pair.get("raw_prompts"):
        parts.append("raw prompts on the weak side")
    return "; ".join(parts) or "none: both sides are the same"


def counted(count: int, noun: str) -> str:
    """Returns "1 video", "2 videos"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def _sides(pair: Record) -> Iterator[tuple[str, str]]:
    yield "strong", str(pair.get("strong"))
    yield "weak", str(pair.get("weak") or "the same model")


def _verdict(run: Record) -> Iterator[tuple[str, str]]:
    if "verdict" in run:
        yield "latent spaces", str(run["verdict"])


def _made_how(settings: Record) -> str:
    size = f"{settings['width']}×{settings['height']}"
    if "num_frames" in settings:
        size = f"{counted(settings['num_frames'], 'frame')} of {size} at {settings['fps']:g} fps"
    reflections = f", {counted(settings['reflections'], 'reflection')}" if "reflections" in settings else ""
    mode = f" ({settings['mode']} mode)" if "mode" in settings else ""
    return f"{size}, {counted(settings['steps'], 'step')}{reflections}{mode}"


def _costs(
    methods: Mapping[str, Method], done: Sequence[Record], columns: Mapping[str, str]
) -> Iterator[tuple[Method, list[str]]]:
    for name, method in methods.items():
        records = [record for record in done if record["method"] == name]
        if records:
            yield method, [_number(len(records)), *(_number(_mean(records, column)) for column in columns)]


def _has_column(name: str, value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and name not in _NO_COLUMN | _COLUMNS.keys() | _LAST_COLUMNS.keys()


def _row(row: Row, before: str | None, methods: Mapping[str, Method], settings: Record) -> dict[str, Any]:
    comparison = None if row.comparison is None else _media(row.comparison, 1, None)
    return {
        "prompt": None if before == row.prompt else row.prompt,  # a prompt with several is named once
        "index": row.index,
        "seed": next((record["seed"] for record in row.records.values()), None),
        "comparison": comparison,
        "cards": [_card(method, row.records.get(name), settings) for name, method in methods.items()],
    }


def _card(method: Method, record: Record | None, settings: Record) -> dict[str, Any]:
    card: dict[str, Any] = {"title": method.title, "media": None, "missing": "not made yet", "note": ""}
    if record is None:
        return card
    if record["status"] != "done":
        return {**card, "missing": "failed", "note": str(record.get("reason", ""))}
    note = f"{counted(record['num_evaluations'], 'evaluation')}, {record['seconds']:.3g} s"
    return {**card, "media": _media(record["path"], record["frames"], settings.get("video_format")), "note": note}


def _media(path: str, frames: int, video_format: str | None) -> _Media:
    if path.endswith((".png", ".gif", ".webp")):  # the name of a video in the format png is a folder's
        return _Media("picture", path)
    return _Media("folder" if video_format == "png" else "video", path, frames)


def _settings(run: Record, facts: Record) -> Iterator[tuple[str, str]]:
    entries: list[tuple[str, Any]] = [("pair." + name, value) for name, value in run["pair"].items()]
    entries += [("preset", run["preset"]), *run["settings"].items(), ("device", run["device"]), ("dtype", run["dtype"])]
    entries += [fact for name, value in facts.items() for fact in _nested(name, value)]
    entries += [(f"version of {name}", version) for name, version in run["versions"].items()]
    for name, value in entries:
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _nested(name: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        return [(name, value)]
    return [entry for key, inner in value.items() for entry in _nested(f"{name}.{key}", inner)]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


def _mean(records: Sequence[Record], name: str) -> float | None:
    values = [record[name] for record in records if record.get(name) is not None]
    return sum(values) / len(values) if values else None
