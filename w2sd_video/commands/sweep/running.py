"""A sweep: for each value a run of its own, what it made scored, and the means with intervals (imports no torch)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vbench_eval.files import write_bytes
from vbench_eval.pages import render
from w2sd_video.commands.engine import make, plan_of
from w2sd_video.commands.families.base import Family, Maker
from w2sd_video.commands.method_settings import without_unused
from w2sd_video.commands.plan import Plan
from w2sd_video.commands.request import Request
from w2sd_video.commands.sweep.scoring import Scorer, Scores, scored
from w2sd_video.commands.sweep.settings import Axis, Value
from w2sd_video.pair import gap
from w2sd_video.report import figures
from w2sd_video.report.figures import Point
from w2sd_video.runs.file_names import clean_stem
from w2sd_video.runs.journal import held
from w2sd_video.runs.progress import Progress

FIXED = "same for all values"
HEAD = ("method", "value", "mean", "95 % interval", "over strong", "95 % interval", "files", "evaluations")


@dataclass(frozen=True)
class Stop:
    """One run of a sweep: its plan, and for each method of the sweep the method that makes it there.

    Without a gap (a weak LoRA at the strong one's scale) W2SD is its own control, which is what is made.
    """

    value: Value | None
    plan: Plan
    methods: Mapping[str, str]

    family: Family

    @property
    def cost(self) -> int:
        """Evaluations in all."""
        return self.plan.per_method * sum(cost.evaluations for cost in self.family.cost(self.plan).values())

    def evaluations(self, method: str) -> int:
        """Returns the evaluations of one file by a method of the sweep."""
        return self.family.cost(self.plan)[self.methods[method]].evaluations


def stops_of(axis: Axis, request: Request, methods: Sequence[str], folder: Path, family: Family) -> list[Stop]:
    """Returns the runs of a sweep, first the one of methods that the setting does not change.

    Raises:
        UserError: a value that the request cannot have.
    """
    moving = [method for method in methods if axis.changes(method)]
    fixed = [method for method in methods if not axis.changes(method)]
    stops = []
    if fixed:
        stops.append(_stop(None, axis.at(request, axis.values[0]), fixed, folder / FIXED, family))
    for value in axis.values:
        name = clean_stem(f"{axis.label} {value:g}" if not isinstance(value, str) else f"{axis.label} {value}")
        stops.append(_stop(value, axis.at(request, value), moving, folder / name, family))
    return stops


def notes_of(stops: Sequence[Stop]) -> list[str]:
    """Returns what the user should know of the runs before they are made, each sentence once."""
    return list(dict.fromkeys(note for stop in stops for note in stop.plan.notes))


def _stop(value: Value | None, request: Request, methods: Sequence[str], folder: Path, family: Family) -> Stop:
    control = plan_of(family, only(request, ("zero-gap",), folder))
    none = not gap(control.pair.strong, control.pair.weak) and not control.raw_prompts
    made = {method: "zero-gap" if none and method in ("w2sd", "swapped") else method for method in methods}
    plan = plan_of(family, only(request, tuple(dict.fromkeys(made.values())), folder))
    return Stop(value, plan, made, family)


def only(request: Request, methods: tuple[str, ...], folder: Path) -> Request:
    """Returns the request for these methods alone, without what is of others."""
    return without_unused(request, methods).changed(methods=methods, output=folder)


def run_sweep(
    axis: Axis,
    stops: Sequence[Stop],
    folder: Path,
    *,
    family: Family,
    scorer: Scorer,
    progress: Callable[[], Progress],
    command: str = "",
) -> dict[str, Any]:
    """Makes and scores what is not there yet, and returns (and writes as sweep.json) the means by method.
    `progress` returns what is told of one run.

    Writes in the folder: a run's folder for each value, sweep.json, curve.png and index.html. Stopped at any moment,
    the same call finishes it; a sweep with more values keeps those it has. Raises as the runs, and what scores raise.
    """
    with held(folder):
        found: dict[Value | None, Scores] = {}
        failed = 0
        kept: list[Maker] = []
        for number, stop in enumerate(stops, start=1):
            at = FIXED if stop.value is None else f"{axis.label} {stop.value}"
            told = progress()  # each run counts for itself
            told.note(f"run {number} of {len(stops)}: {at}")
            summary, _ = make(family, stop.plan, progress=told, command=command, kept=kept)
            failed += len(summary.failed)
            found[stop.value] = _by_method(scored(summary, scorer), stop)
        report = {
            "command": command,
            "setting": axis.label,
            "values": list(axis.values),
            "scorer": scorer.name,
            "about": scorer.about,
            "methods": _means(stops, found),
            "failed": failed,
            "notes": notes_of(stops),
            "folders": {str(stop.value): stop.plan.output.name for stop in stops},
        }
        write_bytes(folder / "sweep.json", (json.dumps(report, indent=1) + "\n").encode())
        _draw(report, axis, folder)
        return report


def _by_method(scores: Scores, stop: Stop) -> Scores:
    return {method: scores[made] for method, made in stop.methods.items() if made in scores}


def _means(stops: Sequence[Stop], found: Mapping[Value | None, Scores]) -> dict[str, list[dict[str, Any]]]:
    """A row for each method and value: the mean, its interval, and the paired difference to the strong side alone."""
    from vbench_eval.statistics import difference_interval, mean_interval

    means: dict[str, list[dict[str, Any]]] = {}
    for stop in stops:
        scores = found[stop.value]
        strong = scores.get("strong") or found.get(None, {}).get("strong")
        for method in stop.methods:
            mine = scores.get(method, {})
            row: dict[str, Any] = {"value": stop.value, "count": len(mine), "evaluations": stop.evaluations(method)}
            if mine:
                row["mean"] = _point(mean_interval([*mine.values()], [key.prompt for key in mine]))
            both = [key for key in mine if strong is not None and key in strong]
            if both and strong is not None and method != "strong":
                ours, theirs = [mine[key] for key in both], [strong[key] for key in both]
                row["over_strong"] = _point(difference_interval(ours, theirs, [key.prompt for key in both]))
            means.setdefault(method, []).append(row)
    return means


def _point(found: Any) -> dict[str, float | None]:
    return asdict(Point(found.value, found.low, found.high))


def _draw(report: Mapping[str, Any], axis: Axis, folder: Path) -> None:
    lines = {
        method: [Point(**row["mean"]) for row in rows]
        for method, rows in report["methods"].items()
        if rows and all("mean" in row for row in rows)
    }
    curve, missing = None, figures.NOT_DRAWN if lines else "nothing is scored yet"
    if lines and figures.available():
        title = f"{report['about']} ({report['scorer']})"
        figures.save(figures.curve(title, axis.label, axis.values, lines), folder / "curve.png")
        curve = "curve.png"
    write_bytes(folder / "index.html", sweep_page(report, curve=curve, missing=missing).encode())


def sweep_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Returns the cells of a sweep's table, a row for each method and value."""
    return [
        (
            method,
            "any" if row["value"] is None else str(row["value"]),
            *_cells(row.get("mean"), ""),
            *_cells(row.get("over_strong"), "+"),
            str(row["count"]),
            str(row["evaluations"]),
        )
        for method, rows in report["methods"].items()
        for row in rows
    ]


def sweep_text(report: Mapping[str, Any]) -> str:
    """Returns a sweep's table as text."""
    rows = [HEAD, *sweep_rows(report)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEAD))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([f"{report['setting']} swept; {report['scorer']}: {report['about']}", *lines])


def sweep_page(report: Mapping[str, Any], *, curve: str | None, missing: str = "") -> str:
    """Returns the page; it refers to files of the sweep's folder alone. Without a picture of the curve it says what is
    `missing`.
    """
    told = {name: report[name] for name in ("setting", "scorer", "about", "command", "notes")}
    rows, folders = sweep_rows(report), list(report["folders"].values())
    return render(
        "sweep.html",
        package="w2sd_video.report",
        head=HEAD,
        rows=rows,
        folders=folders,
        curve=curve,
        missing=missing,
        **told,
    )


def _cells(interval: Mapping[str, float | None] | None, sign: str) -> tuple[str, str]:
    if interval is None:
        return "", ""
    low, high = interval["low"], interval["high"]
    limits = "" if low is None or high is None else f"{low:{sign}.4g} .. {high:{sign}.4g}"
    return f"{interval['value']:{sign}.4g}", limits
