"""`--gap-every auto`: its steps are found once, on the run's first prompts, and kept for all that is made after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from tests.support.family_programs import image_request, planned
from w2sd_video.commands.families.base import Loading
from w2sd_video.commands.placing import load_placed, placing_notes
from w2sd_video.commands.plan import Plan
from w2sd_video.errors import UserError
from w2sd_video.runs.runs import NotMadeError
from w2sd_video.runs.tasks import Task

T = 8
PROMPTS = ("a red ring", "a blue square", "a green cross")


class Stub:
    """A family and its maker: its gap turns at step 3 and at no other."""

    name = "stub"

    def __init__(self, fails: bool = False) -> None:
        self.fails, self.plans, self.made = fails, [], []  # type: ignore[var-annotated]
        self.watch: Any = None

    def load(self, plan: Plan, run: Loading) -> Stub:
        self.plan, self.run = plan, run
        self.plans.append(plan)
        return self

    def make(self, tasks: Sequence[Task], report: Any) -> list[Any]:
        self.made += [(task.method, task.prompt, task.seed) for task in tasks]
        reflection = self.plan.reflection
        for i in reflection.steps(T) if reflection.gap_every is None else ():
            x = torch.zeros(1, 2)
            self.watch(i, x, x + torch.tensor([[1.0, 0.0]] if i < 3 else [[0.0, 1.0]]))
        return [NotMadeError("not finite") if self.fails else None for _ in tasks]


def plan_of(**settings: Any) -> Plan:
    named = {"steps": T, "reflections": 5, "gap_every": "auto", "methods": ("strong", "w2sd"), "prompts": PROMPTS}
    return planned(image_request(**{**named, **settings}))


def loaded(stub: Any, plan: Plan, record: dict[str, Any], pending: Sequence[Task] | None = None) -> Any:
    tasks = [task for group in plan.groups() for task in group] if pending is None else pending
    run = Loading(tasks, note=lambda text: None, say=lambda text: None, record=record)
    return load_placed(stub, plan, run, record.setdefault)


def test_a_run_finds_its_steps_on_the_first_prompts_and_keeps_them_for_every_later_start() -> None:
    plan, record, stub = plan_of(num=2, strength=2.0, cap=0.1), {}, Stub()  # type: ignore[var-annotated]
    assert loaded(stub, plan, record) is stub
    fresh = stub.plans[0].reflection
    assert (fresh.gap_every, fresh.mode, fresh.strength, fresh.cap, fresh.num_reflections) == (
        None,
        "fused",
        2,
        None,
        5,
    )
    assert stub.made == [("w2sd", "a red ring", plan.seed), ("w2sd", "a blue square", plan.seed)], "of every shard, too"
    assert record == {"gap_steps": [0, 3]}, "two measurements, of which an old one would be wrong at step 4"
    assert stub.plan.reflection.gap_every == (0, 3) and stub.plan.reflection.cap == 0.1 and stub.watch is None
    again = Stub()
    loaded(again, plan, record)
    assert again.made == [] and again.plan == stub.plan
    first = Stub()  # another process was faster
    run = Loading([], note=lambda text: None, say=lambda text: None)
    run.pending = [task for group in plan.groups() for task in group]
    load_placed(first, plan, run, lambda name, value: [0, 1])  # type: ignore[arg-type]
    assert first.plan.reflection.gap_every == (0, 1)


def test_what_it_costs_is_said_before_and_costs_are_those_of_every_second_step() -> None:
    plan = plan_of()
    (note,) = (note for note in plan.notes if note.startswith("gap-every auto")) if plan.notes else placing_notes(plan)
    assert "2 pictures more of 18 evaluations each" in note and "measure the gap 2 times" in note
    assert "1 picture more" in placing_notes(plan_of(prompts=PROMPTS[:1]))[0]
    assert plan.settings()["gap_every"] == "auto" and plan.reflection.mode == "fused"
    assert plan.reflection.evaluations(T) == plan_of(gap_every=2).reflection.evaluations(T) == T + 2
    assert placing_notes(plan_of(gap_every=2)) == []


def test_nothing_is_sampled_where_there_is_no_choice_or_no_cached_gap_and_failures_are_said() -> None:
    for lam, steps in ((2, (0,)), (3, (0,))):
        few, record = plan_of(reflections=lam), {}  # type: ignore[var-annotated]
        assert placing_notes(few) == [] and loaded(Stub(), few, record).plan.reflection.gap_every == steps
        assert record == {}, "there is one place alone"
    stub, plan = Stub(), plan_of()
    alone = [task for group in plan.groups() for task in group if task.method == "strong"]
    loaded(stub, plan, {}, alone)
    assert stub.made == [] and stub.plan is plan
    with pytest.raises(UserError, match=r"--gap-every auto: a red ring-0 could not be sampled .*: not finite"):
        loaded(Stub(fails=True), plan, {})
    unwatched = Stub()
    del unwatched.watch
    with pytest.raises(UserError, match="the stub family cannot be watched; give K, or steps such as 0,1,3"):
        loaded(unwatched, plan, {})
