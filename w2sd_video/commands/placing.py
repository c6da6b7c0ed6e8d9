"""`--gap-every auto`: the steps at which a run measures its cached gaps, placed once, before it makes anything.

A schedule found on the way would depend on what is sampled together. So it is found on the run's first prompts and
kept in run.json: every process and every later start of the run goes by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from w2sd_video.commands.families.base import Family, Loading, Maker
from w2sd_video.commands.method_settings import config_of, users_of
from w2sd_video.commands.plan import Plan
from w2sd_video.core.options import AUTO, ReflectionConfig
from w2sd_video.errors import UserError
from w2sd_video.report.page import counted
from w2sd_video.runs.runs import NotMadeError
from w2sd_video.runs.tasks import Task

SAMPLES = 2  # that are reflected by fresh gaps in every step
FACT = "gap_steps"  # of run.json


def to_place(plan: Plan, methods: Sequence[str] | set[str]) -> bool:
    """Whether any of these methods moves by cached gaps whose steps are to be found."""
    return plan.reflection.gap_every == AUTO and bool({*methods} & {*users_of("gap_every")})


def _no_choice(plan: Plan) -> bool:
    """Whether few reflections leave but one place: the step before the first, or all there are."""
    config = _config(plan)
    return len(config.gap_steps(plan.steps)) in (1, len(config.steps(plan.steps)))


def placing_notes(plan: Plan) -> list[str]:
    """What a plan says of it: the measurements that there will be, and what finding their places costs."""
    if not to_place(plan, plan.methods) or _no_choice(plan):
        return []
    first, count = counted(len(_first_tasks(plan)), plan.noun), len(_config(plan).gap_steps(plan.steps))
    return [
        f"gap-every auto: {first} more of {_watched(plan).evaluations(plan.steps)} evaluations each, sampled first, "
        f"tell where to measure the gap {counted(count, 'time')}; run.json keeps the steps"
    ]


def load_placed(family: Family, plan: Plan, loading: Loading, agree: Callable[[str, Any], Any]) -> Maker:
    """The maker of a plan, with the steps of its cached gaps in place of "auto".

    Args:
        agree: (name, value) to the value that all processes of the run go by (`Journal.agree`).

    Raises:
        UserError: as `family.load`; or the first samples cannot be made.
    """
    if not to_place(plan, loading.methods):
        return family.load(plan, loading)
    known = _config(plan).gap_steps(plan.steps) if _no_choice(plan) else loading.record.get(FACT)
    if known is not None:
        return family.load(_with(plan, gap_every=tuple(known)), loading)
    from w2sd_video.core.placing import GapTurns

    tasks = _first_tasks(plan)
    watched = replace(plan, reflection=_watched(plan))
    maker: Any = family.load(watched, replace(loading, pending=[*tasks, *loading.pending]))
    if not hasattr(maker, "watch"):
        raise UserError(f"--gap-every auto: the {family.name} family cannot be watched; give K, or steps such as 0,1,3")
    loading.say("gap-every auto: sampling to place the measurements of the gap")
    maker.watch = turns = GapTurns()
    for task in tasks:
        (made,) = maker.make([task], lambda done, total: None)
        if isinstance(made, NotMadeError):
            raise UserError(f"--gap-every auto: {task.name} could not be sampled to place the gap: {made}")
    steps = tuple(agree(FACT, list(turns.steps(_config(plan), plan.steps))))
    loading.note(f"gap-every auto: the gap is measured at the steps {', '.join(map(str, steps))}, counted from 0")
    maker.watch, maker.plan = None, _with(plan, gap_every=steps)
    return maker


def _config(plan: Plan) -> ReflectionConfig:
    return config_of("w2sd", plan.reflection)


def _with(plan: Plan, **changes: Any) -> Plan:
    return replace(plan, reflection=replace(plan.reflection, **changes))


def _watched(plan: Plan) -> ReflectionConfig:
    return _config(plan).with_fresh_gaps(plan.steps)


def _first_tasks(plan: Plan) -> list[Task]:
    """One of each of the first prompts, or more of these where they are too few."""
    count = math.ceil(SAMPLES / len(plan.prompts))
    groups = replace(plan, methods=("w2sd",), num=min(plan.num, count)).groups()
    return [task for place in range(min(SAMPLES, len(groups))) for task in groups[place]]
