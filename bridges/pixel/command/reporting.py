"""What a plan will do: as JSON data for programs, as text for people (imports no torch)."""

from __future__ import annotations

from typing import Any

from bridges.pixel.command.presets import BRIDGE_PRESETS
from bridges.pixel.command.request import BridgePlan


def describe_bridge_plan(plan: BridgePlan) -> dict[str, Any]:
    """Returns what a plan will do as JSON data: methods with their cost per picture, totals and files."""
    tasks = [task for group in plan.groups() for task in group]
    files = [task.path for task in tasks]
    if len(plan.methods) > 1:
        files += [f"comparison/{group[0].name}{plan.suffix}" for group in plan.groups()]
    return {
        "status": "planned",
        "folder": str(plan.output),
        "preset": plan.preset,
        "pair": plan.pair_record(),
        "settings": plan.settings(),
        "device": plan.device,
        "dtype": plan.dtype,
        "memory": plan.memory,
        "methods": {m: {"evaluations": plan.evaluations(m), "vae_calls": plan.vae_calls(m)} for m in plan.methods},
        f"{plan.noun}s": len(tasks),
        "prompts": len(plan.prompts),
        "evaluations": sum(plan.evaluations(task.method) for task in tasks),
        "vae_calls": sum(plan.vae_calls(task.method) for task in tasks),
        "files": ["run.json", "results.jsonl", "index.html", *files],
        **({"paper": BRIDGE_PRESETS[plan.preset].paper} if BRIDGE_PRESETS[plan.preset].paper else {}),
    }


def bridge_plan_text(report: dict[str, Any], most_files: int = 20) -> str:
    """Returns a plan as text for people."""
    settings = report["settings"]
    noun = "videos" if "videos" in report else "pictures"
    frames = f"{settings['num_frames']} frames at {settings['fps']:g} fps of " if noun == "videos" else ""
    lines = [
        f"{report[noun]} {noun} of {report['prompts']} prompts into {report['folder']}",
        f"on {report['device']}, {report['dtype']}, memory plan {report['memory']}",
        f"strong: {report['pair']['strong']}, {frames}{settings['width']}x{settings['height']}",
        f"weak:   {report['pair']['weak']}, {settings['weak_width']}x{settings['weak_height']}",
        f"{settings['steps']} steps, {settings['reflections']} reflections, strength {settings['strength']:g}",
        f"guidance: {_scale(settings['guidance'])} strong, {_scale(settings['weak_guidance'])} weak"
        + (f", true guidance {settings['true_cfg']:g} strong" if settings["true_cfg"] else ""),
        f"{settings['codec']} VAEs, noise map {settings['noise_map']}",
        "",
        f"{'method':10s} {'evaluations':>12s} {'VAE calls':>10s}   per {noun[:-1]}, at most",
        *(f"{name:10s} {cost['evaluations']:12d} {cost['vae_calls']:10d}" for name, cost in report["methods"].items()),
        f"{'in all':10s} {report['evaluations']:12d} {report['vae_calls']:10d}",
        "",
        *([f"the paper: {report['paper']}", ""] if "paper" in report else []),
        f"files, {len(report['files'])} in all:",
        *(f"  {file}" for file in report["files"][:most_files]),
    ]
    if len(report["files"]) > most_files:
        lines.append(f"  ... and {len(report['files']) - most_files} more")
    return "\n".join(lines)


def _scale(guidance: float | None) -> str:
    return "the pipeline's own" if guidance is None else f"{guidance:g}"
