"""What a bridged run would refuse before its first evaluation, refused with its plan; nothing is loaded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from bridges.pixel.mapped import Mapped
from bridges.pixel.side import count_unknown, skipped
from w2sd_video.commands.method_settings import config_of, crossing_steps
from w2sd_video.commands.plan import Plan
from w2sd_video.commands.rehearsing import rehearse_networks
from w2sd_video.demo.bundled import is_bundled
from w2sd_video.hosting.cross_latent import LevelTable
from w2sd_video.latents.schedules import training_levels
from w2sd_video.latents.spaces import compare_spaces
from w2sd_video.loading.describe import Description, describe_motion_adapter
from w2sd_video.loading.pair_description import PairDescription
from w2sd_video.loading.rehearsal import check_schedule, scheduler_of


def rehearse(plan: Plan, found: dict[str, Description]) -> list[str]:
    """Returns what a user should know of a plan whose sides' files are `found`.

    Raises:
        UserError: what cannot be loaded or reflected.
    """
    for role, files in found.items():
        motion = plan.part("motion_adapter") if role == "strong" and plan.num_frames is not None else None
        adapter = describe_motion_adapter(motion, allow_pickle=plan.allow_pickle) if motion else None
        if files.configs is not None and (not is_bundled(plan.side(role).checkpoint) or plan.lora_sources):
            rehearse_networks(plan, PairDescription(files, None, adapter))
    said: list[str] = []
    for method, own, other in (
        ("w2sd", "strong", "weak"),
        ("zero-gap", "strong", "strong"),
        ("swapped", "weak", "strong"),
    ):
        if method in plan.methods:
            said += _levels(plan, found, own, other)
    return list(dict.fromkeys(said))


def _levels(plan: Plan, found: dict[str, Description], own: str, other: str) -> list[str]:
    """Checks the levels that a side samples on, and whether the other one knows them."""
    ours, theirs = (_scheduler(plan, found[role], role) for role in (own, other))
    options = config_of("w2sd", plan.reflection)
    schedule = check_schedule(ours, plan.steps, [("w2sd", options)])
    if schedule is None or theirs is None or own == other or _one_space(plan, found):
        return []
    table = LevelTable(training_levels(theirs)[0], int(theirs.config.num_train_timesteps))
    window = [schedule.levels[i] for i in crossing_steps(plan.reflection, schedule.num_steps)]
    known = _scale(plan, found, swapped=own == "weak")
    exact = known is not None and not ours.config.get("use_dynamic_shifting", False)
    if not exact and not all(math.isinf(level.kappa) for level in window):
        return []  # known when the map is fitted, or the pipeline has chosen its shift
    unknown = count_unknown(window, table, known or 1.0)
    return [skipped(unknown, len(window), table)] if unknown and exact else []


def _scheduler(plan: Plan, files: Description, role: str) -> Any:
    name = plan.scheduler if role == "strong" else None
    moving = role == "strong" and plan.part("motion_adapter") is not None
    return scheduler_of(files, name, role, moving=moving)


def _one_space(plan: Plan, found: dict[str, Description]) -> bool:
    relation = compare_spaces(found["strong"].space, found["weak"].space).name
    return not plan.own.force_bridge and relation in ("share", "undecided")


def _scale(plan: Plan, found: dict[str, Description], *, swapped: bool) -> float | None:
    """How a noise map scales levels, 1 for one that measures it; None where it is not known before it is fitted."""
    named, preset, own = plan.own.noise_map, plan.own.preset_map, plan.own
    if named in ("identity", "fresh", "fixed"):
        return 1.0
    if named == "paired":
        cells = found["strong"].cell, found["weak"].cell
        if cells[0] is None or cells[1] is None:
            return None
        scale = cells[0] / cells[1] * math.sqrt(own.weak_height * own.weak_width / (plan.height * plan.width))
        return 1 / scale if swapped else scale
    path = preset if named == "auto" else Path(named)
    if path is None or not path.is_file():
        return None
    fitted = Mapped.load(path)
    return (fitted.reversed() if swapped else fitted).scale
