"""What a plan will do and what a run came to: as JSON data for programs, as text for people (imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from w2sd_video.commands.method_settings import REFINEMENTS
from w2sd_video.commands.planning import specification_of
from w2sd_video.commands.request import Plan
from w2sd_video.commands.rewards import reward_record

if TYPE_CHECKING:
    from w2sd_video.loading.memory import MemoryEstimate
    from w2sd_video.runs.runs import Summary


def describe_plan(done: Plan) -> dict[str, Any]:
    """Returns what a plan will do as JSON data: methods with their cost per video, totals, memory and files."""
    tasks = done.tasks()
    memory = _memory(done)
    files = [task.path for task in tasks]
    if len(done.methods) > 1:
        files += [f"comparison/{group[0].name}.mp4" for group in done.groups()]
    return {
        "status": "planned",
        "folder": str(done.output),
        "preset": done.preset,
        "pair": done.pair_record(),
        "settings": done.settings(),
        **reward_record(done.reward),
        "device": done.device,
        "dtype": done.dtype,
        "methods": method_costs(done),
        "videos": len(tasks),
        "prompts": len(done.prompts),
        "evaluations": sum(done.evaluations(task.method) for task in tasks),
        "rows": sum(done.rows(task.method) for task in tasks),
        "memory_mb": {
            "weights": round(memory.networks / 2**20),
            "sampling": round(memory.sample_peak / 2**20),
            "decoding": round(memory.decode_peak / 2**20),
            "peak": round(memory.peak / 2**20),
        },
        "files": ["run.json", "results.jsonl", "index.html", *files],
    }


def _memory(done: Plan) -> MemoryEstimate:
    from w2sd_video.loading.memory import estimate_memory

    scales = (done.guidance, done.strong_guidance, done.weak_guidance)
    return estimate_memory(
        specification_of(done),
        dtype=done.dtype,
        height=done.height,
        width=done.width,
        num_frames=done.num_frames,
        rows=1 if all(scale in (0, 1) for scale in scales) else 2,
        memory=done.offload,
    )


def plan_text(report: dict[str, Any], most_files: int = 20) -> str:
    """Returns a plan as text for people."""
    settings, memory = report["settings"], report["memory_mb"]
    lines = [
        f"{report['videos']} videos of {report['prompts']} prompts into {report['folder']}",
        f"on {report['device']}, {report['dtype']}",
        f"strong: {report['pair']['strong']}",
        f"weak:   {report['pair']['weak']}",
        f"{settings['num_frames']} frames of {settings['width']}x{settings['height']} at {settings['fps']:g} fps",
        f"{settings['steps']} steps, {settings['reflections']} reflections, mode {settings['mode']}, "
        f"strength {settings['strength']:g}",
        *([f"scheduler: {settings['scheduler']}"] if "scheduler" in settings else []),
        *plain_steps_line(settings),
        f"guidance: {settings['guidance']:g} sampling; inside the reflection {settings['strong_guidance']:g} strong, "
        f"{settings['weak_guidance']:g} weak",
        *refinement_lines(report),
        "",
        *cost_lines(report, "video"),
        "",
        f"memory, estimated: {memory['peak']} MB at the peak (weights {memory['weights']}, "
        f"sampling {memory['sampling']}, decoding {memory['decoding']})",
        f"files, {len(report['files'])} in all:",
        *(f"  {file}" for file in report["files"][:most_files]),
    ]
    if len(report["files"]) > most_files:
        lines.append(f"  ... and {len(report['files']) - most_files} more")
    return "\n".join(lines)


def plain_steps_line(settings: dict[str, Any]) -> list[str]:
    """Returns what a plan's text says of steps that methods without reflections make more of; nothing where none."""
    plain = settings.get("plain_steps")
    return [] if plain is None else [f"matched cost: {plain} steps without reflections"]


class CostedPlan(Protocol):
    """A plan that knows what its methods cost."""

    @property
    def methods(self) -> tuple[str, ...]: ...
    def evaluations(self, method: str) -> int: ...
    def rows(self, method: str) -> int: ...
    def at_most(self, method: str) -> bool: ...


def method_costs(plan: CostedPlan) -> dict[str, dict[str, Any]]:
    """Returns what one video or picture costs by each method as JSON data; "at_most" where it may be less."""
    return {
        method: {
            "evaluations": plan.evaluations(method),
            "rows": plan.rows(method),
            **({"at_most": True} if plan.at_most(method) else {}),
        }
        for method in plan.methods
    }


def cost_lines(report: Mapping[str, Any], noun: str) -> list[str]:
    """Returns a plan's table of costs."""
    costs = report["methods"]
    rows = [
        ("method", "evaluations", "network rows", f"per {noun}"),
        *((m, c["evaluations"], c["rows"], "at most" if "at_most" in c else "") for m, c in costs.items()),
        ("in all", report["evaluations"], report["rows"], ""),
    ]
    width = max(len(row[0]) for row in rows)
    return [f"{name:{width}s} {count!s:>12s} {share!s:>13s}   {said}".rstrip() for name, count, share, said in rows]


def refinement_lines(report: Mapping[str, Any]) -> list[str]:
    """Returns what a plan's text says of settings beyond the paper's, and of a reward; nothing where there are none."""
    changed = {name: report["settings"][name] for name in REFINEMENTS if name in report["settings"]}
    words = [
        f"{name.replace('_', '-')} {value if name != 'window' else '{}:{}'.format(*value)}"
        for name, value in changed.items()
    ]
    lines = [", ".join(words).replace("lag True", "lag")] if words else []
    if "reward" in report:
        reward = report["reward"]
        frames = f", at most {reward['frames']} frames" if "frames" in reward else ""
        lines.append(f"reward: {reward['name']}, threshold {reward['threshold']:g}{frames}")
    return lines


def describe_summary(summary: Summary) -> dict[str, Any]:
    """Returns what a run came to as JSON data."""
    return {
        "status": "done" if summary.complete else "failed",
        "folder": str(summary.folder),
        "page": str(summary.folder / "index.html"),
        "results": str(summary.folder / "results.jsonl"),
        f"{summary.plan.medium.noun}s": summary.total,
        "kept": summary.kept,
        "made": summary.made,
        "failed": summary.failed,
        "seconds": round(summary.seconds, 3),
    }


def summary_text(summary: Summary, *, quiet: bool = False) -> str:
    """Returns what a run came to as text for people; with `quiet` the page's path only."""
    page = summary.folder / "index.html"
    if quiet:
        return str(page)
    made, noun, lines = summary.made, summary.plan.medium.noun, []
    done = dict.fromkeys(record["method"] for record in made)
    width = max((len(summary.plan.methods[method].title) for method in done), default=0)
    for method in done:
        records = [record for record in made if record["method"] == method]
        seconds = sum(record["seconds"] for record in records) / len(records)
        title = summary.plan.methods[method].title
        lines.append(f"  {title:{width}s} {records[0]['num_evaluations']:5d} evaluations, {seconds:.3g} s per {noun}")
    kept = f", {summary.kept} were there already" if summary.kept else ""
    failed = f", {len(summary.failed)} FAILED (results.jsonl says why)" if summary.failed else ""
    head = f"{len(made)} {noun}{'s' * (len(made) != 1)} made in {summary.seconds:.1f} s{kept}{failed}"
    return "\n".join([head, *lines, f"look at them: {page}"])
