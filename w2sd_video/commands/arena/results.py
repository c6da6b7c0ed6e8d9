"""What an arena finds: a row per method and budget, the front, the sentence, the picture and the page (no torch)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vbench_eval.files import write_bytes
from vbench_eval.pages import render
from vbench_eval.statistics import Interval
from w2sd_video.commands.arena.entrants import ASKING, GUIDANCE, KINDS, LEFT_OUT, PLAIN, REFLECTED, Entrant
from w2sd_video.commands.arena.trials import Found, Runner, Trial
from w2sd_video.report import figures

CONTROL = "zero-gap"
HEAD = ("method", "chosen", "evaluations", "rows", "score", "minus plain", "minus its zero-gap", "motion")


@dataclass(frozen=True)
class Row:
    """What one method scores at a budget, with the settings that did best on other seeds.

    `tuned` is their mean there, `tries` how many settings were tried.
    """

    trial: Trial
    tries: int
    tuned: float
    scores: Found
    motion: Found
    control: Found | None = None

    @property
    def name(self) -> str:
        return self.trial.entrant.name

    @property
    def mean(self) -> Interval:
        return _mean(self.scores)

    def minus(self, other: Found | None) -> Interval | None:
        """The paired difference to the scores of others."""
        return None if other is None or other is self.scores else _difference(self.scores, other)


def compared(runner: Runner, *, tuned: int, count: int) -> list[Row]:
    """Makes and scores everything that is not there yet, and returns the rows, budget by budget.

    Stopped at any moment, the same call finishes it. Raises as the runs, and what scores raise.
    """
    rows = []
    entrants = {trial.entrant.name: trial.entrant for trial in runner.arena.trials}
    for budget in runner.arena.budgets:
        for entrant in entrants.values():
            if runner.arena.of(budget, entrant) and entrant.name not in runner.failed:
                with runner.leaving_out(entrant):
                    rows.append(_compared(runner, budget, entrant, tuned, count))
    return rows


def _compared(runner: Runner, budget: int, entrant: Entrant, tuned: int, count: int) -> Row:
    """The row of a method at a budget."""
    trials = runner.arena.of(budget, entrant)
    tries = [runner.scores(trial, "tuned", tuned)[0] for trial in trials] if len(trials) > 1 else []
    means = [sum(found.values()) / len(found) for found in tries]
    trial = trials[means.index(max(means))] if tries else trials[0]
    scores, motion = runner.scores(trial, "scored", count)
    control = None
    if entrant.controlled:
        control = runner.scores(trial.control(runner.arena.family), "scored", count)[0]
    return Row(trial, len(trials), max(means, default=float("nan")), scores, motion, control)


def _mean(found: Found) -> Interval:
    from vbench_eval.statistics import mean_interval

    return mean_interval([*found.values()], [key.prompt for key in found])


def _difference(ours: Found, theirs: Found) -> Interval:
    from vbench_eval.statistics import difference_interval

    both = [key for key in ours if key in theirs]
    return difference_interval([ours[key] for key in both], [theirs[key] for key in both], [k.prompt for k in both])


def plain_of(rows: Sequence[Row], budget: int) -> Row:
    """Returns plain sampling at a budget."""
    return next(row for row in rows if row.trial.budget == budget and row.name == "plain")


def front(rows: Sequence[Row]) -> list[Row]:
    """Returns the candidates that none of no more rows scores above, from the cheapest on."""
    able = [row for row in rows if row.trial.entrant.kind != ASKING]
    best = [
        row
        for row in able
        if not any(
            (other.mean.value, -other.trial.rows) > (row.mean.value, -row.trial.rows)
            and other.trial.rows <= row.trial.rows
            for other in able
        )
    ]
    return sorted(best, key=lambda row: row.trial.rows)


def sentences(rows: Sequence[Row], budget: int, noun: str) -> list[str]:
    """Returns which method to use at a budget, and which where the model is not to be guided by the prompt (as a
    distilled one is not), if that is another question.
    """
    here = [row for row in rows if row.trial.budget == budget]
    unguided = [row for row in here if row.trial.unguided]
    found = [sentence(here, budget, noun)]
    if len(unguided) < len(here) and plain_of(here, budget) in unguided:
        found.append(f"Without guidance by the prompt: {sentence(unguided, budget, noun)}")
    return found


def sentence(rows: Sequence[Row], budget: int, noun: str) -> str:
    """Returns which method to use at a budget: the best form of W2SD against the best of all others, each by its mean
    on the seeds that settings were chosen on, compared on the other seeds.
    """
    here = [row for row in rows if row.trial.budget == budget]
    ours = [row for row in here if row.trial.entrant.kind == REFLECTED]
    others = [row for row in here if row.trial.entrant.kind in (PLAIN, GUIDANCE)]
    plain = plain_of(rows, budget)
    picked = [max(those, key=lambda row: _chosen_by(row, plain)) for those in (ours, others) if those]
    if len(picked) == 1:
        return f"At {budget} rows a {noun}: {_named(picked[0])}; no form of W2SD is compared."
    one, other = picked
    apart = _difference(one.scores, other.scores)
    against = f"{_named(one)} minus {_named(other)} is {apart.text(signed=True)}"
    top = max(others, key=lambda row: row.mean.value)
    if top.mean.value > other.mean.value:  # told because it speaks against the sentence
        behind = _difference(one.scores, top.scores).text(signed=True)
        against += f" (the highest of the others on these seeds: {_named(top)}, {one.name} minus it {behind})"
    if apart.low is not None and apart.low > 0:
        return f"At {budget} rows a {noun} use {one.name}: {against}."
    if apart.high is not None and apart.high < 0:
        return f"At {budget} rows a {noun} use {other.name}, not W2SD: {against}."
    return f"At {budget} rows a {noun} W2SD and {other.name} are not told apart: {against}; take what is simpler."


def _chosen_by(row: Row, plain: Row) -> tuple[float, float]:
    """By the mean on the first seeds where several settings were tried there; one that has no settings by its scores,
    which chose nothing."""
    own = row.tuned if row.tries > 1 else row.mean.value
    return own, -row.trial.rows


def _named(row: Row) -> str:
    return f"{row.name} ({row.trial.said()}; {row.mean.text()})"


# --- reports ---------------------------------------------------------------------------------------------------------


def report(runner: Runner, rows: Sequence[Row], *, tuned: int, count: int) -> dict[str, Any]:
    """Returns everything as JSON data."""
    noun = runner.arena.base.noun
    leading = front(rows)
    unguided = front([row for row in rows if row.trial.unguided])
    return {
        "command": runner.command,
        "scorer": runner.scorers[0].name,
        "about": runner.scorers[0].about,
        "tuned_on": tuned,
        "scored_on": count,
        "settings_tried": sum(row.tries for row in rows),
        "noun": noun,
        "rows": [_record(row, plain_of(rows, row.trial.budget), row in leading, row in unguided) for row in rows],
        "sentences": [each for budget in runner.arena.budgets for each in sentences(rows, budget, noun)],
        "missing": {**runner.arena.missing, **runner.failed, **LEFT_OUT},
    }


def _record(row: Row, plain: Row, leading: bool, leading_unguided: bool) -> dict[str, Any]:
    trial = row.trial
    return {
        "method": row.name,
        "kind": trial.entrant.kind,
        "budget": trial.budget,
        "settings": {**trial.settings, "steps": trial.steps, "reflections": trial.plan.reflection.num_reflections},
        "chosen": trial.said(),
        "tries": row.tries,
        "evaluations": trial.evaluations,
        "rows": trial.rows,
        "score": _ends(row.mean),
        "minus_plain": _ends(row.minus(plain.scores)),
        "minus_zero_gap": _ends(row.minus(row.control)),
        "zero_gap": None if row.control is None else _ends(_mean(row.control)),
        "motion": _ends(_mean(row.motion)),
        "unguided": trial.unguided,
        "front": leading,
        "front_unguided": leading_unguided,
    }


def _ends(found: Interval | None) -> dict[str, float | None] | None:
    return None if found is None else vars(found)


def _text(found: Mapping[str, float | None] | None, digits: int = 3, *, signed: bool = False) -> str:
    if found is None or found["value"] is None:
        return "-"
    return Interval(found["value"], found["low"], found["high"]).text(digits, signed=signed)


def cells(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Returns the cells of the table; a method on the front has a star, on that of the unguided ones a +."""
    return [
        (
            f"{row['method']}{' *' * row['front']}{' +' * row['front_unguided']}",
            row["chosen"],
            str(row["evaluations"]),
            str(row["rows"]),
            _text(row["score"]),
            _text(row["minus_plain"], signed=True),
            _text(row["minus_zero_gap"], signed=True),
            _text(row["motion"], 1),
        )
        for row in found["rows"]
    ]


def arena_text(found: Mapping[str, Any]) -> str:
    """Returns the table and the sentences."""
    table = [HEAD, *cells(found)]
    widths = [max(len(line[k]) for line in table) for k in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    return "\n".join([*lines, "", *notes_of(found), "", *found["sentences"]])


def notes_of(found: Mapping[str, Any]) -> list[str]:
    """Returns how the table was made, and what is not in it."""
    return [
        f"{found['scorer']}: {found['about']}; {found['settings_tried']} settings tried on {found['tuned_on']} "
        f"{found['noun']}s each, the best of each method and budget scored on {found['scored_on']} of other seeds",
        "*: none of no more rows scores above it; +: none of those that are not guided by the prompt",
        *(f"without {name}: {why}" for name, why in found["missing"].items()),
    ]


def write(found: Mapping[str, Any], folder: Path) -> None:
    """Writes arena.json, arena.png and index.html."""
    write_bytes(folder / "arena.json", (json.dumps(found, indent=1) + "\n").encode())
    picture = "arena.png" if figures.available() else None
    if picture:
        figures.save(draw(found), folder / picture)
    page = render(
        "arena.html",
        package="w2sd_video.report",
        head=HEAD,
        rows=cells(found),
        picture=picture,
        missing=figures.NOT_DRAWN,
        notes=notes_of(found),
        sentences=found["sentences"],
        command=found["command"],
    )
    write_bytes(folder / "index.html", page.encode())


LOOKS = {
    PLAIN: ("#0072b2", "o"), GUIDANCE: ("#7cbf9e", "^"), REFLECTED: ("#d55e00", "s"), ASKING: (figures.GREY, "x")
}  # fmt: skip


@figures.style()
def draw(found: Mapping[str, Any]) -> Any:
    """The scores with their intervals, the motion of videos beside them: over rows, or by name at one budget."""
    videos, one = found["noun"] == "video", len({row["budget"] for row in found["rows"]}) == 1
    shown = sorted(found["rows"], key=lambda row: row["score"]["value"]) if one else found["rows"]
    names = list(dict.fromkeys(row["method"] for row in shown))
    size = ((5.6, 1.2 + 0.24 * len(names)) if one else (6.2, 4.6)) if not videos else (4.2, 4.6)
    figure, (panels,) = figures.subplots(1, 1 + videos, size=size)
    score = str(found["scorer"]).rpartition("/")[2]
    for axes, what, label in zip(panels, ("score", "motion"), (score, "motion"), strict=False):
        spread = max(row["rows"] for row in shown) / 150
        for row in shown:
            colour, marker = LOOKS[row["kind"]]
            look: dict[str, Any] = {"color": colour, "marker": marker, "linewidth": 1, "capsize": 2, "markersize": 4}
            value, ends, number = row[what]["value"], (row[what]["low"], row[what]["high"]), names.index(row["method"])
            error = None if None in ends else [[value - ends[0]], [ends[1] - value]]
            if one:
                axes.errorbar(value, number, xerr=error, **look)
                continue
            place = row["rows"] + spread * (number - len(names) / 2)  # side by side
            axes.errorbar(place, value, yerr=error, **look)
            axes.annotate(str(number + 1), (place, value), xytext=(2, 3), fontsize=7, textcoords="offset points")
        rows = f"rows of the networks, a {found['noun']}"
        if one:
            axes.set(xlabel=f"{label}, at {shown[0]['budget']} {rows}")
            axes.set_yticks(range(len(names)), names if axes is panels[0] else [""] * len(names))
        else:
            axes.set(xlabel=rows, ylabel=label)
    if one:
        return figure
    kinds = {row["method"]: row["kind"] for row in shown}
    handles = [
        panels[0].plot([], [], color=LOOKS[kinds[name]][0], marker=LOOKS[kinds[name]][1], linestyle="none",
                       label=f"{number} {name}")[0]
        for number, name in enumerate(names, start=1)
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8)
    return figure


__all__ = ["KINDS", "Row", "arena_text", "compared", "draw", "front", "report", "sentence", "write"]
