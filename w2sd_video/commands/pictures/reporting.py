"""What a plan of pictures will do: as JSON data for programs, as text for people (imports no torch)."""

from __future__ import annotations

from typing import Any

from w2sd_video.commands.pictures.request import ImagePlan
from w2sd_video.commands.reports import cost_lines, method_costs, plain_steps_line, refinement_lines
from w2sd_video.commands.rewards import reward_record
from w2sd_video.presets import get_preset

PARTS = (
    "motion_adapter",
    "loras",
    "controlnet",
    "control_image",
    "control",
    "ip_adapter",
    "ip_adapter_image",
    "ip_adapter_scale",
)


def describe_image_plan(plan: ImagePlan) -> dict[str, Any]:
    """Returns what a plan will do as JSON data: methods with their cost, totals, files, the paper's numbers."""
    tasks = [task for group in plan.groups() for task in group]
    files = [task.path for task in tasks]
    if len(plan.methods) > 1:
        files += [f"comparison/{group[0].name}{plan.suffix}" for group in plan.groups()]
    paper = [line for table in get_preset(plan.preset).paper for line in table.lines()]
    return {
        "status": "planned",
        "folder": str(plan.output),
        "preset": plan.preset,
        "pair": plan.pair_record(),
        "settings": plan.settings(),
        **reward_record(plan.reward),
        "device": plan.device,
        "dtype": plan.dtype,
        "memory": plan.memory,
        "methods": method_costs(plan),
        f"{plan.noun}s": len(tasks),
        "prompts": len(plan.prompts),
        "evaluations": sum(plan.evaluations(task.method) for task in tasks),
        "rows": sum(plan.rows(task.method) for task in tasks),
        "files": ["run.json", "results.jsonl", "index.html", *files],
        **({"paper": paper} if paper and plan.pair.name == plan.preset else {}),
    }


def image_plan_text(report: dict[str, Any], most_files: int = 20) -> str:
    """Returns a plan as text for people."""
    settings, pair = report["settings"], report["pair"]
    noun = "videos" if "videos" in report else "pictures"
    frames = f"{settings['num_frames']} frames at {settings['fps']:g} fps of " if noun == "videos" else ""
    lines = [
        f"{report[noun]} {noun} of {report['prompts']} prompts into {report['folder']}",
        f"on {report['device']}, {report['dtype']}, memory plan {report['memory']}",
        f"strong: {pair['strong']}, {frames}{settings['width']}x{settings['height']}",
        f"weak:   {pair['weak'] or 'the same network'}",
        *(f"{name.replace('_', ' ')}: {pair[name]}" for name in PARTS if name in pair),
        *([f"{len(pair['raw_prompts'])} raw prompts on the weak side"] if "raw_prompts" in pair else []),
        f"{settings['steps']} steps, {settings['reflections']} reflections, mode {settings['mode']}, "
        f"strength {settings['strength']:g}, scheduler {settings['scheduler'] or 'its own'}",
        *plain_steps_line(settings),
        f"guidance: {settings['guidance']:g} sampling; inside the reflection {settings['strong_guidance']:g} strong, "
        f"{settings['weak_guidance']:g} weak",
        *refinement_lines(report),
        "",
        *cost_lines(report, noun[:-1]),
        "",
        *(["the paper:", *report["paper"], ""] if "paper" in report else []),
        f"files, {len(report['files'])} in all:",
        *(f"  {file}" for file in report["files"][:most_files]),
    ]
    if len(report["files"]) > most_files:
        lines.append(f"  ... and {len(report['files']) - most_files} more")
    return "\n".join(lines)
