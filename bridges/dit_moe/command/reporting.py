"""What a plan will do and what a run came to: as JSON data for programs, as text for people (imports no torch)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bridges.dit_moe.command.request import SamplePlan

if TYPE_CHECKING:
    from bridges.dit_moe.command.running import Outcome


def describe_sample_plan(plan: SamplePlan) -> dict[str, Any]:
    """Returns what a plan will do as JSON data: methods with their cost per picture, totals and places."""
    files = ["run.json", "results.jsonl", "index.html", *(f"grid-{method}.png" for method in plan.methods)]
    files += ["expert_load.png", "expert_load.npz"] * plan.expert_load
    stems = [task.path for group in plan.groups()[:1] for task in group]
    return {
        "status": "planned",
        "folder": str(plan.output),
        "pair": plan.pair_record(),
        "settings": plan.settings(),
        "device": plan.device,
        "dtype": plan.dtype,
        "batch": plan.batch,
        "methods": {method: {"evaluations": plan.evaluations(method)} for method in plan.methods},
        "classes": len(plan.labels),
        "pictures": plan.num_images * len(plan.methods),
        "evaluations": plan.num_images * sum(map(plan.evaluations, plan.methods)),
        "files": [*files, *stems],
    }


def sample_plan_text(report: dict[str, Any]) -> str:
    """Returns a plan as text for people."""
    settings, pair = report["settings"], report["pair"]
    return "\n".join(
        [
            f"{report['pictures']} pictures of {report['classes']} classes into {report['folder']}",
            f"on {report['device']}, {report['dtype']}, in batches of {report['batch']}",
            f"network: {pair['strong']}, {settings['width']}x{settings['height']}",
            f"strong: {pair['strong_experts']}, guidance {settings['guidance']:g}",
            f"weak:   {pair['weak_experts']}, guidance {settings['weak_guidance']:g}",
            f"{settings['steps']} steps, {settings['reflections']} reflections, mode {settings['mode']}, "
            f"strength {settings['strength']:g}",
            "",
            f"{'method':10s} {'evaluations':>12s}   per picture",
            *(f"{name:10s} {cost['evaluations']:12d}" for name, cost in report["methods"].items()),
            f"{'in all':10s} {report['evaluations']:12d}",
            "",
            "files, and so on for the other pictures:",
            *(f"  {file}" for file in report["files"]),
        ]
    )


def describe_outcome(outcome: Outcome) -> dict[str, Any]:
    """Returns what a run came to as JSON data: counts, not a line per picture, which results.jsonl has."""
    summary = outcome.summary
    methods = {}
    for method in summary.plan.record["methods"]:
        records = [record for record in summary.made if record["method"] == method]
        if records:
            seconds = sum(record["seconds"] for record in records) / len(records)
            cost = {"evaluations": records[0]["num_evaluations"], "seconds": round(seconds, 3)}
            methods[method] = {"made": len(records), **cost}
    return {
        "status": "done" if summary.complete else "failed",
        "folder": str(summary.folder),
        "page": str(summary.folder / "index.html"),
        "results": str(summary.folder / "results.jsonl"),
        "written": outcome.written,
        "pictures": summary.total,
        "kept": summary.kept,
        "made": len(summary.made),
        "methods": methods,
        "failed": summary.failed,
        "processes": outcome.worker.count,
        "seconds": round(summary.seconds, 3),
    }
