"""A diagnosis, of files and of what was measured, as text for people and as JSON data (imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from w2sd_video.demo.bundled import is_bundled
from w2sd_video.diagnosis.next_steps import NextStep
from w2sd_video.diagnosis.verdicts import VERDICTS, Verdict

if TYPE_CHECKING:
    from w2sd_video.diagnosis.judging import Recommendation, Thresholds
    from w2sd_video.diagnosis.measuring import Array, Measured

WIDTH = 118
MOST = 44  # characters of a value in the table
COLUMNS = ("move", "error", "gap", "clean_gap", "cosine")
MEANS = {
    "over-similarity": "the sides answer so alike that a reflection has next to nothing to follow (Figure 23): give a "
    "weaker weak side, or a larger gap",
    "conflict": "the sides differ as much as samples themselves do, or reflections throw samples out of range "
    "(Figure 22): they were not made for the same thing; give a weak side that is a worse version of the strong one",
}
TOY = "a bundled toy, small networks that come with the code: its numbers say nothing of a model of yours"


def describe_files(verdict: Verdict, strong: str, weak: str | None, step: NextStep | None) -> dict[str, Any]:
    """Returns what the files told, as JSON data."""
    return {
        "strong": strong,
        "weak": weak,
        "verdict": verdict.name,
        "means": VERDICTS[verdict.name],
        "reason": verdict.reason,
        "compared": [
            {"what": row.name, "strong": row.strong, "weak": row.weak, "relation": row.relation} for row in verdict.rows
        ],
        "remarks": [*([TOY] if is_bundled(strong) or is_bundled(weak) else []), *verdict.remarks],
        "weights_apart": verdict.distance,
        "next": describe_step(step),
    }


def describe_step(step: NextStep | None) -> dict[str, Any] | None:
    """Returns a command as JSON data."""
    return None if step is None else {"command": step.line, "problem": step.problem}


def files_text(report: Mapping[str, Any]) -> str:
    """Returns what the files told: the verdict, the reason, the table, remarks."""
    lines = [f"strong  {report['strong']}", f"weak    {report['weak'] or 'the same network'}", ""]
    if report["compared"]:
        alone = report["weak"] is None
        heads = ("from files", "both sides") if alone else ("from files", "strong", "weak", "")
        keys = ("what", "strong") if alone else ("what", "strong", "weak", "relation")
        lines += [*table([heads, *([row[key] for key in keys] for row in report["compared"])]), ""]
    lines += paragraph(f"verdict: {report['verdict'].upper()} - {report['means']}")
    lines += paragraph(report["reason"], "  ")
    for remark in report["remarks"]:
        lines += paragraph(f"- {remark}", "  ")
    return "\n".join(lines)


def next_text(step: Mapping[str, Any] | None) -> str:
    """Returns the command to run, and what it still needs."""
    if step is None:
        return ""
    lines = ["next:", f"  {step['command']}"]
    if step["problem"]:
        lines += paragraph(f"  which needs: {step['problem']}", "  ")
    return "\n".join(lines)


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """Returns rows of cells as lines; the first is the heading, columns in `right` are set to the right."""
    short = [[cell if len(cell) <= MOST else cell[: MOST - 1] + "~" for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in short) for column in range(len(short[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in short
    ]
    return [lines[0], "-" * max(len(line) for line in lines), *lines[1:]]


def paragraph(text: str, indent: str = "") -> list[str]:
    """Returns the text as lines that fit the terminal."""
    return wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_long_words=False) or [""]


def describe_measured(
    measured: Measured,
    failing: Sequence[str],
    limits: Thresholds,
    calibration: Mapping[str, Any],
    advice: Recommendation,
    asked: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the numbers by level and over all, mean and standard deviation over samples, as JSON data."""
    levels = []
    for i, level in enumerate(measured.levels):
        found = {name: _spread(getattr(measured, name)[:, i]) for name in COLUMNS}
        ratio = None
        if found["error"] and found["move"] and found["error"]["mean"] > 0:
            ratio = _short(found["move"]["mean"] / found["error"]["mean"])
        levels.append(
            {"step": i, "timestep": level.timestep, "noise_to_signal": _short(level.kappa), **found, "ratio": ratio}
        )
    return {
        **asked,
        "levels": levels,
        "over_all": {
            "clean_gap": _spread(measured.clean_gap.mean(1)),
            "gap": _spread(measured.gap.mean(1)),
            "cosine": _spread(measured.cosine[:, 1:].mean(1)),
            "move_over_error": _spread(measured.move.sum(1) / measured.error.sum(1)),
            "displacement": _spread(measured.displacement),
            "zero_gap_drift": _spread(measured.drift),
            "growth": _spread(measured.growth),
        },
        "failure_modes": {name: {"found": name in failing, "means": means} for name, means in MEANS.items()},
        "thresholds": {
            "too_similar_below": limits.similar_below,
            "conflict_above": limits.gap_above,
            "conflict_growth_above": limits.growth_above,
        },
        "rates": calibration["rates"],
        "recommendation": {
            "flags": list(advice.flags),
            "steps": advice.steps,
            "reflections": advice.reflections,
            "mode": advice.mode,
            "strength": advice.strength,
            "why": list(advice.why),
        },
    }


def measured_text(report: Mapping[str, Any]) -> str:
    """Returns the table by level, what is wrong if anything, and the setting."""
    rows = [["step", "timestep", "move", "inversion error", "ratio", "gap/prediction", "clean gap", "cosine"]]
    for level in report["levels"]:
        cells = [_words(level[name]) for name in COLUMNS]
        ratio = "" if level["ratio"] is None else f"{level['ratio']:.2g}"
        rows.append([str(level["step"]), f"{level['timestep']:g}", *cells[:2], ratio, *cells[2:]])
    lines = [
        f"measured: {report['samples']} samples ({report['prompts']} prompts), {report['steps']} steps; mean +- sd",
        "",
    ]
    lines += table(rows, right=range(8))
    over = report["over_all"]
    lines += ["", *_over_all(over)]
    limits = report["thresholds"]
    gap, growth = over["clean_gap"]["mean"], over["growth"]["mean"]
    lines.append("")
    for name, failing in report["failure_modes"].items():
        told = f"clean gap {gap:.3g}, alarm below {limits['too_similar_below']:g}"
        if name == "conflict":
            told = (
                f"clean gap {gap:.3g}, alarm above {limits['conflict_above']:g}; growth {growth:.3g}, alarm above "
                f"{limits['conflict_growth_above']:g}"
            )
        lines += paragraph(f"{name}: {'YES' if failing['found'] else 'no'} ({told})")
        lines += paragraph(failing["means"], "  ") if failing["found"] else []
        lines += paragraph(f"this alarm: {_rates(report['rates'], name)}", "  ")
    lines += paragraph(
        f"not told by any gap: which side is the better one{_opposed(report['rates'])}; --methods "
        "strong,w2sd,zero-gap,swapped shows it"
    )
    advice = report["recommendation"]
    lines += ["", f"recommended: {' '.join(advice['flags'])}"]
    for why in advice["why"]:
        lines += paragraph(f"- {why}", "  ")
    return "\n".join(lines)


def _over_all(over: Mapping[str, Any]) -> list[str]:
    clean, gap, cosine = (_words(over[name]) for name in ("clean_gap", "gap", "cosine"))
    told = [
        f"over all levels: clean gap {clean} of a sample's size, {gap} of the prediction; cosine {cosine}",
        f"final latents: {_words(over['displacement'])} of their size away from the strong side's, and "
        f"{_words(over['growth'])} times their size",
    ]
    if over["move_over_error"] is not None:
        told.append(
            f"zero-gap control (Algorithm 1, no gap): final latents {_words(over['zero_gap_drift'])} away; moves over "
            f"inversion errors, all levels, {_words(over['move_over_error'])}"
        )
    return [part for line in told for part in paragraph(line)]


def _rates(rates: Mapping[str, Any], name: str) -> str:
    told = []
    for bed, found in rates.items():
        false, hit = found.get(f"false alarms of {name}"), found.get(f"{name} detected")
        if false and hit:
            told.append(
                f"{bed} pairs: false {false['share']:.1%} [{false['low']:.1%}, {false['high']:.1%}], detected "
                f"{hit['share']:.0%} [{hit['low']:.0%}, {hit['high']:.0%}]"
            )
    return "; ".join(told)


def _opposed(rates: Mapping[str, Any]) -> str:
    found = rates.get("analytic", {}).get("opposed biases detected")
    return "" if found is None else f" (opposed biases raise the alarm of conflict in {found['share']:.0%})"


def _spread(values: Array) -> dict[str, float] | None:
    if not np.isfinite(values).all():
        return None
    return {"mean": _short(float(values.mean())), "sd": _short(float(values.std(ddof=1)) if len(values) > 1 else 0.0)}


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def _words(found: Mapping[str, float] | None) -> str:
    return "-" if found is None else f"{found['mean']:.3g} +- {found['sd']:.1g}"
